//! The checks before a connection: the same at XDP and at TC ingress.

use super::Test;
use super::build::{CLIENT_V4, Flags, Form};
use anyhow::{Result, ensure};
use shaper_common::bucket::Limit;
use shaper_common::class::{CLASS_BLOCK, Class, SETTING_OBSERVE};
use shaper_common::event::{EVENTS_PER_SEC, kind};
use shaper_common::key::TCP;
use shaper_common::names::IFACE_SHIELDED;
use shaper_common::stats::Stat;
use shaper_tests::testbed::{DROP, Hook, PASS, Testbed, XDP_DROP, XDP_PASS, key, policy};

pub const TESTS: &[(&str, Test)] = &[
    ("a_blocked_prefix_is_dropped_whatever_it_sends", blocked),
    (
        "syns_above_the_connection_rate_are_dropped",
        connection_rate,
    ),
    ("syns_at_max_connections_are_dropped", max_connections),
    ("spoofed_syns_make_no_state", spoofed),
    ("observe_lets_every_syn_through", observe),
    ("tc_leaves_a_shielded_interface_to_xdp", shielded),
    ("events_are_rate_limited", events),
];

fn syn(form: &Form) -> Vec<u8> {
    Form {
        flags: Flags::Syn,
        payload: 0,
        ..form.clone()
    }
    .build()
}

/// Whether each hook lets the packet through: XDP, TC.
fn both(testbed: &Testbed, packet: &[u8]) -> Result<(bool, bool)> {
    let xdp = testbed.run_shield(packet)?;
    ensure!(xdp == XDP_PASS || xdp == XDP_DROP, "XDP verdict {xdp}");
    let tc = testbed.run(Hook::Ingress, packet)?;
    ensure!(tc == PASS || tc == DROP, "TC verdict {tc}");
    Ok((xdp == XDP_PASS, tc == PASS))
}

fn blocked() -> Result<()> {
    let block = Class {
        flags: CLASS_BLOCK,
        ..Class::default()
    };
    let rules = [("198.51.100.0/24", block), ("2001:db8:1::/48", block)];
    let mut testbed = Testbed::new(&policy(Class::default(), &rules))?;
    for form in [Form::v4(), Form::v6()] {
        let udp = Form {
            udp: true,
            ..form.clone()
        };
        for packet in [syn(&form), form.build(), udp.build()] {
            ensure!(
                both(&testbed, &packet)? == (false, false),
                "{form:?} passed"
            );
        }
    }
    ensure!(testbed.stat(Stat::BlockedPackets)? == 12);
    let free = Form {
        client: "203.0.113.9".parse()?,
        ..Form::v4()
    };
    ensure!(
        both(&testbed, &syn(&free))? == (true, true),
        "a stranger was dropped"
    );
    let other_port = Form {
        port: 80,
        ..Form::v4()
    };
    ensure!(
        both(&testbed, &syn(&other_port))? == (true, true),
        "another port was dropped"
    );
    let sample = testbed.sample()?;
    ensure!(
        sample.flows.is_empty() && sample.clients.is_empty(),
        "a blocked source made state"
    );
    Ok(())
}

fn connection_rate() -> Result<()> {
    let connections = Limit::per_event(5, 3_600_000_000_000, 5);
    let class = Class {
        connections,
        ..Class::default()
    };
    for xdp in [true, false] {
        let mut testbed = Testbed::new(&policy(class, &[]))?;
        let mut passed = 0;
        for port in 0..20 {
            let packet = syn(&Form {
                client_port: 40_000 + port,
                ..Form::v4()
            });
            passed += usize::from(if xdp {
                testbed.run_shield(&packet)? == XDP_PASS
            } else {
                testbed.run(Hook::Ingress, &packet)? == PASS
            });
        }
        ensure!(passed == 5, "{passed} of 20 passed, XDP {xdp}");
        ensure!(testbed.stat(Stat::SynRateDropped)? == 15);
        // Data of an open connection is not the shield's business.
        testbed.open(key(CLIENT_V4, 50_000, Form::v4().local(), TCP))?;
        ensure!(both(&testbed, &Form::v4().build())? == (true, true));
        let other = Form {
            client: "203.0.113.9".parse()?,
            ..Form::v4()
        };
        ensure!(
            both(&testbed, &syn(&other))? == (true, true),
            "another client paid"
        );
    }
    Ok(())
}

fn max_connections() -> Result<()> {
    let class = Class {
        max_connections: 2,
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    let next = syn(&Form {
        client_port: 40_000,
        ..Form::v4()
    });
    for port in [50_000, 50_001] {
        ensure!(
            both(&testbed, &next)? == (true, true),
            "dropped below the bound"
        );
        testbed.open(key(CLIENT_V4, port, Form::v4().local(), TCP))?;
    }
    ensure!(
        both(&testbed, &next)? == (false, false),
        "passed at the bound"
    );
    ensure!(testbed.stat(Stat::SynMaxDropped)? == 2);
    let closed = key(CLIENT_V4, 50_000, Form::v4().local(), TCP);
    ensure!(testbed.control(shaper_common::control::op::CLOSE, closed, 0)?);
    ensure!(
        both(&testbed, &next)? == (true, true),
        "still dropped after a close"
    );
    Ok(())
}

fn spoofed() -> Result<()> {
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    let established = Form::v4();
    let flow_key = key(CLIENT_V4, established.client_port, established.local(), TCP);
    testbed.open(flow_key)?;
    testbed.run(Hook::Ingress, &established.build())?;
    let before = testbed.flow(&flow_key)?;
    for n in 0_u32..20_000 {
        let client = std::net::Ipv4Addr::from(0x0a00_0000 + n).into();
        testbed.run(
            Hook::Ingress,
            &syn(&Form {
                client,
                ..Form::v4()
            }),
        )?;
    }
    let sample = testbed.sample()?;
    ensure!(
        sample.flows.len() == 1 && sample.clients.len() == 1,
        "{} clients",
        sample.clients.len()
    );
    ensure!(
        testbed.flow(&flow_key)? == before,
        "the flood touched an open flow"
    );
    Ok(())
}

fn observe() -> Result<()> {
    let block = Class {
        flags: CLASS_BLOCK,
        ..Class::default()
    };
    let class = Class {
        connections: Limit::per_event(1, 3_600_000_000_000, 1),
        ..Class::default()
    };
    let mut compiled = policy(class, &[("203.0.113.0/24", block)]);
    compiled.settings.flags = SETTING_OBSERVE;
    let mut testbed = Testbed::new(&compiled)?;
    for port in 0..5 {
        let form = Form {
            client_port: 40_000 + port,
            ..Form::v4()
        };
        ensure!(both(&testbed, &syn(&form))? == (true, true));
        let form = Form {
            client: "203.0.113.9".parse()?,
            ..form
        };
        ensure!(both(&testbed, &syn(&form))? == (true, true));
    }
    let observed = testbed.stat(Stat::ObservedPackets)?;
    ensure!(
        observed == 19,
        "{observed}: all but the first SYN would have been dropped"
    );
    Ok(())
}

fn shielded() -> Result<()> {
    let class = Class {
        connections: Limit::per_event(1, 3_600_000_000_000, 1),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    // A test run's packet comes from the loopback device, index 1.
    testbed.set_interface(1, Some(IFACE_SHIELDED))?;
    for port in 0..5 {
        let packet = syn(&Form {
            client_port: 40_000 + port,
            ..Form::v4()
        });
        ensure!(
            testbed.run(Hook::Ingress, &packet)? == PASS,
            "charged twice"
        );
    }
    Ok(())
}

fn events() -> Result<()> {
    let block = Class {
        flags: CLASS_BLOCK,
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(block, &[]))?;
    let packet = syn(&Form::v4());
    for _ in 0..5 * EVENTS_PER_SEC {
        testbed.run(Hook::Ingress, &packet)?;
    }
    let sample = testbed.sample()?;
    let sent = sample.events.len() as u64;
    ensure!(sample.events.iter().all(|e| e.kind == kind::BLOCKED));
    ensure!(
        (EVENTS_PER_SEC..2 * EVENTS_PER_SEC).contains(&sent),
        "{sent} events"
    );
    ensure!(sample.stats[Stat::EventsSent as usize] == sent);
    ensure!(sample.stats[Stat::EventsLost as usize] == 5 * EVENTS_PER_SEC - sent);
    Ok(())
}
