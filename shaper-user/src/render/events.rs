//! Events for people: a line each, which is wrapped where the terminal ends.

use crate::events::{Event, Record, text};
use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use std::borrow::Cow;
use std::io::{self, Write};
use textwrap::WordSplitter;

const WARNING: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
const DIM: Style = Style::new().dimmed();
/// Where the sentence begins, and its further lines.
const INDENT: usize = 16;
/// Narrower than this nothing is wrapped.
const NARROWEST: usize = 40;

/// Writes an event, its time in `zone`.
///
/// # Errors
/// When it cannot be written.
pub fn event(
    out: &mut dyn Write,
    record: &Record,
    zone: &TimeZone,
    width: Option<u16>,
) -> io::Result<()> {
    let at = record.at.to_zoned(zone.clone()).strftime("%m-%d %H:%M:%S");
    let style = match &record.event {
        event if event.is_warning() => WARNING,
        Event::Released { .. } => DIM,
        _ => Style::new(),
    };
    let sentence = text::sentence(&record.event);
    let lines = wrapped(&sentence, width);
    write!(out, "{DIM}{at}{DIM:#}  ")?;
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            write!(out, "{:INDENT$}", "")?;
        }
        writeln!(out, "{style}{line}{style:#}")?;
    }
    Ok(())
}

/// Writes that a follower was too slow.
///
/// # Errors
/// When it cannot be written.
pub fn missed(out: &mut dyn Write, missed: u64) -> io::Result<()> {
    writeln!(
        out,
        "{:INDENT$}{WARNING}{missed} events were missed here: they came too fast{WARNING:#}",
        ""
    )
}

/// The words of a text on as many lines as it takes beside the time; one that is
/// longer than a line is cut.
fn wrapped(text: &str, width: Option<u16>) -> Vec<Cow<'_, str>> {
    let room = width.map(usize::from).filter(|width| *width >= NARROWEST);
    room.map_or_else(
        || vec![text.into()],
        |width| {
            let options = textwrap::Options::new(width - INDENT);
            textwrap::wrap(text, options.word_splitter(WordSplitter::NoHyphenation))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::examples;
    use crate::testing::at;
    use unicode_width::UnicodeWidthStr as _;

    fn drawn(width: Option<u16>) -> String {
        let mut out = Vec::new();
        for (seq, event) in (1..).zip(examples()) {
            let record = Record {
                at: at(0),
                seq,
                event,
            };
            super::event(&mut out, &record, &TimeZone::UTC, width).unwrap();
        }
        missed(&mut out, 7).unwrap();
        anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string()
    }

    #[test]
    fn each_kind_of_event_in_80_columns() {
        let text = drawn(Some(80));
        for line in text.lines() {
            assert!(line.width() <= 80, "{line}");
        }
        insta::assert_snapshot!("events", text);
    }

    #[test]
    fn a_pipe_gets_a_line_for_each() {
        assert_eq!(drawn(None).lines().count(), examples().len() + 1);
    }

    #[test]
    fn words_that_are_longer_than_a_line_are_cut() {
        let text = format!("a {} b", "x".repeat(100));
        let lines = wrapped(&text, Some(56));
        let widths: Vec<_> = lines.iter().map(|line| line.width()).collect();
        assert_eq!(widths, [1, 40, 40, 22]);
        assert_eq!(wrapped("", Some(56)), [""]);
    }
}
