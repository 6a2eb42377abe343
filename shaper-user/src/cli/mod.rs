//! The command line.
//!
//! | module | commands |
//! | --- | --- |
//! | `run` | `run` |
//! | `show` | `flows`, `clients`, `servers`, `status`, `top` |
//! | `events` | `events` |
//! | `history` | `history` |
//! | `change` | `limit`, `block`, `unblock`, `reload` |
//! | `act` | `kill`, `drain` |
//! | `check` | `check` |
//! | `detach` | `detach` |
//! | `generate` | `generate`: man pages and completions, for packages |
//! | `parse` | values of options, checked before anything is done |
//! | `output` | where answers go, and how a command ends |

mod act;
mod change;
mod check;
mod detach;
mod events;
mod generate;
mod history;
mod output;
mod parse;
mod quota;
mod run;
mod show;

use clap::{CommandFactory, Parser, Subcommand};
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
    max_term_width = 80,
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
    #[command(after_help = "Example: shaper top --tab servers")]
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
    /// Say what happened, and what happens
    Events(events::Args),
    /// Limit a client at runtime, over the policy
    Limit(change::LimitArgs),
    /// Drop everything a client sends, and close its connections
    Block(change::BlockArgs),
    /// Take a runtime block away
    Unblock(change::UnblockArgs),
    /// Say what a client has used of its quota, reset it or add to it
    Quota(quota::Args),
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
    /// Write man pages and completions
    #[command(hide = true)]
    Generate(generate::Args),
}

/// The definition, for whatever is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
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
        Command::Events(args) => events::events(socket, &args),
        Command::Limit(args) => change::limit(socket, args),
        Command::Block(args) => change::block(socket, args),
        Command::Unblock(args) => change::unblock(socket, args),
        Command::Quota(args) => quota::quota(socket, args),
        Command::Kill(args) => act::kill(socket, args),
        Command::Drain(args) => act::drain(socket, args),
        Command::Check(args) => check::check(&args),
        Command::Reload => change::reload(socket),
        Command::Detach => detach::detach(socket),
        Command::Generate(args) => generate::generate(&args),
    };
    output::exit(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold() {
        command().debug_assert();
    }

    /// The commands of an example line, such as `shaper status --json | jq .counters`.
    fn commands(example: &str) -> Vec<Vec<&str>> {
        example
            .split(['|', '&'])
            .map(|part| part.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.first() == Some(&"shaper"))
            .collect()
    }

    #[test]
    fn every_help_ends_with_an_example_that_parses() {
        let all = command();
        for command in all.get_subcommands().chain([&all]) {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let example = help
                .lines()
                .last()
                .and_then(|line| line.strip_prefix("Example: "))
                .unwrap_or_else(|| panic!("{name}: {help}"));
            let commands = commands(example);
            assert!(
                commands
                    .iter()
                    .any(|words| name == "shaper" || words.get(1) == Some(&name)),
                "{name}: {example}"
            );
            for words in commands {
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{name}: {words:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn every_help_is_80_columns_wide_at_most() {
        let mut all = command();
        all.build();
        let names: Vec<String> = all
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        for name in names {
            let command = all.find_subcommand_mut(&name);
            for help in command
                .into_iter()
                .flat_map(|command| [command.render_help(), command.render_long_help()])
            {
                for line in help.to_string().lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
            }
        }
    }
}
