//! Answers for people: aligned tables, human units, colour.
//!
//! Everything is written with colours; the stream that `shaper` writes to takes
//! them away where nobody wants them.

mod events;
mod history;
pub mod quota;
mod rows;
mod servers;
pub mod spark;
mod status;
mod table;
pub mod units;

use std::borrow::Cow;

pub use events::{event, missed};
pub use history::{history, place};
pub use quota::quota;
pub use rows::{clients, flows};
pub use servers::{servers, why_none};
pub use status::status;

/// A text in lines that fit behind `indent` cells in a terminal of `width`; `None`: in
/// one. Words are never broken.
#[must_use]
pub fn wrapped(text: &str, width: Option<u16>, indent: usize) -> Vec<Cow<'_, str>> {
    let Some(width) = width else {
        return vec![text.into()];
    };
    let room = usize::from(width).saturating_sub(indent);
    let options = textwrap::Options::new(room)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options)
}

#[cfg(test)]
mod tests;
