//! `run`: the daemon.

use super::POLICY;
use crate::control::lock::{self, Lock};
use crate::control::socket::Socket;
use crate::daemon::{self, Options, PolicyFile};
use crate::kernel::attach::TcHook;
use crate::kernel::{ebpf, place, sys};
use crate::policy::{OnExit, interface};
use crate::steps::{self, Step};
use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::sys::stat::fstat;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a policy it only observes, on ports 80 and 443 of the default route's \
                  interface. SHAPER_LOG chooses what is logged, as in SHAPER_LOG=debug.\n\n\
                  Example: shaper run --policy /etc/shaper/policy.toml --interface eth0"
)]
pub(super) struct Args {
    /// The policy file [default: /etc/shaper/policy.toml, where it exists]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// An interface or a pattern such as "eth*", in the place of the policy's; may
    /// be repeated
    #[arg(long, value_name = "IF", value_parser = interface)]
    interface: Vec<String>,
    /// Count and say what would be limited, whatever the policy says
    #[arg(long)]
    observe: bool,
    /// Where what outlives a reboot is kept, such as the usage of quotas
    #[arg(
        long,
        value_name = "DIRECTORY",
        env = "STATE_DIRECTORY",
        hide_env = true,
        default_value = "/var/lib/shaper"
    )]
    state: PathBuf,
    /// How log lines look [default: journal where standard error leads there, else
    /// text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// How the TC programs are attached
    #[arg(long, value_enum, default_value_t, value_name = "HOOK")]
    tc_hook: TcHook,
}

/// As in the policy.
fn interface(text: &str) -> Result<String, String> {
    interface::check(text.to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
    /// To systemd's journal, with fields such as SHAPER_CLIENT
    Journal,
}

pub(super) fn run(socket: &Path, args: Args) -> Result<ExitCode> {
    log(args.log_format)?;
    let options = Options {
        policy: PolicyFile {
            required: args.policy.is_some(),
            path: args.policy.unwrap_or_else(|| POLICY.into()),
        },
        interfaces: args.interface,
        observe: args.observe,
        socket: socket.to_owned(),
        state: args.state,
    };
    // In this order: a mistake in the policy and a second daemon are found
    // before the kernel is touched.
    let (policy, _) = options.load()?;
    place::check_privileges()?;
    // First the socket: its message is the better one where both are taken.
    let socket = Socket::bind(socket)?;
    let cookie = sys::netns_cookie()?;
    let lock = Lock::take(&lock::path(cookie), socket.path())?;
    steps::done(Step::Locked);
    // Of an upgrade that found no daemon to stop.
    let keep = keep_beside(socket.path());
    let _ = fs::remove_file(&keep);
    let kernel = ebpf::open(ebpf::Options {
        tc_hook: args.tc_hook,
        log_connections: tracing::enabled!(tracing::Level::DEBUG),
        tables: policy.tables(),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let on_exit = runtime.block_on(daemon::run(kernel, &socket, policy, options))?;
    if on_exit == OnExit::Detach && !keep.exists() {
        for removed in ebpf::detach()? {
            tracing::info!("removed {removed}");
        }
    }
    // Last, because nobody else may start before everything is done.
    drop(socket);
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

/// While this file is there, the daemon ends and limits hold, whatever `on_exit`
/// says: the package makes it for the restart of an upgrade. The next start removes it.
fn keep_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("keep")
}

fn log(format: Option<LogFormat>) -> Result<()> {
    let wanted = std::env::var("SHAPER_LOG").unwrap_or_default();
    let mut filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse(&wanted)
        .context("SHAPER_LOG is no filter; try info, debug or shaper_user=debug")?;
    // At debug level aya names every relocation: only for who asks for it.
    if !wanted.contains("aya") {
        for quiet in ["aya=info", "aya_obj=info"] {
            filter = filter.add_directive(quiet.parse()?);
        }
    }
    let journal = match format {
        None if leads_to_journal() => journal().ok(),
        Some(LogFormat::Journal) => Some(journal().context(
            "cannot log to systemd's journal; leave --log-format out for standard error",
        )?),
        _ => None,
    };
    if let Some(journal) = journal {
        tracing_subscriber::registry()
            .with(journal)
            .with(filter)
            .init();
        return Ok(());
    }
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would say so on standard error, and panic where that is gone.
        .log_internal_errors(false);
    match format {
        Some(LogFormat::Json) => subscriber.json().flatten_event(true).init(),
        _ => subscriber
            .with_target(false)
            .with_ansi(anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never)
            .init(),
    }
    Ok(())
}

/// The journal's own protocol: each field of a line is one of the journal's.
fn journal() -> io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_field_prefix(Some("SHAPER".to_owned())))
}

/// Whether standard error is what systemd connected to the journal: `JOURNAL_STREAM`
/// in systemd.exec(5).
fn leads_to_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
