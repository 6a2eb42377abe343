//! What is wrong with a policy file, for the person who wrote it.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;

/// Bytes of a line that is worth showing.
const SNIPPET_MAX: usize = 4096;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// The line with a caret below the mistake; empty for a whole file.
    pub snippet: String,
}

/// Every mistake of a file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors {
    /// The file, as it was named.
    pub path: String,
    /// Never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for PolicyErrors {
    /// Each mistake as `path:line:column: message`, its line and a caret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let Mistake {
                line,
                column,
                message,
                snippet,
            } = mistake;
            write!(f, "{}:{line}:{column}: {message}", self.path)?;
            if !snippet.is_empty() {
                write!(f, "\n{snippet}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// Why a policy file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read the policy {}{}", path.display(), way_out(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has mistakes.
    #[error(transparent)]
    Invalid(#[from] PolicyErrors),
}

/// What to type where a policy could not be read.
fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => {
            " (a first one: `cp /usr/share/doc/shaper/examples/policy.toml /etc/shaper/`; \
             without --policy `shaper run` only observes)"
        }
        ErrorKind::PermissionDenied => " (run it by `sudo`)",
        _ => "",
    }
}

/// Mistakes as they are found, by their place in bytes.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<(Range<usize>, String)>);

impl Mistakes {
    pub(super) fn push(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.0.push((span, message.into()));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ordered by place, with lines, columns and snippets.
    pub(super) fn locate(mut self, path: &str, text: &str) -> PolicyErrors {
        self.0.sort_by_key(|(span, _)| span.start);
        let lines = Lines::new(text);
        let mistakes = self
            .0
            .into_iter()
            .map(|(span, message)| {
                let (line, column) = lines.place(span.start);
                Mistake {
                    line,
                    column,
                    message,
                    snippet: lines.snippet(line, span),
                }
            })
            .collect();
        PolicyErrors {
            path: path.to_owned(),
            mistakes,
        }
    }
}

/// Where the lines of a text begin.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(i, _)| i + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// Line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// Line and column of a byte, from 1.
    fn place(&self, at: usize) -> (usize, usize) {
        let at = floor(self.text, at);
        let line = self.line(at);
        (
            line,
            self.text[self.starts[line - 1]..at].chars().count() + 1,
        )
    }

    fn snippet(&self, line: usize, span: Range<usize>) -> String {
        let start = self.starts[line - 1];
        let rest = &self.text[start..];
        let source = rest.lines().next().unwrap_or_default();
        if source.trim().is_empty() || source.len() > SNIPPET_MAX {
            return String::new();
        }
        // Only the first line of what is wrong, so that one line is shown.
        let from = floor(source, span.start - start);
        let to = floor(source, (span.end.max(span.start) - start).min(source.len()));
        let shown = Snippet::source(source)
            .line_start(line)
            .annotation(AnnotationKind::Primary.span(from..to.max(from)));
        Renderer::plain().render(&[Group::with_level(Level::ERROR).element(shown)])
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}
