//! Values of options, checked before anything is done: a mistake is wrong usage
//! and not a refusal of the daemon.

use crate::filter::FilterError;
use crate::haproxy::drain::server_name;
use crate::haproxy::kill::FlowName;
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

/// A flow, kept as it was written.
pub(super) fn flow(text: &str) -> Result<String, String> {
    text.parse::<FlowName>()
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// `backend/server`, kept as it was written.
pub(super) fn server(text: &str) -> Result<String, String> {
    server_name(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// A part of one, in whole percent.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn share(text: &str) -> Result<u8, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.01..=1.0).contains(&share) => Ok((share * 100.0).round() as u8),
        _ => Err("allowed: 0.01 to 1, such as 0.3 for three tenths".to_owned()),
    }
}

/// The words of a filter, joined. Ends the process when `parse` refuses them.
pub(super) fn filter<T>(
    words: &[String],
    parse: impl FnOnce(&str) -> Result<T, FilterError>,
) -> String {
    let filter = words.join(" ");
    if let Err(error) = parse(&filter) {
        super::Cli::command()
            .error(ErrorKind::ValueValidation, error)
            .exit();
    }
    filter
}
