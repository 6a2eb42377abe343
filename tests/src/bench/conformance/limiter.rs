//! Ours and the incumbents, each as an operator would set it up, at rates that
//! mean the same.
//!
//! | limiter | set up as | counts |
//! | --- | --- | --- |
//! | ours | `[default]` with the rate and the burst, the policy's default | from the IP header on |
//! | nft | input or output hook, `limit rate over`, the same burst, drop | from the IP header on |
//! | hashlimit | INPUT or OUTPUT, `--hashlimit-above`, by client, default burst (it refuses one below a second) | from the IP header on, in steps of 16 bytes/s, from 10 MB/s on of 1 KiB/s |
//! | ifb-tbf | ingress redirected to an ifb, TBF there: burst max(rate/250, 5 kB), latency 50 ms | with the Ethernet header: the rate is set 1514/1500 higher |
//! | tbf | the same TBF at the interface's root | the same |

use super::matrix::{Cell, Direction, Limiter, PACKET};
use crate::lab::{INTERFACE, Lab, PORT, client_v4};
use crate::process;
use crate::shaper::Shaper;
use anyhow::{Context, Result};
use serde_json::Value;
use shaper_user::policy::units::Size;

/// Of a full packet, with the Ethernet header.
const FRAME: u64 = 1514;
const IFB: &str = "ifb0";

/// A limiter at work. It ends with the lab.
pub struct Running<'a> {
    lab: &'a Lab,
    cell: Cell,
    shaper: Option<Shaper>,
}

impl<'a> Running<'a> {
    /// Sets it up in the proxy namespace.
    ///
    /// # Errors
    /// When something is missing from the kernel or the system, or is refused.
    pub fn start(lab: &'a Lab, cell: Cell) -> Result<Self> {
        let mut running = Self {
            lab,
            cell,
            shaper: None,
        };
        match cell.limiter {
            Limiter::Ours => {
                let conditions = &cell.conditions;
                let policy = format!(
                    "[default]\n{} = {{ rate = \"{}\", burst = \"{}\" }}\n",
                    conditions.direction,
                    conditions.rate,
                    Size(conditions.burst())
                );
                running.shaper = Some(Shaper::start(lab, &policy, &[])?);
            }
            Limiter::Nft => running.nft()?,
            Limiter::Hashlimit => running.hashlimit()?,
            Limiter::IfbTbf => {
                lab.proxy.ip(&format!(
                    "link add {IFB} type ifb\nlink set {IFB} up txqueuelen 1000"
                ))?;
                running.tbf(IFB)?;
                running.run("tc", &format!("qdisc add dev {INTERFACE} clsact"))?;
                running.run(
                    "tc",
                    &format!(
                        "filter add dev {INTERFACE} ingress protocol ip u32 match u32 0 0 \
                         action mirred egress redirect dev {IFB}"
                    ),
                )?;
            }
            Limiter::Tbf => running.tbf(INTERFACE)?,
            Limiter::None => {}
        }
        Ok(running)
    }

    fn run(&self, program: &str, arguments: &str) -> Result<String> {
        let mut command = self.lab.proxy.command(program);
        command.args(arguments.split_whitespace());
        let output = process::output(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn bytes_per_second(&self) -> u64 {
        self.cell.conditions.rate.bps() / 8
    }

    fn nft(&self) -> Result<()> {
        let (hook, side) = match self.cell.conditions.direction {
            Direction::Upload => ("input", "dport"),
            Direction::Download => ("output", "sport"),
        };
        let rules = format!(
            "table inet bench {{\n\
             \x20 chain hold {{\n\
             \x20   type filter hook {hook} priority 0\n\
             \x20   tcp {side} {PORT} limit rate over {} bytes/second burst {} bytes counter drop\n\
             \x20 }}\n\
             }}\n",
            self.bytes_per_second(),
            self.cell.conditions.burst()
        );
        let file = self.lab.directory().join("bench.nft");
        std::fs::write(&file, rules)?;
        let mut command = self.lab.proxy.command("nft");
        command.arg("-f").arg(file);
        process::output(command).map(drop)
    }

    fn chain(&self) -> &'static str {
        match self.cell.conditions.direction {
            Direction::Upload => "INPUT",
            Direction::Download => "OUTPUT",
        }
    }

    fn hashlimit(&self) -> Result<()> {
        let (side, mode) = match self.cell.conditions.direction {
            Direction::Upload => ("--dport", "srcip"),
            Direction::Download => ("--sport", "dstip"),
        };
        self.run(
            "iptables",
            &format!(
                "-I {} -p tcp {side} {PORT} -m hashlimit --hashlimit-above {}b/s \
                 --hashlimit-mode {mode} --hashlimit-name bench -j DROP",
                self.chain(),
                self.bytes_per_second()
            ),
        )
        .map(drop)
    }

    fn tbf(&self, interface: &str) -> Result<()> {
        let rate = self.cell.conditions.rate.bps() * FRAME / PACKET;
        let burst = (rate / 8 / 250).max(5_000);
        self.run(
            "tc",
            &format!(
                "qdisc add dev {interface} root tbf rate {rate}bit burst {burst} latency 50ms"
            ),
        )
        .map(drop)
    }

    /// Packets that it has dropped so far.
    ///
    /// # Errors
    /// When it does not say.
    pub fn drops(&self) -> Result<u64> {
        match self.cell.limiter {
            Limiter::Ours => {
                let shaper = self.shaper.as_ref().context("the daemon is gone")?;
                let row = shaper.client(client_v4(0))?;
                Ok(match self.cell.conditions.direction {
                    Direction::Upload => row.upload.traffic.dropped_packets,
                    Direction::Download => row.download.traffic.dropped_packets,
                })
            }
            Limiter::Nft => {
                let rules: Value = serde_json::from_str(&self.run("nft", "-j list ruleset")?)?;
                nft_counter(&rules).context("no counter in nft's answer")
            }
            Limiter::Hashlimit => {
                let rules = self.run("iptables", &format!("-nvxL {}", self.chain()))?;
                // A head, the names of the columns, the rule.
                rules
                    .lines()
                    .nth(2)
                    .and_then(|rule| rule.split_whitespace().next()?.parse().ok())
                    .with_context(|| format!("no counter in {rules}"))
            }
            Limiter::IfbTbf => self.qdisc_drops(IFB),
            Limiter::Tbf => self.qdisc_drops(INTERFACE),
            Limiter::None => Ok(0),
        }
    }

    fn qdisc_drops(&self, interface: &str) -> Result<u64> {
        let text = self.run("tc", &format!("-s -j qdisc show dev {interface}"))?;
        let qdiscs: Vec<Value> = serde_json::from_str(&text)?;
        qdiscs
            .iter()
            .find(|qdisc| qdisc["kind"] == "tbf")
            .and_then(|qdisc| qdisc["drops"].as_u64())
            .with_context(|| format!("no drops in {text}"))
    }
}

/// Packets of the only rule.
fn nft_counter(ruleset: &Value) -> Option<u64> {
    ruleset["nftables"]
        .as_array()?
        .iter()
        .filter_map(|item| item["rule"]["expr"].as_array())
        .flatten()
        .find_map(|expression| expression["counter"]["packets"].as_u64())
}
