//! A limit that clients share: they are refused together, pay for nothing that was
//! refused, and divide the window among them.

use super::Test;
use super::build::{CLIENT_V4, Form};
use anyhow::{Context, Result, ensure};
use etherparse::{PacketHeaders, TransportHeader};
use shaper_common::bucket::Limit;
use shaper_common::class::{CLASS_EXEMPT, Class};
use shaper_common::control::op;
use shaper_common::flow::CLIENT_LIMITED;
use shaper_common::key::{FlowKey, TCP};
use shaper_tests::testbed::{DROP, Hook, PASS, Testbed, key, policy};
use shaper_user::policy::{Compiled, GroupLimits, NamedGroup};
use std::net::{IpAddr, Ipv4Addr};

pub const TESTS: &[(&str, Test)] = &[
    ("clients_of_a_group_are_refused_together", together),
    ("a_refusal_by_the_group_charges_nobody", nobody_pays),
    (
        "udp_and_flows_without_room_are_of_the_group_too",
        others_too,
    ),
    ("an_exempt_client_is_of_no_group", exempt),
    ("clients_of_a_group_divide_the_window", windows),
    ("a_debt_of_the_group_does_not_outlive_its_limit", debts),
];

const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const TENANT: &str = "198.51.100.0/24";
/// 10 kbit/s: nothing refills during a test.
const SLOW: u64 = 10_000;

/// One group, of the clients in [`TENANT`].
fn tenant(class: Class) -> Compiled {
    let mut compiled = policy(Class::default(), &[(TENANT, class)]);
    compiled.groups = vec![NamedGroup {
        rule: TENANT.to_owned(),
        limits: GroupLimits::default(),
    }];
    compiled
}

fn group(limit: Limit) -> Class {
    Class {
        group_upload: limit,
        group_download: limit,
        ..Class::default()
    }
}

fn of(client: IpAddr) -> Form {
    Form {
        client,
        ..Form::v4()
    }
}

fn tcp(form: &Form) -> FlowKey {
    key(form.client, form.client_port, form.local(), TCP)
}

/// Runs the packet until it is dropped; how often it passed.
fn until_dropped(testbed: &Testbed, hook: Hook, packet: &[u8]) -> Result<u64> {
    for passed in 0..1_000 {
        if testbed.run(hook, packet)? == DROP {
            return Ok(passed);
        }
    }
    anyhow::bail!("never dropped")
}

fn together() -> Result<()> {
    for reply in [false, true] {
        let hook = if reply { Hook::Egress } else { Hook::Ingress };
        let [one, other, stranger] = [CLIENT_V4, OTHER, STRANGER].map(|client| Form {
            reply,
            ..of(client)
        });
        let mut testbed = Testbed::new(&tenant(group(Limit::new(SLOW, 10_000))))?;
        for form in [&one, &other, &stranger] {
            testbed.open(tcp(form))?;
        }
        for _ in 0..5 {
            ensure!(testbed.run(hook, &one.build())? == PASS);
        }
        // 5 of the burst's ten are left, and one beyond it.
        let passed = until_dropped(&testbed, hook, &other.build())?;
        ensure!((4..=6).contains(&passed), "{passed} more");
        ensure!(testbed.run(hook, &one.build())? == DROP);
        ensure!(testbed.run(hook, &stranger.build())? == PASS, "not of it");
        let sample = testbed.sample()?;
        let traffic = sample.groups[0].traffic[usize::from(reply)];
        ensure!(traffic.packets == 5 + passed && traffic.dropped_packets == 2);
        let client = testbed.client(OTHER)?.context("client")?;
        ensure!(client.flags & CLIENT_LIMITED << u32::from(reply) != 0);
    }
    Ok(())
}

fn nobody_pays() -> Result<()> {
    let generous = Limit::new(SLOW, 1_000_000);
    let class = Class {
        upload: generous,
        flow_upload: generous,
        ..group(Limit::new(SLOW, 3_000))
    };
    let form = of(CLIENT_V4);
    let mut testbed = Testbed::new(&tenant(class))?;
    testbed.open(tcp(&form))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    let tats = |testbed: &mut Testbed| -> Result<[u64; 2]> {
        let flow = testbed.flow(&tcp(&form))?.context("flow")?;
        let client = testbed.client(CLIENT_V4)?.context("client")?;
        Ok([flow.traffic[0].tat, client.traffic[0].tat])
    };
    let before = tats(&mut testbed)?;
    for _ in 0..20 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == DROP);
    }
    ensure!(
        tats(&mut testbed)? == before,
        "charged for what was refused"
    );
    Ok(())
}

fn others_too() -> Result<()> {
    let testbed = Testbed::new(&tenant(group(Limit::new(SLOW, 3_000))))?;
    let udp = Form {
        udp: true,
        ..of(CLIENT_V4)
    };
    until_dropped(&testbed, Hook::Ingress, &udp.build())?;
    // A first packet of another client finds the group's bucket as it is.
    let first = Form {
        udp: true,
        ..of(OTHER)
    };
    ensure!(testbed.run(Hook::Ingress, &first.build())? == DROP);
    Ok(())
}

fn exempt() -> Result<()> {
    let class = Class {
        flags: CLASS_EXEMPT,
        ..group(Limit::new(SLOW, 3_000))
    };
    let form = of(CLIENT_V4);
    let testbed = Testbed::new(&tenant(class))?;
    testbed.open(tcp(&form))?;
    for _ in 0..50 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    Ok(())
}

/// The window of what leaves.
fn window(testbed: &Testbed, form: &Form) -> Result<u16> {
    let reply = Form {
        reply: true,
        payload: 0,
        ..form.clone()
    };
    let (_, packet) = testbed.run_out(Hook::Egress, &reply.build())?;
    match PacketHeaders::from_ethernet_slice(&packet)?.transport {
        Some(TransportHeader::Tcp(tcp)) => Ok(tcp.window_size),
        _ => anyhow::bail!("not TCP any more"),
    }
}

fn windows() -> Result<()> {
    const SCALE: u64 = 7;
    let class = group(Limit::new(8_000_000, 100_000));
    let mut windows = Vec::new();
    for clients in [vec![CLIENT_V4], vec![CLIENT_V4, OTHER]] {
        let testbed = Testbed::new(&tenant(class))?;
        for client in &clients {
            let form = of(*client);
            ensure!(testbed.control(op::ADOPT, tcp(&form), SCALE + 1)?);
            // Enough to be active, and to have been tried.
            for _ in 0..60 / clients.len() {
                testbed.run(Hook::Ingress, &form.build())?;
            }
        }
        windows.push(u64::from(window(&testbed, &of(CLIENT_V4))?) << SCALE);
    }
    let [alone, shared] = windows[..] else {
        anyhow::bail!("two cases");
    };
    ensure!(alone < 65_535 << SCALE, "{alone} is not held");
    ensure!(
        shared < alone * 3 / 4,
        "{shared} of two, {alone} of one alone"
    );
    Ok(())
}

fn debts() -> Result<()> {
    let form = of(CLIENT_V4);
    let mut testbed = Testbed::new(&tenant(group(Limit::new(1_000, 3_000))))?;
    testbed.open(tcp(&form))?;
    until_dropped(&testbed, Hook::Ingress, &form.build())?;
    testbed.apply(&tenant(group(Limit::new(1_000_000_000, 100_000))))?;
    testbed.run(Hook::Ingress, &form.build())?;
    std::thread::sleep(std::time::Duration::from_millis(2));
    ensure!(
        testbed.run(Hook::Ingress, &form.build())? == PASS,
        "still held by what the group owed to the old limit"
    );
    Ok(())
}
