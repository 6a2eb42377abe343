//! What holds the heavy client back: ours and the usual means, each for its
//! address alone and to the same rate.

use crate::bench::report::PAYLOAD;
use crate::haproxy::Spec;
use crate::lab::{INTERFACE, Lab, PORT};
use crate::netns::Namespace;
use crate::process;
use crate::shaper::Shaper;
use anyhow::Result;
use clap::ValueEnum;
use std::net::IpAddr;

/// A way to limit one client's upload on the proxy's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Limiter {
    /// None.
    Unlimited,
    /// The daemon, with a rule for that client.
    Ours,
    /// nftables: `limit rate over … drop` at the input hook, burst 100 ms.
    Nft,
    /// The client's packets redirected to an ifb with a TBF (burst 4 ms of
    /// the rate, queue 50 ms).
    IfbTbf,
    /// HAProxy's `filter bwlim-in`, at its default `min-size`.
    Bwlim,
}

impl Limiter {
    /// What it is called in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::Ours => "ours",
            Self::Nft => "nft limit",
            Self::IfbTbf => "ifb + TBF",
            Self::Bwlim => "bwlim-in",
        }
    }

    /// The lines that HAProxy needs for it. Its filter counts payload, so the
    /// rate, bits per second at the IP level, is converted.
    pub fn configure(self, spec: &mut Spec, client: IpAddr, rate: u64) {
        if self == Self::Bwlim {
            let bytes = (rate as f64 / 8.0 * PAYLOAD) as u64;
            spec.frontend = vec![
                format!("filter bwlim-in up default-limit {bytes} default-period 1s"),
                format!("http-request set-bandwidth-limit up if {{ src {client} }}"),
            ];
        }
    }

    /// Puts it in force, in bits per second at the IP level, for as long as
    /// the lab is there, or what this returns.
    ///
    /// # Errors
    /// When a program of it is missing, or the kernel refuses.
    pub fn start(self, lab: &Lab, client: IpAddr, rate: u64) -> Result<Option<Shaper>> {
        match self {
            Self::Unlimited | Self::Bwlim => Ok(None),
            Self::Ours => {
                let policy = format!(
                    "[[rule]]\n\
                     name = \"heavy\"\n\
                     clients = [\"{client}\"]\n\
                     upload = {{ rate = \"{rate}bit\" }}\n"
                );
                Ok(Some(Shaper::start(lab, &policy, &[])?))
            }
            Self::Nft => {
                let (bytes, burst) = (rate / 8, rate / 8 / 10);
                run_lines(
                    &lab.proxy,
                    &[&format!(
                        "nft 'add table inet heavy; \
                         add chain inet heavy input {{ type filter hook input priority 0; }}; \
                         add rule inet heavy input ip saddr {client} tcp dport {PORT} \
                         limit rate over {bytes} bytes/second burst {burst} bytes drop'"
                    )],
                )?;
                Ok(None)
            }
            Self::IfbTbf => {
                let burst = (rate / 8 / 250).max(5_000);
                run_lines(
                    &lab.proxy,
                    &[
                        "ip link add ifb0 type ifb",
                        "ip link set ifb0 up",
                        &format!(
                            "tc qdisc add dev ifb0 root tbf rate {rate}bit burst {burst}b latency 50ms"
                        ),
                        &format!("tc qdisc add dev {INTERFACE} clsact"),
                        &format!(
                            "tc filter add dev {INTERFACE} ingress protocol ip u32 \
                             match ip src {client}/32 action mirred egress redirect dev ifb0"
                        ),
                    ],
                )?;
                Ok(None)
            }
        }
    }
}

/// Runs command lines in a namespace. What they make goes with it.
pub(super) fn run_lines(namespace: &Namespace, lines: &[&str]) -> Result<()> {
    for line in lines {
        let mut command = namespace.command("sh");
        command.args(["-c", line]);
        process::output(command)?;
    }
    Ok(())
}
