//! What a HAProxy of the lab is told.

use super::{BACKEND_PORT, VARIABLE};
use crate::lab::{Lab, PORT, SOURCE_PORT, backend_v4};
use anyhow::Result;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The port of the first server of the second backend.
const FEED_PORT: u16 = BACKEND_PORT + 100;
/// So that an agent's percentages have something to work on.
const WEIGHT: u16 = 25;

/// What is special about a HAProxy.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The program.
    pub program: PathBuf,
    /// Its threads; `None`: as many as there are CPUs.
    pub threads: Option<u16>,
    /// Connections at most.
    pub maxconn: u32,
    /// Further lines of the frontend.
    pub frontend: Vec<String>,
    /// Level of the stats socket: `user`, `operator` or `admin`.
    pub level: &'static str,
    /// A master that keeps workers (`-W`), with a master CLI socket (`-S`).
    pub master: bool,
    /// How the backends balance.
    pub balance: &'static str,
    /// Servers of a backend in each namespace behind the proxy.
    pub servers: u16,
    /// Server names are this and a number.
    pub prefix: &'static str,
    /// A second frontend, `fe_feed` on [`SOURCE_PORT`], with a backend of its
    /// own, `be_feed`.
    pub feed: bool,
    /// Where the weight of every server is asked for, once a second.
    pub agent: Option<SocketAddr>,
}

impl Default for Spec {
    /// The system's, which `SHAPER_HAPROXY` overrides.
    fn default() -> Self {
        let program = std::env::var_os(VARIABLE).unwrap_or_else(|| "haproxy".into());
        Self {
            program: program.into(),
            threads: None,
            maxconn: 4000,
            frontend: Vec::new(),
            level: "admin",
            master: false,
            balance: "leastconn",
            servers: 1,
            prefix: "srv",
            feed: false,
            agent: None,
        }
    }
}

/// A server that HAProxy is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// HAProxy's backend.
    pub backend: &'static str,
    /// HAProxy's server.
    pub server: String,
    /// Index of the namespace behind the proxy.
    pub namespace: usize,
    /// Where it listens there.
    pub port: u16,
}

impl Spec {
    /// Every server, backend by backend.
    #[must_use]
    pub fn places(&self, lab: &Lab) -> Vec<Place> {
        let backends = [("be_ws", BACKEND_PORT), ("be_feed", FEED_PORT)];
        let mut places = Vec::new();
        for (backend, first) in backends.into_iter().take(1 + usize::from(self.feed)) {
            let mut number = 0;
            for namespace in 0..lab.backends.len() {
                for offset in 0..self.servers {
                    number += 1;
                    places.push(Place {
                        backend,
                        server: format!("{}{number}", self.prefix),
                        namespace,
                        port: first + offset,
                    });
                }
            }
        }
        places
    }

    pub(super) fn text(&self, lab: &Lab, socket: &Path) -> Result<String> {
        let mut text = format!(
            "global\n\
             \x20   maxconn {}\n\
             \x20   stats socket {} mode 600 level {}\n",
            self.maxconn,
            socket.display(),
            self.level
        );
        if let Some(threads) = self.threads {
            writeln!(text, "    nbthread {threads}")?;
        }
        write!(
            text,
            "defaults\n\
             \x20   mode http\n\
             \x20   option forwardfor\n\
             \x20   maxconn {}\n\
             \x20   balance {}\n\
             \x20   timeout connect 5s\n\
             \x20   timeout client 1m\n\
             \x20   timeout server 1m\n\
             \x20   timeout tunnel 1h\n\
             frontend fe_ws\n\
             \x20   bind :::{PORT} v4v6\n\
             \x20   default_backend be_ws\n",
            self.maxconn, self.balance
        )?;
        for line in &self.frontend {
            writeln!(text, "    {line}")?;
        }
        if self.feed {
            write!(
                text,
                "frontend fe_feed\n\
                 \x20   bind :::{SOURCE_PORT} v4v6\n\
                 \x20   default_backend be_feed\n"
            )?;
        }
        let mut before = "";
        for place in self.places(lab) {
            if place.backend != before {
                writeln!(text, "backend {}", place.backend)?;
                before = place.backend;
            }
            let address = backend_v4(u8::try_from(place.namespace + 1)?);
            write!(text, "    server {} {address}:{}", place.server, place.port)?;
            if let Some(agent) = self.agent {
                write!(
                    text,
                    " weight {WEIGHT} agent-check agent-addr {} agent-port {} agent-inter 1s \
                     agent-send \"{}/{}\\n\"",
                    agent.ip(),
                    agent.port(),
                    place.backend,
                    place.server
                )?;
            }
            text.push('\n');
        }
        Ok(text)
    }
}
