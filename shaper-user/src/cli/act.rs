//! `kill` and `drain`.

use super::change::change;
use super::parse;
use crate::protocol::Command;
use anyhow::Result;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The connection ends without a WebSocket close frame, and the client may connect again: \
                  `shaper limit` or `shaper block` hold it. The policy must allow it by `actions = [\"kill\"]` under [haproxy], and HAProxy by \
                  `level admin` of its socket.\n\n\
                  Example: shaper kill 203.0.113.9:52482 --dry-run"
)]
pub(super) struct KillArgs {
    /// The client's address and port as `shaper flows` prints them, [v6]:port for IPv6, or HAProxy's
    /// id of the session, 0x…
    #[arg(value_parser = parse::flow)]
    flow: String,
    /// Ask HAProxy whose session it is, and close nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Clients whose connections are closed connect again, and HAProxy sends them where there \
                  is room. A drain ends when the server carries little enough, and with the daemon. The \
                  policy must allow it by `actions = [\"drain\"]` under [haproxy], and HAProxy by \
                  `level admin` of its socket.\n\n\
                  Example: shaper drain be_ws/srv1 --share 0.3 --over 10m --dry-run"
)]
pub(super) struct DrainArgs {
    /// The server as `shaper servers` prints it, backend/server
    #[arg(value_parser = parse::server)]
    server: String,
    /// The part of its rate that is to go, 0.01 to 1
    #[arg(long, value_name = "PART", value_parser = parse::share, required_unless_present = "stop")]
    share: Option<u8>,
    /// The time to spread it over, such as 10m
    #[arg(long = "over", value_name = "DURATION", value_parser = parse::duration,
        required_unless_present = "stop")]
    over_ms: Option<u64>,
    /// Say which connections would be closed, and close none
    #[arg(long)]
    dry_run: bool,
    /// End the drain of this server
    #[arg(long, conflicts_with_all = ["share", "over_ms", "dry_run"])]
    stop: bool,
}

pub(super) fn kill(socket: &Path, args: KillArgs) -> Result<ExitCode> {
    let KillArgs { flow, dry_run } = args;
    change(socket, Command::Kill { flow, dry_run })
}

pub(super) fn drain(socket: &Path, args: DrainArgs) -> Result<ExitCode> {
    let server = args.server;
    let command = match (args.share, args.over_ms) {
        (Some(percent), Some(over_ms)) => Command::Drain {
            server,
            percent,
            over_ms,
            dry_run: args.dry_run,
        },
        // Only with --stop.
        _ => Command::StopDrain { server },
    };
    change(socket, command)
}
