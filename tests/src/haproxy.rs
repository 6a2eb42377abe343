//! A HAProxy of its own, in the lab's proxy namespace.

mod installed;

pub use installed::{Installed, VARIABLE, choose, installed};

use crate::lab::{Lab, PORT, backend_v4};
use crate::process::Background;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The port that backends listen on.
pub const BACKEND_PORT: u16 = 9000;

/// What is special about a HAProxy.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The program.
    pub program: PathBuf,
    /// Its threads; `None`: as many as there are CPUs.
    pub threads: Option<u16>,
    /// Further lines of the frontend.
    pub frontend: Vec<String>,
}

impl Default for Spec {
    /// The system's, which `SHAPER_HAPROXY` overrides.
    fn default() -> Self {
        let program = std::env::var_os(VARIABLE).unwrap_or_else(|| "haproxy".into());
        Self {
            program: program.into(),
            threads: None,
            frontend: Vec::new(),
        }
    }
}

/// A running HAProxy; dropping it ends it. The system's service is another
/// process and is not touched.
#[derive(Debug)]
pub struct Haproxy {
    process: Background,
    socket: PathBuf,
}

impl Haproxy {
    /// Balances WebSockets on [`PORT`], IPv4 and IPv6, over the lab's backends.
    ///
    /// # Errors
    /// When haproxy is not installed or does not come up; with its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, &Spec::default())
    }

    /// As [`Haproxy::start`], and something is special.
    ///
    /// # Errors
    /// When the program is missing or does not come up; with its log.
    pub fn start_with(lab: &Lab, spec: &Spec) -> Result<Self> {
        let configuration = lab.directory().join("haproxy.cfg");
        let socket = lab.directory().join("haproxy.sock");
        std::fs::write(&configuration, text(lab, &socket, spec)?)?;
        let mut command = lab.proxy.command(&spec.program);
        command.arg("-db").arg("-f").arg(&configuration);
        let process = Background::start("haproxy", command, &lab.directory().join("haproxy.log"))?;
        let mut haproxy = Self { process, socket };
        let socket = haproxy.socket.clone();
        haproxy
            .process
            .wait_ready(Duration::from_secs(10), || {
                UnixStream::connect(&socket).is_ok()
            })
            .context("haproxy (is it installed? `cargo xtask setup`)")?;
        Ok(haproxy)
    }

    /// Its stats socket, at level admin.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn text(lab: &Lab, socket: &Path, spec: &Spec) -> Result<String> {
    let threads = spec
        .threads
        .map_or_else(String::new, |threads| format!("    nbthread {threads}\n"));
    let mut text = format!(
        "global\n\
         \x20   maxconn 4000\n\
         {threads}\
         \x20   stats socket {} mode 600 level admin\n\
         defaults\n\
         \x20   mode http\n\
         \x20   option forwardfor\n\
         \x20   timeout connect 5s\n\
         \x20   timeout client 1m\n\
         \x20   timeout server 1m\n\
         \x20   timeout tunnel 1h\n\
         frontend fe_ws\n\
         \x20   bind :::{PORT} v4v6\n\
         \x20   default_backend be_ws\n",
        socket.display()
    );
    for line in &spec.frontend {
        writeln!(text, "    {line}")?;
    }
    text.push_str("backend be_ws\n    balance leastconn\n");
    for n in 1..=lab.backends.len() {
        let address = backend_v4(u8::try_from(n)?);
        writeln!(text, "    server srv{n} {address}:{BACKEND_PORT}")?;
    }
    Ok(text)
}
