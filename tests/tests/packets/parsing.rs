//! Headers: what is counted where.

use super::Test;
use super::build::{CLIENT_V4, Extra, Flags, Form, Tags, forms};
use anyhow::{Context, Result, ensure};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, prelude::any};
use shaper_common::bucket::Limit;
use shaper_common::class::Class;
use shaper_common::key::{FlowKey, TCP, UDP};
use shaper_common::stats::Stat;
use shaper_tests::testbed::{Hook, PASS, Testbed, key, policy};

pub const TESTS: &[(&str, Test)] = &[
    ("every_form_is_counted_to_the_byte", every_form),
    ("every_form_truncated_at_every_byte_passes", truncated),
    ("malformed_headers_pass_and_are_counted", malformed),
    ("random_bytes_pass", random_bytes),
    ("an_aggregate_counts_each_segments_headers", aggregate),
    ("ethernet_padding_is_not_counted", padding),
    (
        "later_fragments_are_charged_to_a_known_client",
        later_fragments,
    ),
    ("other_ports_and_protocols_are_left_alone", foreign),
    ("handshake_packets_end_up_in_the_flow", handshake),
    ("tcp_without_a_flow_is_counted_apart", untracked),
];

fn form_key(form: &Form) -> FlowKey {
    key(
        form.client,
        form.client_port,
        form.local(),
        if form.udp { UDP } else { TCP },
    )
}

fn every_form() -> Result<()> {
    for form in forms() {
        let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
        let key = form_key(&form);
        if !form.udp {
            testbed.open(key)?;
        }
        for reply in [false, true] {
            let form = Form {
                reply,
                ..form.clone()
            };
            let hook = if reply { Hook::Egress } else { Hook::Ingress };
            let packet = form.build();
            ensure!(testbed.run(hook, &packet)? == PASS, "{form:?} was dropped");
            let wire = (packet.len() - form.l2()) as u64;
            let direction = usize::from(reply);
            let flow = testbed
                .flow(&key)?
                .with_context(|| format!("no flow for {form:?}"))?;
            let client = testbed.sample()?.clients[0].1;
            for traffic in [&flow.traffic[direction], &client.traffic[direction]] {
                ensure!(
                    (traffic.bytes, traffic.packets) == (wire, 1),
                    "{form:?}: {traffic:?}, expected {wire} bytes"
                );
            }
        }
        ensure!(testbed.stat(Stat::Truncated)? == 0 && testbed.stat(Stat::Malformed)? == 0);
    }
    Ok(())
}

fn truncated() -> Result<()> {
    for form in forms() {
        let form = Form { payload: 0, ..form };
        let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
        let key = form_key(&form);
        if !form.udp {
            testbed.open(key)?;
        }
        let packet = form.build();
        // What the transport's options take is not read.
        let read = packet.len() - if form.udp { 0 } else { 12 };
        for len in shortest(&form)..read {
            let before = testbed.stat(Stat::Truncated)?;
            ensure!(
                testbed.run(Hook::Ingress, &packet[..len])? == PASS,
                "{form:?} cut to {len}"
            );
            ensure!(
                testbed.run(Hook::Egress, &packet[..len])? == PASS,
                "{form:?} cut to {len}"
            );
            let counted = testbed.stat(Stat::Truncated)? - before;
            ensure!(
                counted == 2,
                "{form:?} cut to {len} of {}: counted {counted}",
                packet.len()
            );
        }
        let bytes = testbed.flow(&key)?.map_or(0, |flow| flow.traffic[0].bytes);
        ensure!(
            bytes == 0,
            "{form:?}: {bytes} bytes of cut packets were counted"
        );
    }
    Ok(())
}

/// The shortest packet that a test run takes: the kernel insists on a whole IP
/// header behind an Ethernet header that promises one. Behind a tag it does not
/// look, so that is where cut IP headers are tried.
fn shortest(form: &Form) -> usize {
    match (form.tags, form.v6) {
        (Tags::None, false) => 14 + 20,
        (Tags::None, true) => 14 + 40,
        _ => 15,
    }
}

fn malformed() -> Result<()> {
    let v4 = Form::v4();
    let v6 = Form::v6();
    // (form, offset from the IP header, value)
    let cases: [(&str, &Form, usize, &[u8]); 6] = [
        ("IPv4 with version 5", &v4, 0, &[0x55]),
        ("IPv4 header of 16 bytes", &v4, 0, &[0x44]),
        ("IPv4 shorter than its headers", &v4, 2, &[0, 30]),
        ("IPv6 with version 4", &v6, 0, &[0x40]),
        ("IPv6 shorter than its headers", &v6, 4, &[0, 8]),
        ("TCP header of 16 bytes", &v4, 20 + 12, &[0x40]),
    ];
    for (name, form, at, bytes) in cases {
        let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
        testbed.open(form_key(form))?;
        let mut packet = form.build();
        packet[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
        ensure!(
            testbed.run(Hook::Ingress, &packet)? == PASS,
            "{name} was dropped"
        );
        ensure!(
            testbed.stat(Stat::Malformed)? == 1,
            "{name} was not counted"
        );
        let flow = testbed.flow(&form_key(form))?.context("flow")?;
        ensure!(flow.traffic[0].bytes == 0, "{name} was counted in the flow");
    }
    Ok(())
}

fn random_bytes() -> Result<()> {
    let limit = Limit::new(1_000, 1);
    let class = Class {
        upload: limit,
        download: limit,
        ..Class::default()
    };
    let testbed = Testbed::new(&policy(class, &[]))?;
    let starts: Vec<Vec<u8>> = forms()
        .iter()
        .filter(|f| shortest(f) == 15)
        .map(|f| f.build()[..f.l2()].to_vec())
        .collect();
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(2000)
    });
    runner.run(
        &(0..starts.len(), collection::vec(any::<u8>(), 1..200)),
        |(start, bytes)| {
            let packet = [starts[start].clone(), bytes].concat();
            for hook in [Hook::Ingress, Hook::Egress] {
                proptest::prop_assert_eq!(testbed.run(hook, &packet).unwrap(), PASS);
            }
            Ok(())
        },
    )?;
    Ok(())
}

fn aggregate() -> Result<()> {
    for (form, headers) in [
        (Form::v4(), 20 + 32),
        (
            Form {
                tags: Tags::Vlan,
                ..Form::v6()
            },
            40 + 32,
        ),
    ] {
        let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
        testbed.open(form_key(&form))?;
        let form = Form {
            payload: 3000,
            ..form
        };
        let packet = form.build();
        testbed.run_aggregate(Hook::Ingress, &packet, 3, 1000)?;
        let traffic = testbed.flow(&form_key(&form))?.context("flow")?.traffic[0];
        let expected = 3 * headers + 3000;
        ensure!(
            (traffic.bytes, traffic.packets) == (expected, 3),
            "{traffic:?}, not {expected}"
        );
    }
    Ok(())
}

fn padding() -> Result<()> {
    let form = Form {
        payload: 0,
        ..Form::v4()
    };
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    testbed.open(form_key(&form))?;
    let mut packet = form.build();
    let wire = packet.len() as u64 - 14;
    packet.resize(packet.len() + 6, 0);
    testbed.run(Hook::Ingress, &packet)?;
    let traffic = testbed.flow(&form_key(&form))?.context("flow")?.traffic[0];
    ensure!(traffic.bytes == wire, "{traffic:?}, not {wire}");
    Ok(())
}

fn later_fragments() -> Result<()> {
    for form in [Form::v4(), Form::v6()] {
        let upload = Limit::new(8_000_000, 100_000);
        let mut testbed = Testbed::new(&policy(
            Class {
                upload,
                ..Class::default()
            },
            &[],
        ))?;
        let fragment = Form {
            extra: Extra::LaterFragment,
            udp: true,
            ..form.clone()
        };
        let packet = fragment.build();
        testbed.run(Hook::Ingress, &packet)?;
        ensure!(
            testbed.stat(Stat::FragmentPackets)? == 0,
            "counted for an unknown client"
        );
        ensure!(
            testbed.sample()?.clients.is_empty(),
            "a fragment made a client"
        );

        testbed.open(form_key(&form))?;
        let before = testbed.sample()?.clients[0].1.traffic[0];
        for _ in 0..200 {
            ensure!(
                testbed.run(Hook::Ingress, &packet)? == PASS,
                "a fragment was dropped"
            );
        }
        let after = testbed.sample()?.clients[0].1.traffic[0];
        let bytes = 200 * (packet.len() as u64 - 14);
        ensure!(testbed.stat(Stat::FragmentPackets)? == 200);
        ensure!(testbed.stat(Stat::FragmentBytes)? == bytes);
        let charged = after.tat - before.tat.max(testbed.sample()?.now - 1_000_000_000);
        ensure!(
            charged > upload.cost(bytes) / 2,
            "charged only {charged} ns"
        );
        ensure!(
            after.bytes == before.bytes,
            "counted in the client, not apart"
        );
    }
    Ok(())
}

fn foreign() -> Result<()> {
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    let other_port = Form {
        port: 444,
        udp: true,
        ..Form::v4()
    }
    .build();
    let mut arp = Form::v4().build();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut icmp = Form::v4().build();
    icmp[14 + 9] = 1;
    for packet in [&other_port, &arp, &icmp] {
        ensure!(testbed.run(Hook::Ingress, packet)? == PASS);
    }
    let sample = testbed.sample()?;
    ensure!(sample.flows.is_empty() && sample.clients.is_empty());
    ensure!(sample.stats.iter().all(|s| *s == 0), "{:?}", sample.stats);
    Ok(())
}

fn handshake() -> Result<()> {
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    let base = Form {
        payload: 0,
        ..Form::v4()
    };
    let syn = Form {
        flags: Flags::Syn,
        ..base.clone()
    }
    .build();
    let syn_ack = Form {
        flags: Flags::SynAck,
        reply: true,
        ..base.clone()
    }
    .build();
    let ack = base.build();
    // A retransmitted SYN counts as well.
    testbed.run(Hook::Ingress, &syn)?;
    testbed.run(Hook::Ingress, &syn)?;
    testbed.run(Hook::Egress, &syn_ack)?;
    testbed.run(Hook::Ingress, &ack)?;
    ensure!(testbed.sample()?.flows.is_empty(), "a SYN made a flow");
    ensure!(testbed.sample()?.clients.is_empty(), "a SYN made a client");
    testbed.open(form_key(&base))?;
    let flow = testbed.flow(&form_key(&base))?.context("flow")?;
    let client = testbed.client(CLIENT_V4)?.context("client")?;
    let up = (2 * syn.len() + ack.len()) as u64 - 3 * 14;
    let down = syn_ack.len() as u64 - 14;
    for traffic in [&flow.traffic, &client.traffic] {
        ensure!(
            (traffic[0].bytes, traffic[0].packets) == (up, 3),
            "{traffic:?}"
        );
        ensure!(
            (traffic[1].bytes, traffic[1].packets) == (down, 1),
            "{traffic:?}"
        );
    }
    ensure!(testbed.stat(Stat::UntrackedUploadPackets)? == 0);
    Ok(())
}

fn untracked() -> Result<()> {
    let mut testbed = Testbed::new(&policy(Class::default(), &[]))?;
    let form = Form::v4();
    let bytes = form.build().len() as u64 - 14;
    testbed.run(Hook::Ingress, &form.build())?;
    testbed.run(
        Hook::Egress,
        &Form {
            reply: true,
            ..form
        }
        .build(),
    )?;
    ensure!(testbed.sample()?.flows.is_empty());
    ensure!(testbed.stat(Stat::UntrackedUploadPackets)? == 1);
    ensure!(testbed.stat(Stat::UntrackedUploadBytes)? == bytes);
    ensure!(testbed.stat(Stat::UntrackedDownloadBytes)? == bytes);
    Ok(())
}
