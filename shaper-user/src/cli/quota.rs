//! `quota`.

use super::change::change;
use super::{output, parse};
use crate::control::client::Client;
use crate::policy::units::Size;
use crate::protocol::Command;
use crate::render;
use anyhow::Result;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without an option it says what the client has used. What is added holds until the \
                  window ends.\n\n\
                  Example: shaper quota 203.0.113.9 --add 10GB"
)]
pub(super) struct Args {
    /// The client's address
    #[arg(value_parser = parse::client)]
    client: String,
    /// Forget what it has used, and what was added
    #[arg(long)]
    reset: bool,
    /// Let it have so much more, such as 10GB
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "reset")]
    add: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["reset", "add"])]
    json: bool,
}

/// A size, kept as it was written.
fn size(text: &str) -> Result<String, String> {
    match text.parse::<Size>() {
        Ok(Size(0)) => Err("nothing would be added".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn quota(socket: &Path, args: Args) -> Result<ExitCode> {
    let client = args.client;
    if args.reset {
        return change(socket, Command::ResetQuota { client });
    }
    if let Some(bytes) = args.add {
        return change(socket, Command::AddQuota { client, bytes });
    }
    let answer = output::runtime()?.block_on(async {
        let mut connection = Client::connect(socket).await?;
        connection.quota(client).await
    })?;
    if args.json {
        output::json(&answer)?;
    } else {
        output::print(|out| render::quota(out, &answer))?;
    }
    Ok(ExitCode::SUCCESS)
}
