//! What a new policy makes of old state, and aggregates as hypervisors and BIG
//! TCP hand them over.

use super::Test;
use super::build::{CLIENT_V4, Extra, Form};
use anyhow::{Context, Result, ensure};
use shaper_common::bucket::Limit;
use shaper_common::class::{CLASS_BLOCK, Class, SETTING_OBSERVE};
use shaper_common::control::op;
use shaper_common::key::{FlowKey, TCP, UDP};
use shaper_common::stats::Stat;
use shaper_tests::testbed::{DROP, Hook, PASS, Testbed, key, policy};

pub const TESTS: &[(&str, Test)] = &[
    ("a_debt_to_a_slow_limit_does_not_outlive_it", debts),
    ("a_counted_client_is_made_where_it_is_missing", counted),
    ("a_missing_client_is_made_again_and_counted", recreated),
    ("an_observed_block_is_counted_once", observed_block),
    ("an_aggregate_without_a_count_is_counted", uncounted),
    ("the_jumbo_option_of_big_tcp_is_not_on_the_wire", jumbo),
    ("later_fragments_of_other_protocols_are_left_alone", icmp),
    ("a_closed_udp_flow_is_counted_as_closed", udp_close),
];

fn tcp(form: &Form) -> FlowKey {
    key(form.client, form.client_port, form.local(), TCP)
}

fn client_key(form: &Form) -> FlowKey {
    FlowKey {
        client: tcp(form).client,
        ..FlowKey::default()
    }
}

fn debts() -> Result<()> {
    let form = Form::v4();
    // Eight seconds of debt for each kilobyte.
    let slow = Limit::new(1_000, 3_000);
    let fast = Limit::new(1_000_000_000, 100_000);
    let of_client = |upload| Class {
        upload,
        ..Class::default()
    };
    let of_flow = |flow_upload| Class {
        flow_upload,
        ..Class::default()
    };
    for [slow, fast] in [[slow, fast].map(of_client), [slow, fast].map(of_flow)] {
        let mut testbed = Testbed::new(&policy(slow, &[]))?;
        testbed.open(tcp(&form))?;
        let verdicts: Vec<_> = (0..10)
            .map(|_| testbed.run(Hook::Ingress, &form.build()))
            .collect::<Result<_>>()?;
        ensure!(verdicts.last() == Some(&DROP), "{verdicts:?}");
        testbed.apply(&policy(fast, &[]))?;
        // The first packet finds the debt; at the latest a burst later it is paid.
        testbed.run(Hook::Ingress, &form.build())?;
        std::thread::sleep(std::time::Duration::from_millis(2));
        ensure!(
            testbed.run(Hook::Ingress, &form.build())? == PASS,
            "still held by what it owed to the old limit"
        );
        // The same policy again buys no burst.
        testbed.apply(&policy(slow, &[]))?;
        while testbed.run(Hook::Ingress, &form.build())? == PASS {}
        testbed.apply(&policy(slow, &[]))?;
        let passed = (0..10)
            .map(|_| testbed.run(Hook::Ingress, &form.build()))
            .filter(|verdict| matches!(verdict, Ok(PASS)))
            .count();
        ensure!(passed <= 1, "{passed} packets for a reload");
    }
    Ok(())
}

fn counted() -> Result<()> {
    let form = Form::v4();
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    ensure!(testbed.control(op::COUNT, client_key(&form), 2)?);
    let client = testbed.client(CLIENT_V4)?.context("not made")?;
    ensure!(client.connections == 2, "{client:?}");
    Ok(())
}

fn recreated() -> Result<()> {
    let form = Form::v4();
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    testbed.open(tcp(&form))?;
    ensure!(testbed.stat(Stat::ClientsRecreated)? == 0);
    testbed.control(op::COUNT, client_key(&form), 0)?;
    ensure!(testbed.control(op::FORGET, client_key(&form), u64::MAX)?);
    ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    ensure!(testbed.stat(Stat::ClientsRecreated)? == 1);
    ensure!(testbed.control(op::CLOSE, tcp(&form), 0)?);
    let client = testbed.client(CLIENT_V4)?.context("client")?;
    ensure!(client.connections == 0, "below zero: {client:?}");
    Ok(())
}

fn observed_block() -> Result<()> {
    let form = Form::v4();
    let class = Class {
        flags: CLASS_BLOCK,
        upload: Limit::new(1_000, 1_500),
        ..Class::default()
    };
    let mut compiled = policy(class, &[]);
    compiled.settings.flags = SETTING_OBSERVE;
    let mut testbed = Testbed::new(&compiled)?;
    testbed.open(tcp(&form))?;
    for _ in 0..10 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    let observed = testbed.stat(Stat::ObservedPackets)?;
    ensure!(observed == 10, "{observed} of 10");
    Ok(())
}

fn uncounted() -> Result<()> {
    for form in [Form::v4(), Form::v6()] {
        let form = Form {
            payload: 2_500,
            ..form
        };
        let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
        testbed.open(tcp(&form))?;
        let packet = form.build();
        testbed.run_aggregate(Hook::Ingress, &packet, 0, 1_000)?;
        let traffic = testbed.flow(&tcp(&form))?.context("flow")?.traffic[0];
        let whole = (packet.len() - form.l2()) as u64;
        let headers = whole - 2_500;
        ensure!(
            (traffic.packets, traffic.bytes) == (3, whole + 2 * headers),
            "{traffic:?}"
        );
    }
    Ok(())
}

fn jumbo() -> Result<()> {
    let form = Form {
        payload: 3_000,
        reply: true,
        ..Form::v6()
    };
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    testbed.open(tcp(&form))?;
    let mut packet = form.build();
    let whole = (packet.len() - form.l2()) as u64;
    // Payload length 0, next header hop-by-hop: the jumbo payload option, TCP.
    packet[18..21].fill(0);
    let option = [6, 0, 0xc2, 4, 0, 0, 0x0b, 0xd8];
    packet.splice(54..54, option);
    testbed.run_aggregate(Hook::Egress, &packet, 3, 1_000)?;
    let traffic = testbed.flow(&tcp(&form))?.context("flow")?.traffic[1];
    let headers = whole - 3_000;
    ensure!(
        (traffic.packets, traffic.bytes) == (3, whole + 2 * headers),
        "{traffic:?}, not {} bytes",
        whole + 2 * headers
    );
    Ok(())
}

fn icmp() -> Result<()> {
    let form = Form::v4();
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    testbed.open(tcp(&form))?;
    let mut fragment = Form {
        extra: Extra::LaterFragment,
        ..form
    }
    .build();
    testbed.run(Hook::Ingress, &fragment)?;
    ensure!(testbed.stat(Stat::FragmentPackets)? == 1);
    // The protocol of the IPv4 header: ICMP.
    fragment[23] = 1;
    testbed.run(Hook::Ingress, &fragment)?;
    ensure!(
        testbed.stat(Stat::FragmentPackets)? == 1,
        "a ping was charged"
    );
    Ok(())
}

fn udp_close() -> Result<()> {
    let form = Form {
        udp: true,
        ..Form::v4()
    };
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    testbed.run(Hook::Ingress, &form.build())?;
    let flow = key(form.client, form.client_port, form.local(), UDP);
    ensure!(testbed.control(op::CLOSE, flow, 0)? && !testbed.control(op::CLOSE, flow, 0)?);
    ensure!(testbed.stat(Stat::FlowsOpened)? == 1 && testbed.stat(Stat::FlowsClosed)? == 1);
    Ok(())
}
