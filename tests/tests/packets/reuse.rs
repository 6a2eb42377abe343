//! Programs that an earlier test has used: for the next one they are as new.

use super::Test;
use super::build::{Flags, Form};
use anyhow::{Result, ensure};
use shaper_common::bucket::Limit;
use shaper_common::class::Class;
use shaper_common::key::TCP;
use shaper_common::names;
use shaper_tests::testbed::{DROP, Hook, Testbed, key, policy};

pub const TESTS: &[(&str, Test)] = &[("programs_used_before_are_as_new", as_new)];

/// What packets and policies leave something in. The other maps: OVERFLOW is
/// for full tables, the rings are looked into below.
const TOUCHED: [&str; 14] = [
    names::FLOWS,
    names::UDP_FLOWS,
    names::CLIENTS,
    names::UDP_CLIENTS,
    names::HANDSHAKES,
    names::SYN_RATES,
    names::CLASSES,
    names::RULES,
    names::SETTINGS,
    names::PORTS,
    names::GENERATION,
    names::INTERFACES,
    names::STATS,
    names::EVENT_GATE,
];

fn as_new() -> Result<()> {
    let limits = Class {
        upload: Limit::new(10_000, 1_500),
        connections: Limit::per_event(5, 3_600_000_000_000, 5),
        ..Class::default()
    };
    let compiled = policy(limits, &[("203.0.113.0/24", limits)]);
    let mut testbed = Testbed::new(&compiled)?;
    testbed.set_interface(1, Some(0))?;
    let form = Form::v4();
    let tcp = key(form.client, form.client_port, form.local(), TCP);
    let udp = Form {
        udp: true,
        client: "203.0.113.9".parse()?,
        ..Form::v4()
    };
    let syn = Form {
        flags: Flags::Syn,
        payload: 0,
        client_port: 40_000,
        ..Form::v4()
    };
    let data = form.build();
    testbed.open(tcp)?;
    testbed.run(Hook::Ingress, &syn.build())?;
    testbed.run(Hook::Ingress, &udp.build())?;
    let refused = (0..10).any(|_| testbed.run(Hook::Ingress, &data).is_ok_and(|v| v == DROP));
    ensure!(refused, "nothing was dropped");
    let changed = testbed.changed()?;
    for name in TOUCHED {
        ensure!(changed.contains(&name), "{name} is not in {changed:?}");
    }

    testbed.reset()?;
    let changed = testbed.changed()?;
    ensure!(changed.is_empty(), "not as new: {changed:?}");
    let sample = testbed.sample()?;
    ensure!(
        sample.events.is_empty(),
        "events are left: {:?}",
        sample.events
    );

    // As the very first: nothing is in the way of a policy.
    testbed.apply(&compiled)?;
    ensure!(testbed.generation()? == 1, "not the first policy");
    testbed.open(tcp)?;
    ensure!(
        testbed.run(Hook::Ingress, &data)? != DROP,
        "a debt is left over"
    );
    Ok(())
}
