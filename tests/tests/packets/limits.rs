//! Limits: who is refused, who is charged, and what is said about it.

use super::Test;
use super::build::{CLIENT_V4, CLIENT_V6, Flags, Form};
use anyhow::{Context, Result, ensure};
use shaper_common::bucket::Limit;
use shaper_common::class::{CLASS_BLOCK, CLASS_EXEMPT, Class, SETTING_OBSERVE};
use shaper_common::control::op;
use shaper_common::event::kind;
use shaper_common::flow::CLIENT_LIMITED;
use shaper_common::key::{FlowKey, TCP, UDP};
use shaper_common::stats::Stat;
use shaper_tests::testbed::{DROP, Hook, PASS, Testbed, key, policy};
use std::time::Duration;

pub const TESTS: &[(&str, Test)] = &[
    (
        "over_the_burst_data_is_dropped_in_its_direction_only",
        over_the_burst,
    ),
    (
        "control_packets_always_pass_and_are_charged",
        control_packets,
    ),
    (
        "flow_and_client_must_both_admit_and_neither_pays_for_a_refusal",
        both_buckets,
    ),
    (
        "a_flow_has_limits_of_its_own_and_the_tighter_holds",
        own_limit,
    ),
    ("udp_is_limited_and_shares_the_clients_bucket_with_tcp", udp),
    ("observe_drops_nothing_and_counts_what_would_be", observe),
    ("an_exempt_client_is_counted_and_never_limited", exempt),
    ("a_new_generation_applies_to_the_next_packet", generations),
    ("clients_are_aggregated_by_prefix", aggregated),
    ("a_client_is_forgotten_only_when_it_owes_nothing", forgotten),
    ("being_limited_and_released_are_events", events),
];

/// 10 kbit/s: nothing refills during a test.
const SLOW: u64 = 10_000;

fn slow(burst: u64) -> Limit {
    Limit::new(SLOW, burst)
}

fn tcp(form: &Form) -> FlowKey {
    key(form.client, form.client_port, form.local(), TCP)
}

/// Runs the packet until it is dropped; how often it passed.
fn until_dropped(testbed: &Testbed, hook: Hook, packet: &[u8]) -> Result<u64> {
    for passed in 0..10_000 {
        match testbed.run(hook, packet)? {
            PASS => {}
            DROP => return Ok(passed),
            other => anyhow::bail!("verdict {other}"),
        }
    }
    anyhow::bail!("never dropped")
}

fn over_the_burst() -> Result<()> {
    for form in [Form::v4(), Form::v6()] {
        for reply in [false, true] {
            let form = Form {
                reply,
                ..form.clone()
            };
            let (hook, other, direction) = if reply {
                (Hook::Egress, Hook::Ingress, 1)
            } else {
                (Hook::Ingress, Hook::Egress, 0)
            };
            let mut class = Class::default();
            if reply {
                class.download = slow(20_000);
            } else {
                class.upload = slow(20_000);
            }
            let mut testbed = Testbed::new(&policy(class, &[]))?;
            testbed.open(tcp(&form))?;
            let packet = form.build();
            let len = packet.len() as u64 - 14;
            let passed = until_dropped(&testbed, hook, &packet)?;
            ensure!(
                (20_000..=20_000 + 2 * len).contains(&(passed * len)),
                "{passed} packets of {len} passed a burst of 20,000"
            );
            let flow = testbed.flow(&tcp(&form))?.context("flow")?;
            let client = testbed.client_of(&form)?;
            for traffic in [flow.traffic[direction], client.traffic[direction]] {
                ensure!(
                    (traffic.packets, traffic.bytes) == (passed, passed * len),
                    "{traffic:?}"
                );
                ensure!(
                    (traffic.dropped_packets, traffic.dropped_bytes) == (1, len),
                    "{traffic:?}"
                );
            }
            ensure!(
                testbed.stat(Stat::LimitedPackets)? == 1
                    && testbed.stat(Stat::LimitedBytes)? == len
            );
            let reply = Form {
                reply: !reply,
                ..form.clone()
            }
            .build();
            for _ in 0..100 {
                ensure!(
                    testbed.run(other, &reply)? == PASS,
                    "the other direction was limited"
                );
            }
        }
    }
    Ok(())
}

trait ClientOf {
    fn client_of(&mut self, form: &Form) -> Result<shaper_common::flow::Client>;
}

impl ClientOf for Testbed {
    fn client_of(&mut self, form: &Form) -> Result<shaper_common::flow::Client> {
        let clients = self.sample()?.clients;
        ensure!(clients.len() == 1, "{} clients for {form:?}", clients.len());
        Ok(clients[0].1)
    }
}

fn control_packets() -> Result<()> {
    let form = Form::v4();
    let limits = Class {
        upload: slow(1500),
        flow_upload: slow(1500),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(limits, &[]))?;
    testbed.open(tcp(&form))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    for (name, flags, payload) in [
        ("SYN", Flags::Syn, 0),
        ("FIN with data", Flags::Fin, 500),
        ("RST", Flags::Rst, 0),
        ("bare ACK", Flags::Data, 0),
    ] {
        let before = testbed.client(CLIENT_V4)?.context("client")?.traffic[0];
        let packet = Form {
            flags,
            payload,
            ..form.clone()
        }
        .build();
        ensure!(
            testbed.run(Hook::Ingress, &packet)? == PASS,
            "{name} was dropped"
        );
        let after = testbed.client(CLIENT_V4)?.context("client")?.traffic[0];
        ensure!(after.tat > before.tat, "{name} was not charged");
        ensure!(after.bytes > before.bytes, "{name} was not counted");
    }
    ensure!(
        testbed.run(Hook::Ingress, &form.build())? == DROP,
        "data must still be refused"
    );
    Ok(())
}

fn both_buckets() -> Result<()> {
    let form = Form::v4();
    // The flow refuses first.
    let class = Class {
        upload: slow(1_000_000),
        flow_upload: slow(10_000),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    testbed.open(tcp(&form))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    let before = testbed.client(CLIENT_V4)?.context("client")?.traffic[0].tat;
    ensure!(testbed.run(Hook::Ingress, &form.build())? == DROP);
    let after = testbed.client(CLIENT_V4)?.context("client")?.traffic[0].tat;
    ensure!(before == after, "the client paid for what its flow refused");
    // A second flow of the client has a bucket of its own.
    let second = Form {
        client_port: 50_001,
        ..form.clone()
    };
    testbed.open(tcp(&second))?;
    ensure!(testbed.run(Hook::Ingress, &second.build())? == PASS);

    // The client refuses first.
    let class = Class {
        upload: slow(10_000),
        flow_upload: slow(1_000_000),
        ..Class::default()
    };
    drop(testbed);
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    testbed.open(tcp(&form))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    let before = testbed.flow(&tcp(&form))?.context("flow")?.traffic[0].tat;
    ensure!(testbed.run(Hook::Ingress, &form.build())? == DROP);
    let after = testbed.flow(&tcp(&form))?.context("flow")?.traffic[0].tat;
    ensure!(before == after, "the flow paid for what its client refused");
    // Opening more connections buys nothing.
    testbed.open(tcp(&second))?;
    ensure!(testbed.run(Hook::Ingress, &second.build())? == DROP);
    Ok(())
}

fn own_limit() -> Result<()> {
    let form = Form::v4();
    let second = Form {
        client_port: 50_001,
        ..form.clone()
    };
    let testbed = Testbed::new(&policy(Class::default(), &[]))?;
    ensure!(
        !testbed.limit_flow(tcp(&form), [slow(20_000); 2])?,
        "absent"
    );
    for form in [&form, &second] {
        testbed.open(tcp(form))?;
    }
    // Without a limit of its class, in its direction only, and alone.
    ensure!(testbed.limit_flow(tcp(&form), [slow(20_000), Limit::NONE])?);
    let len = form.build().len() as u64 - 14;
    let passed = until_dropped(&testbed, Hook::Ingress, &form.build())?;
    ensure!(
        (20_000..=20_000 + 2 * len).contains(&(passed * len)),
        "{passed} packets of {len} passed a burst of 20,000"
    );
    ensure!(testbed.run(Hook::Ingress, &second.build())? == PASS);
    let reply = Form {
        reply: true,
        ..form.clone()
    };
    ensure!(testbed.run(Hook::Egress, &reply.build())? == PASS);
    // Lifted, it passes.
    ensure!(testbed.limit_flow(tcp(&form), [Limit::NONE; 2])?);
    ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);

    // A slower limit of the class holds on, a faster one gives way.
    for (class_bps, own_bps) in [(SLOW, 2 * SLOW), (2 * SLOW, SLOW)] {
        let class = Class {
            flow_upload: Limit::new(class_bps, 20_000 * class_bps / SLOW),
            ..Class::default()
        };
        let testbed = Testbed::new(&policy(class, &[]))?;
        testbed.open(tcp(&form))?;
        let own = Limit::new(own_bps, 20_000 * own_bps / SLOW);
        ensure!(testbed.limit_flow(tcp(&form), [own, Limit::NONE])?);
        let passed = until_dropped(&testbed, Hook::Ingress, &form.build())?;
        ensure!((20_000..=20_000 + 2 * len).contains(&(passed * len)));
    }
    Ok(())
}

fn udp() -> Result<()> {
    let form = Form {
        udp: true,
        ..Form::v4()
    };
    let class = Class {
        upload: slow(20_000),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    let flow = testbed.flow(&key(form.client, form.client_port, form.local(), UDP))?;
    ensure!(
        flow.is_some_and(|f| f.traffic[0].dropped_packets == 1),
        "{flow:?}"
    );
    // TCP of the same client inherits debt and counters.
    let before = testbed.client(CLIENT_V4)?.context("UDP client")?;
    let stream = Form::v4();
    testbed.open(tcp(&stream))?;
    ensure!(
        testbed.run(Hook::Ingress, &stream.build())? == DROP,
        "TCP got a fresh burst"
    );
    let after = testbed.client_of(&stream)?;
    ensure!(after.traffic[0].tat >= before.traffic[0].tat && after.connections == 1);
    ensure!(
        testbed.run(Hook::Ingress, &form.build())? == DROP,
        "UDP got a fresh burst"
    );
    Ok(())
}

fn observe() -> Result<()> {
    let form = Form::v4();
    let class = Class {
        upload: slow(10_000),
        ..Class::default()
    };
    let mut compiled = policy(class, &[]);
    compiled.settings.flags = SETTING_OBSERVE;
    let mut testbed = Testbed::new(&compiled)?;
    testbed.open(tcp(&form))?;
    for _ in 0..100 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    let client = testbed.client(CLIENT_V4)?.context("client")?;
    ensure!(client.traffic[0].packets == 100 && client.traffic[0].dropped_packets == 0);
    ensure!(client.flags & CLIENT_LIMITED != 0, "not marked as limited");
    let observed = testbed.stat(Stat::ObservedPackets)?;
    ensure!((80..100).contains(&observed), "{observed} of 100");
    ensure!(testbed.stat(Stat::LimitedPackets)? == 0);
    Ok(())
}

fn exempt() -> Result<()> {
    let limits = Class {
        upload: slow(1500),
        flow_upload: slow(1500),
        ..Class::default()
    };
    let free = Class {
        flags: CLASS_EXEMPT,
        max_connections: 1,
        ..limits
    };
    let mut testbed = Testbed::new(&policy(limits, &[("198.51.100.0/24", free)]))?;
    let form = Form::v4();
    testbed.open(tcp(&form))?;
    for _ in 0..100 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    let client = testbed.client(CLIENT_V4)?.context("client")?;
    ensure!(client.traffic[0].packets == 100 && client.class == 1);
    Ok(())
}

fn generations() -> Result<()> {
    let form = Form::v4();
    let open = Class::default();
    let tight = Class {
        upload: slow(1500),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(open, &[]))?;
    testbed.open(tcp(&form))?;
    for _ in 0..50 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    testbed.apply(&policy(
        open,
        &[("198.51.100.0/24", open), ("198.51.100.7/32", tight)],
    ))?;
    let passed = until_dropped(&testbed, Hook::Ingress, &form.build())?;
    ensure!(passed <= 3, "{passed} passed after the switch");
    ensure!(
        testbed.client(CLIENT_V4)?.context("client")?.class == 2,
        "not the longest prefix"
    );
    let blocked = Class {
        flags: CLASS_BLOCK,
        ..open
    };
    testbed.apply(&policy(open, &[("198.51.100.7/32", blocked)]))?;
    ensure!(
        testbed.run(
            Hook::Ingress,
            &Form {
                payload: 0,
                ..form.clone()
            }
            .build()
        )? == DROP
    );
    ensure!(
        testbed.run(
            Hook::Egress,
            &Form {
                reply: true,
                ..form.clone()
            }
            .build()
        )? == PASS
    );
    testbed.apply(&policy(open, &[]))?;
    ensure!(
        testbed.run(Hook::Ingress, &form.build())? == PASS,
        "still blocked"
    );
    Ok(())
}

fn aggregated() -> Result<()> {
    let class = Class {
        upload: slow(10_000),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    let first = Form::v6();
    let neighbour = Form {
        client: "2001:db8:1:2::99".parse()?,
        ..Form::v6()
    };
    let stranger = Form {
        client: "2001:db8:1:3::7".parse()?,
        ..Form::v6()
    };
    for form in [&first, &neighbour, &stranger] {
        testbed.open(tcp(form))?;
    }
    until_dropped(&testbed, Hook::Ingress, &first.build())?;
    ensure!(
        testbed.run(Hook::Ingress, &neighbour.build())? == DROP,
        "another bucket in one /64"
    );
    ensure!(
        testbed.run(Hook::Ingress, &stranger.build())? == PASS,
        "one bucket for two /64"
    );
    let client = testbed
        .client("2001:db8:1:2::".parse()?)?
        .context("client")?;
    ensure!(client.connections == 2 && testbed.client(CLIENT_V6)?.is_none());
    Ok(())
}

fn forgotten() -> Result<()> {
    let class = Class {
        upload: slow(3000),
        ..Class::default()
    };
    let testbed = Testbed::new(&policy(class, &[]))?;
    let form = Form::v4();
    testbed.open(tcp(&form))?;
    let client = FlowKey {
        client: tcp(&form).client,
        ..FlowKey::default()
    };
    let now = u64::MAX;
    ensure!(
        !testbed.control(op::FORGET, client, now)?,
        "forgotten with a connection"
    );
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    ensure!(testbed.control(op::CLOSE, tcp(&form), 0)?);
    ensure!(!testbed.control(op::CLOSE, tcp(&form), 0)?, "closed twice");
    ensure!(
        !testbed.control(op::FORGET, client, now)?,
        "forgotten with debt"
    );
    // The same client comes back: the debt is still there.
    testbed.open(tcp(&form))?;
    ensure!(
        testbed.run(Hook::Ingress, &form.build())? == DROP,
        "reconnecting bought a burst"
    );
    testbed.control(op::CLOSE, tcp(&form), 0)?;

    drop(testbed);
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    testbed.open(tcp(&form))?;
    testbed.control(op::CLOSE, tcp(&form), 0)?;
    ensure!(
        !testbed.control(op::FORGET, client, 1)?,
        "forgotten though seen just now"
    );
    ensure!(testbed.control(op::FORGET, client, now)?, "not forgotten");
    ensure!(testbed.sample()?.clients.is_empty());
    Ok(())
}

fn events() -> Result<()> {
    // 8 Mbit/s with a small burst: full again after 12 ms.
    let class = Class {
        upload: Limit::new(8_000_000, 10_000),
        ..Class::default()
    };
    let mut testbed = Testbed::new(&policy(class, &[]))?;
    let form = Form::v4();
    testbed.open(tcp(&form))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    for _ in 0..20 {
        testbed.run(Hook::Ingress, &form.build())?;
    }
    let sample = testbed.sample()?;
    let kinds: Vec<u32> = sample.events.iter().map(|e| e.kind).collect();
    ensure!(kinds == [kind::LIMITED], "{kinds:?}");
    // Held from the refusal until the bucket is full again: the whole debt.
    let client = sample.clients[0].1;
    let held = Duration::from_nanos(client.held[0]);
    let least = Duration::from_millis(9);
    ensure!((least..2 * least).contains(&held), "held for {held:?}");
    let deadline = client.traffic[0].tat;
    while shaper_user::kernel::sys::ktime() < deadline {
        std::thread::yield_now();
    }
    testbed.run(Hook::Ingress, &form.build())?;
    let kinds: Vec<u32> = testbed.sample()?.events.iter().map(|e| e.kind).collect();
    ensure!(kinds == [kind::RELEASED], "{kinds:?}");
    ensure!(testbed.client(CLIENT_V4)?.context("client")?.flags & CLIENT_LIMITED == 0);
    Ok(())
}
