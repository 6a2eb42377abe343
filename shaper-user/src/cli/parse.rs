//! Values of options, checked before anything is done: a mistake is wrong usage
//! and not a refusal of the daemon.

use crate::filter::Filter;
use crate::policy::{Rate, units};
use crate::runtime::parse_client;
use clap::CommandFactory;
use clap::error::ErrorKind;

/// A rate as the policy writes it, kept as it was written.
pub(super) fn rate(text: &str) -> Result<String, String> {
    text.parse::<Rate>()
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// An address or prefix. The daemon knows how long a client prefix is.
pub(super) fn client(text: &str) -> Result<String, String> {
    parse_client(text, 32, 128)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// A duration in milliseconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let duration = units::duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err("a duration of less than a millisecond would end at once".to_owned()),
        Ok(ms) => Ok(ms),
        Err(_) => Err("the duration is too long; leave it out for no end".to_owned()),
    }
}

/// The words of a filter, joined. Ends the process when they are none.
pub(super) fn filter(words: &[String]) -> String {
    let filter = words.join(" ");
    if let Err(error) = Filter::parse(&filter) {
        super::Cli::command()
            .error(ErrorKind::ValueValidation, error)
            .exit();
    }
    filter
}
