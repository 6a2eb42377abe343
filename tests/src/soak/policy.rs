//! Policies by chance.

use super::roles;
use crate::lab::{INTERFACE, PORT, SOURCE_PORT};
use fastrand::Rng;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Watched now and then.
pub(super) const EXTRA_PORT: u16 = 8082;
/// An interface that carries nothing, and comes and goes.
pub(super) const SPARE: &str = "spare0";

/// A policy.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) observe: bool,
    /// Whether [`EXTRA_PORT`] is watched.
    pub(super) extra: bool,
    /// Of the heavy clients, up and down, in Mbit/s.
    pub(super) heavy: [u32; 2],
    /// Of everybody else, up and down, in kbit/s.
    default: [Option<u32>; 2],
    rules: String,
    /// HAProxy's sockets; empty: the policy does not name it.
    sockets: Vec<PathBuf>,
    places: bool,
}

impl Plan {
    /// The first policy, and the last.
    pub(super) fn base(sockets: &[PathBuf]) -> Self {
        Self {
            observe: false,
            extra: true,
            heavy: [8, 8],
            default: [Some(20_000), Some(50_000)],
            rules: String::new(),
            sockets: sockets.to_vec(),
            places: false,
        }
    }

    /// Another one.
    pub(super) fn random(rng: &mut Rng, sockets: &[PathBuf]) -> Self {
        let mut rate = |of: &[u32]| rng.choice(of).copied();
        let default = [
            rate(&[2_000, 5_000, 20_000, 100_000]),
            rate(&[5_000, 20_000, 100_000]),
        ];
        let heavy = [
            rate(&[4, 8, 12]).unwrap_or(8),
            rate(&[4, 8, 12]).unwrap_or(8),
        ];
        Self {
            observe: rng.u8(..8) == 0,
            extra: true,
            heavy,
            default: default.map(|rate| rate.filter(|_| rng.u8(..5) != 0)),
            rules: rules(rng),
            sockets: if rng.u8(..4) == 0 {
                Vec::new()
            } else {
                sockets.to_vec()
            },
            places: rng.bool(),
        }
    }

    pub(super) fn mode(&self) -> &'static str {
        if self.observe { "observe" } else { "enforce" }
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports = vec![PORT, SOURCE_PORT];
        ports.extend(self.extra.then_some(EXTRA_PORT));
        ports
    }

    /// As a file.
    pub(super) fn text(&self) -> String {
        let [up, down] = self.default.map(|rate| match rate {
            Some(kbit) => format!("{{ rate = \"{kbit}kbit\" }}"),
            None => String::new(),
        });
        let mut text = format!(
            "interfaces = [\"{INTERFACE}\", \"{SPARE}\"]\nports = {:?}\nmode = \"{}\"\n",
            self.ports(),
            self.mode()
        );
        if !self.sockets.is_empty() {
            // Debug quotes as TOML does.
            let _ = write!(
                text,
                "[haproxy]\nsockets = {:?}\npoll = \"2s\"\n",
                self.sockets
            );
        }
        text += "[default]\n";
        for (name, rate) in [("upload", up), ("download", down)] {
            if !rate.is_empty() {
                let _ = writeln!(text, "{name} = {rate}");
            }
        }
        let _ = write!(
            text,
            "[[rule]]\nname = \"heavy\"\nclients = [\"{}\", \"{}\"]\n\
             upload = {{ rate = \"{}mbit\" }}\ndownload = {{ rate = \"{}mbit\" }}\n",
            roles::uploader(),
            roles::downloader(),
            self.heavy[0],
            self.heavy[1]
        );
        text += &self.rules;
        if self.places {
            // Far above what is there: so that they are worked out, and hold
            // nothing.
            text += "[[rule]]\nname = \"place\"\nbackends = [\"be_ws\"]\n\
                     upload = { rate = \"400mbit\" }\n\
                     [[server_limit]]\nserver = \"be_ws/srv1\"\ndownload = { rate = \"2gbit\" }\n";
        }
        text
    }
}

/// Up to six rules for clients that come and go.
fn rules(rng: &mut Rng) -> String {
    let mut text = String::new();
    let count = rng.usize(..=6);
    for (number, client) in rng
        .choose_multiple(roles::churn(), count)
        .into_iter()
        .enumerate()
    {
        let _ = write!(
            text,
            "[[rule]]\nname = \"rule{number}\"\nclients = [\"{client}\"]\n"
        );
        text += match rng.u8(..8) {
            0 => "exempt = true\n",
            1 => "max_connections = 20\n",
            2 => "connection_rate = \"10/s\"\n",
            3 => "upload = { rate = \"256kbit\" }\n",
            4 => "download = { rate = \"512kbit\", burst = \"64KiB\" }\n",
            5 => "flow_upload = { rate = \"100kbit\" }\nflow_download = { rate = \"1mbit\" }\n",
            6 => "upload = { rate = \"1gbit\", burst = \"1MB\" }\n",
            _ => {
                "upload = { rate = \"1MB/s\" }\nmax_connections = 100\nconnection_rate = \"60/s\"\n"
            }
        };
    }
    text
}

/// Mistakes.
pub(super) fn invalid(rng: &mut Rng, valid: &str) -> String {
    match rng.u8(..5) {
        0 => format!("{valid}[[rule]]\nname = \"odd\"\nclients = [\"192.0.2.1\"]\nuplaod = 1\n"),
        1 => format!(
            "{valid}[[rule]]\nname = \"odd\"\nclients = [\"192.0.2.1\"]\nupload = {{ rate = \"8mbps\" }}\n"
        ),
        2 => format!("{valid}[[rule]]\nname = \"heavy\"\nclients = [\"192.0.2.1\"]\n"),
        3 => valid.get(..valid.len() / 2).unwrap_or_default().to_owned() + "\n[[[",
        _ => valid.replace("ports = [", "ports = [0, "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shaper_user::policy::Policy;

    #[test]
    fn random_policies_are_valid_and_mistakes_are_not() {
        let load = |text: &str| Policy::parse("policy.toml", text).map(drop);
        let sockets = [PathBuf::from("/run/haproxy.sock")];
        load(&Plan::base(&sockets).text()).unwrap();
        for seed in 0..300 {
            let mut rng = Rng::with_seed(seed);
            let text = Plan::random(&mut rng, &sockets).text();
            assert!(load(&text).is_ok(), "{text}");
            let wrong = invalid(&mut rng, &text);
            assert!(load(&wrong).is_err(), "{wrong}");
        }
    }
}
