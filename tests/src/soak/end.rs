//! The end: what is known then must be what is there.

use super::checks::Check;
use super::ledger::{Ledger, wait_quiet};
use super::policy::Plan;
use super::{Soak, census, vitals};
use anyhow::{Context, Result, anyhow, ensure};
use shaper_user::model::Flows;
use std::collections::{BTreeSet, HashSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A connection of the churn is over by then.
const CHURN_ENDS: Duration = Duration::from_secs(40);
/// Flows of connections that were found, and of sockets that wait for a FIN.
const SETTLED: Duration = Duration::from_secs(10);
/// A client is forgotten 60 s after its last packet, or after its last flow of
/// UDP, which ends 60 s after its own.
const FORGOTTEN: Duration = Duration::from_secs(145);

/// Counters that say that something went wrong.
const ERRORS: [&str; 7] = [
    "truncated_packets",
    "malformed_packets",
    "flow_table_full",
    "client_table_full",
    "clients_recreated",
    "pacing_refused",
    "internal_errors",
];

impl Soak<'_> {
    /// Comes to rest and looks at everything.
    pub(super) fn end(&mut self, ledger: &Ledger) -> Result<()> {
        self.churned = Some((self.churn.tally(), self.churn.began().elapsed()));
        println!("   the end: connections come to theirs");
        self.vitals.judge(&mut self.checks);
        if self.down.is_some() {
            self.restart()?;
        }
        self.tick_found(true)?;
        self.apply(Plan::base(&self.sockets), false)?;
        for command in self.settings.clear_all() {
            self.command(&command);
        }
        self.churn.finish();
        for burst in std::mem::take(&mut self.bursts) {
            burst
                .join()
                .map_err(|_| anyhow!("panic in a burst of UDP"))??;
        }
        let deadline = Instant::now() + CHURN_ENDS;
        while self.churn.open() > 0 {
            ensure!(
                Instant::now() < deadline,
                "{} connections of the churn do not end",
                self.churn.open()
            );
            sleep(Duration::from_millis(500));
            self.poll();
        }
        self.gauges_change();
        for gauge in &self.gauges {
            gauge.judge(&mut self.checks);
        }
        self.long.quiet(self.runtime, &mut self.checks);
        wait_quiet(self.lab)?;
        self.flows_at_the_end();
        // What the daemon has sampled since nothing moves any more.
        self.poll();
        ledger.close(self.lab, &self.shaper, &self.lives, &mut self.checks)?;
        self.errors();
        println!("   the end: clients that left are forgotten, within 145 s");
        self.clients_at_the_end();
        self.maps();
        self.long.leave();
        let gone = self.wait_flows(&HashSet::new());
        self.checks.result(Check::Flows, gone);
        let log = self.shaper.log();
        let bad: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("panicked") || line.contains("ERROR"))
            .collect();
        self.checks
            .that(Check::Log, bad.is_empty(), || bad.join("\n"));
        let status = self.shaper.stop(nix::sys::signal::Signal::SIGTERM)?;
        self.checks
            .that(Check::Exit, status.code() == Some(0), || status.to_string());
        let left = self.shaper.detach()?;
        self.checks
            .that(Check::Detach, left.is_empty(), || left.join(", "));
        Ok(())
    }

    /// Exactly the open sockets, which are exactly the connections that stayed.
    fn flows_at_the_end(&mut self) {
        let staying = self.long.staying();
        let result = self.wait_flows(&staying);
        self.checks.result(Check::Flows, result);
        self.checks.number(
            Check::Flows,
            format!(
                "{} connections stayed; {} flows and sockets were compared before",
                staying.len(),
                self.census.compared
            ),
        );
    }

    fn wait_flows(&self, staying: &HashSet<census::Connection>) -> Result<()> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let (flows, _, _) = self.ask()?;
            let sockets = self.sockets_now()?;
            let known: HashSet<_> = tcp(&flows).collect();
            if known == sockets && sockets == *staying {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} flows, {} sockets, {} stayed; flows without a socket: {:?}; sockets without a \
                 flow: {:?}",
                known.len(),
                sockets.len(),
                staying.len(),
                known.difference(&sockets).collect::<Vec<_>>(),
                sockets.difference(&known).collect::<Vec<_>>()
            );
            sleep(Duration::from_millis(250));
        }
    }

    /// Those that stayed, after a minute and a bit.
    fn clients_at_the_end(&mut self) {
        let began = Instant::now();
        let result = loop {
            self.poll();
            let result = self.clients_are_those_that_stayed();
            if result.is_ok() || began.elapsed() > FORGOTTEN {
                break result;
            }
            sleep(Duration::from_secs(2));
        };
        self.checks.result(Check::Clients, result);
        self.checks.number(
            Check::Clients,
            format!(
                "after {:.0} s; {} clients were forgotten in all",
                began.elapsed().as_secs_f64(),
                self.lives.forgotten
            ),
        );
    }

    fn clients_are_those_that_stayed(&mut self) -> Result<()> {
        let (flows, clients, status) = self.ask()?;
        census::sums(&flows, &clients, |_| true, &mut self.checks);
        let known: BTreeSet<&str> = clients.clients.iter().map(|c| c.client.as_str()).collect();
        let expected: BTreeSet<&str> = self
            .long
            .staying()
            .iter()
            .filter_map(|(client, _, _)| crate::shaper::row(&clients.clients, *client))
            .map(|row| row.client.as_str())
            .collect();
        ensure!(
            known == expected,
            "also {:?}",
            known.difference(&expected).collect::<Vec<_>>()
        );
        ensure!(
            expected.len() == self.long.staying().len(),
            "only {expected:?}"
        );
        let connections: u64 = clients.clients.iter().map(|c| c.connections).sum();
        ensure!(
            connections == status.flows && status.clients == known.len() as u64,
            "status has {} flows and {} clients",
            status.flows,
            status.clients
        );
        Ok(())
    }

    fn errors(&mut self) {
        for name in ERRORS {
            let count = self.counters.get(name).copied().unwrap_or_default();
            self.checks
                .that(Check::Errors, count == 0, || format!("{name}: {count}"));
        }
        let listed = [
            "flows_opened",
            "flows_closed",
            "limited_packets",
            "blocked_packets",
            "syn_rate_dropped",
            "syn_max_dropped",
            "observed_packets",
            "events_sent",
            "events_lost",
            "window_updates",
            "window_updates_lost",
        ];
        let numbers: Vec<String> = listed
            .iter()
            .filter_map(|name| Some(format!("{name} {}", self.counters.get(*name)?)))
            .collect();
        let halves = numbers.chunks(4).map(|chunk| chunk.join(", "));
        self.checks
            .number(Check::Errors, halves.collect::<Vec<_>>().join("\n"));
    }

    fn maps(&mut self) {
        let memory = self
            .shaper
            .pid()
            .context("no daemon")
            .and_then(vitals::map_memory);
        let now = match memory {
            Ok(now) => now,
            Err(error) => return self.checks.result(Check::Maps, Err(error)),
        };
        let differ: Vec<String> = self
            .map_memory
            .iter()
            .filter(|(name, bytes)| now.get(*name) != Some(bytes))
            .map(|(name, bytes)| format!("{name}: {bytes} bytes, now {:?}", now.get(name)))
            .collect();
        let same = differ.is_empty() && now.len() == self.map_memory.len();
        self.checks.that(Check::Maps, same, || {
            format!(
                "{} maps, then {}; {}",
                self.map_memory.len(),
                now.len(),
                differ.join(", ")
            )
        });
        self.checks.number(
            Check::Maps,
            format!("{} maps, {} bytes", now.len(), now.values().sum::<u64>()),
        );
    }
}

fn tcp(flows: &Flows) -> impl Iterator<Item = census::Connection> {
    let flows = flows.flows.iter().filter(|flow| flow.protocol == "tcp");
    flows.map(census::connection)
}
