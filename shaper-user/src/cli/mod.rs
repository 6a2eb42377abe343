//! The command line.
//!
//! | module | commands |
//! | --- | --- |
//! | `run` | `run` |
//! | `show` | `flows`, `clients`, `servers`, `status`, `top` |
//! | `history` | `history` |
//! | `change` | `limit`, `block`, `unblock`, `reload` |
//! | `act` | `kill`, `drain` |
//! | `check` | `check` |
//! | `detach` | `detach` |
//! | `parse` | values of options, checked before anything is done |
//! | `output` | where answers go, and how a command ends |

mod act;
mod change;
mod check;
mod detach;
mod history;
mod output;
mod parse;
mod run;
mod show;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the daemon's socket is unless told otherwise.
pub const SOCKET: &str = "/run/shaper/shaper.sock";
/// Where the policy is unless told otherwise.
pub const POLICY: &str = "/etc/shaper/policy.toml";

/// Shows which WebSocket client is heavy, and holds each to its quota in the
/// kernel.
#[derive(Debug, Parser)]
#[command(
    name = "shaper",
    version,
    after_help = "Exit status: 0 done, 1 failed or not allowed, 2 wrong usage.\n\n\
                  Example: shaper check policy.toml && shaper run --policy policy.toml"
)]
struct Cli {
    /// The daemon's control socket
    #[arg(long, global = true, env = "SHAPER_SOCKET", default_value = SOCKET, value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(run::Args),
    /// Watch clients and flows live
    #[command(after_help = "Example: shaper top")]
    Top(show::TopArgs),
    /// List connections
    #[command(after_help = show::FLOWS_HELP)]
    Flows(show::Args),
    /// List clients with their limits
    #[command(after_help = show::CLIENTS_HELP)]
    Clients(show::Args),
    /// List HAProxy's servers with their traffic
    #[command(after_help = show::SERVERS_HELP)]
    Servers(show::Args),
    /// Say what happened in the last hours, by the minute
    History(history::Args),
    /// Say what is attached where, and what was counted
    Status(show::StatusArgs),
    /// Limit a client at runtime, over the policy
    Limit(change::LimitArgs),
    /// Drop everything a client sends, and close its connections
    Block(change::BlockArgs),
    /// Take a runtime block away
    Unblock(change::UnblockArgs),
    /// Have HAProxy close one connection
    Kill(act::KillArgs),
    /// Have HAProxy close a server's heaviest connections, one after the other
    Drain(act::DrainArgs),
    /// Check a policy file and print what it means
    Check(check::Args),
    /// Have the daemon read its policy again
    #[command(after_help = "An invalid policy changes nothing.\n\nExample: shaper reload")]
    Reload,
    /// Stop the daemon, and remove programs, links and pins
    #[command(after_help = "Nothing is limited afterwards.\n\nExample: shaper detach")]
    Detach,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let socket = cli.socket.as_path();
    let result = match cli.command {
        Command::Run(args) => run::run(socket, args),
        Command::Top(args) => show::top(socket, &args),
        Command::Flows(args) => show::flows(socket, args),
        Command::Clients(args) => show::clients(socket, args),
        Command::Servers(args) => show::servers(socket, args),
        Command::History(args) => history::history(socket, args),
        Command::Status(args) => show::status(socket, &args),
        Command::Limit(args) => change::limit(socket, args),
        Command::Block(args) => change::block(socket, args),
        Command::Unblock(args) => change::unblock(socket, args),
        Command::Kill(args) => act::kill(socket, args),
        Command::Drain(args) => act::drain(socket, args),
        Command::Check(args) => check::check(&args),
        Command::Reload => change::reload(socket),
        Command::Detach => detach::detach(socket),
    };
    output::exit(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|help| help.contains("Example")),
                "{}",
                command.get_name()
            );
        }
    }
}
