//! Full tables: connections without a flow are held with their client, clients
//! without room by one bucket, and who has no connection is charged to nobody.

use super::Test;
use super::build::{CLIENT_PORT, CLIENT_V4, CLIENT_V6, Flags, Form, LOCAL_V4, LOCAL_V6};
use anyhow::{Context, Result, ensure};
use shaper_common::bucket::Limit;
use shaper_common::class::Class;
use shaper_common::control::op;
use shaper_common::event::kind;
use shaper_common::flow::{Client, FLOW_UNCOUNTED, FULL_CLIENTS, FULL_FLOWS};
use shaper_common::key::{FlowKey, TCP, UDP};
use shaper_common::names;
use shaper_common::stats::Stat;
use shaper_tests::netns::{Namespace, next_number};
use shaper_tests::testbed::{DROP, Hook, PASS, PORT, Testbed, key, policy};
use shaper_user::policy::{Compiled, Tables};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

pub const TESTS: &[(&str, Test)] = &[
    (
        "without_room_for_its_flow_a_connection_is_held_with_its_client",
        || hosted(flows_full),
    ),
    (
        "without_room_clients_share_a_bucket_until_there_is_room",
        || hosted(clients_full),
    ),
    ("without_any_room_connections_share_a_bucket", || {
        hosted(both_full)
    }),
    (
        "a_flood_changes_no_flow_and_no_table_grows_beyond_its_bound",
        flood,
    ),
    ("a_flood_of_udp_pushes_out_its_own_flows", udp_flood),
];

const BURST: u64 = 20_000;

fn compiled(tables: Tables) -> Compiled {
    let class = Class {
        // 10 kbit/s: nothing refills during a test.
        upload: Limit::new(10_000, BURST),
        ..Class::default()
    };
    Compiled {
        tables,
        ..policy(class, &[])
    }
}

/// Room for so many flows and clients of TCP.
fn tables(flows: u32, clients: u32) -> Tables {
    Tables {
        flows,
        clients,
        ..Tables::default()
    }
}

fn tcp(form: &Form) -> FlowKey {
    key(form.client, form.client_port, form.local(), TCP)
}

fn another(n: u8) -> Form {
    Form {
        client: Ipv4Addr::new(203, 0, 113, n).into(),
        ..Form::v4()
    }
}

/// Runs a test in a network of its own: test runs look for sockets there.
fn hosted(test: fn(&Namespace) -> Result<()>) -> Result<()> {
    let namespace = Namespace::create(next_number(), "packets")?;
    for (address, bits) in [(LOCAL_V4, 32), (LOCAL_V6, 128)] {
        namespace.ip(&format!("addr add {address}/{bits} dev lo"))?;
    }
    namespace.enter(|| test(&namespace))
}

/// Real connections on the loopback.
struct Host<'a> {
    namespace: &'a Namespace,
    listener: Socket,
    connections: Vec<(Socket, Socket)>,
}

impl<'a> Host<'a> {
    fn new(namespace: &'a Namespace, clients: &[&Form]) -> Result<Self> {
        let listener = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        listener.set_only_v6(false)?;
        listener.set_reuse_address(true)?;
        listener.bind(&SockAddr::from(SocketAddr::from(([0; 16], PORT))))?;
        listener.listen(16)?;
        let mut host = Self {
            namespace,
            listener,
            connections: Vec::new(),
        };
        for client in clients {
            host.connect(client)?;
        }
        Ok(host)
    }

    fn connect(&mut self, form: &Form) -> Result<()> {
        let bits = if form.v6 { 128 } else { 32 };
        self.namespace
            .ip(&format!("addr add {}/{bits} dev lo", form.client))?;
        let to = SocketAddr::new(form.local(), PORT);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        let from = SocketAddr::new(form.client, form.client_port);
        socket.bind(&SockAddr::from(from))?;
        socket.connect(&SockAddr::from(to))?;
        let accepted = self.listener.accept()?.0;
        self.connections.push((socket, accepted));
        Ok(())
    }

    fn run(&self, testbed: &Testbed, form: &Form) -> Result<i32> {
        testbed.run(Hook::Ingress, &form.build())
    }

    /// How many bytes of a client pass before one packet is dropped.
    fn until_dropped(&self, testbed: &Testbed, form: &Form) -> Result<u64> {
        let len = form.build().len() as u64 - 14;
        for passed in 0..1_000 {
            match self.run(testbed, form)? {
                PASS => {}
                DROP => return Ok(passed * len),
                other => anyhow::bail!("verdict {other}"),
            }
        }
        anyhow::bail!("never dropped")
    }
}

fn shared(testbed: &mut Testbed) -> Result<Client> {
    Ok(testbed.sample()?.overflow)
}

/// Connections without a flow, as `sock_ops` would count them.
fn lacking(testbed: &Testbed, connections: u64) -> Result<()> {
    ensure!(testbed.control(op::OVERFLOW, FlowKey::default(), connections)?);
    Ok(())
}

fn burst_held(what: &str, bytes: u64) -> Result<()> {
    ensure!(
        (BURST..BURST + 2_200).contains(&bytes),
        "{what}: {bytes} bytes passed a burst of {BURST}"
    );
    Ok(())
}

fn flows_full(namespace: &Namespace) -> Result<()> {
    for form in [Form::v4(), Form::v6()] {
        let first = another(1);
        let mut testbed = Testbed::new(&compiled(tables(1, 100)))?;
        testbed.open(tcp(&first))?;
        let host = Host::new(namespace, &[&form])?;
        ensure!(testbed.open(tcp(&form)).is_err(), "there was room");
        let sample = testbed.sample()?;
        ensure!(sample.stats[Stat::FlowTableFull as usize] == 1);
        ensure!(sample.events.iter().any(|e| e.kind == kind::TABLE_FULL));
        ensure!(sample.overflow.flags & FULL_FLOWS != 0);
        // Nobody is known to lack a flow: no socket is looked for.
        ensure!(host.run(&testbed, &form)? == PASS);
        ensure!(testbed.client(form.client)?.is_none());

        lacking(&testbed, 1)?;
        // The second connection of the client, if it were one: it has no socket.
        let stranger = Form {
            client_port: CLIENT_PORT + 1,
            ..form.clone()
        };
        for _ in 0..100 {
            ensure!(host.run(&testbed, &stranger)? == PASS);
        }
        ensure!(
            testbed.client(form.client)?.is_none(),
            "charged to somebody"
        );
        burst_held("the client", host.until_dropped(&testbed, &form)?)?;
        let sample = testbed.sample()?;
        let expected = if form.v6 { CLIENT_V6 } else { CLIENT_V4 };
        ensure!(expected == form.client);
        // IPv6 clients are a /64.
        let (_, client) = sample
            .clients
            .iter()
            .find(|(key, _)| key.addr[0] == tcp(&form).client[0] && key.addr != tcp(&first).client)
            .filter(|(_, client)| client.traffic[0].bytes > 0)
            .context("the client")?;
        ensure!(client.traffic[0].dropped_packets == 1 && client.connections == 0);
        ensure!(sample.stats[Stat::OverflowBytes as usize] == client.traffic[0].bytes);
        ensure!(
            sample.overflow.traffic[0].packets == 0,
            "the shared bucket paid"
        );
        ensure!(host.run(&testbed, &first)? == PASS, "another client paid");
        // Control packets pass and are charged.
        let fin = Form {
            flags: Flags::Fin,
            payload: 0,
            ..form.clone()
        };
        ensure!(host.run(&testbed, &fin)? == PASS);

        // A close makes room.
        ensure!(testbed.control(op::CLOSE, tcp(&first), 0)?);
        ensure!(shared(&mut testbed)?.flags & FULL_FLOWS == 0);
        testbed.open(tcp(&form))?;
        ensure!(testbed.flow(&tcp(&form))?.is_some());
    }
    Ok(())
}

fn clients_full(namespace: &Namespace) -> Result<()> {
    let (first, second, third) = (another(1), another(2), another(3));
    let mut testbed = Testbed::new(&compiled(tables(100, 1)))?;
    let host = Host::new(namespace, &[])?;
    for form in [&first, &second, &third] {
        testbed.open(tcp(form))?;
    }
    ensure!(testbed.stat(Stat::ClientTableFull)? == 2);
    ensure!(shared(&mut testbed)?.flags & FULL_CLIENTS != 0);
    burst_held("the second", host.until_dropped(&testbed, &second)?)?;
    ensure!(host.run(&testbed, &third)? == DROP, "a bucket of its own");
    ensure!(host.run(&testbed, &first)? == PASS, "the first paid");
    ensure!(
        testbed.stat(Stat::ClientTableFull)? == 2,
        "tried for every packet"
    );
    let flow = testbed.flow(&tcp(&second))?.context("flow")?;
    let all = shared(&mut testbed)?.traffic[0];
    ensure!(flow.flags & FLOW_UNCOUNTED != 0);
    ensure!(flow.traffic[0].bytes == all.bytes && all.dropped_packets == 2);

    // A reload forgives what all together owe.
    testbed.apply(&compiled(tables(100, 1)))?;
    ensure!(host.run(&testbed, &third)? == PASS);

    // With room it gets a bucket of its own, and its connection is counted.
    ensure!(testbed.control(op::CLOSE, tcp(&first), 0)?);
    let forget = FlowKey {
        client: tcp(&first).client,
        ..FlowKey::default()
    };
    // It owes what it sent; another policy without a limit forgives that.
    testbed.apply(&Compiled {
        tables: tables(100, 1),
        ..policy(Class::default(), &[])
    })?;
    ensure!(host.run(&testbed, &first)? == PASS);
    let gone = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        testbed
            .control(op::FORGET, forget, u64::MAX)
            .unwrap_or(false)
    });
    ensure!(gone, "the first client was not forgotten");
    ensure!(host.run(&testbed, &second)? == PASS);
    let client = testbed
        .client(second.client)?
        .context("the second client")?;
    ensure!(client.connections == 1, "{client:?}");
    let flow = testbed.flow(&tcp(&second))?.context("flow")?;
    ensure!(flow.flags & FLOW_UNCOUNTED == 0);
    // Closing one that was never counted takes nothing from anybody.
    ensure!(testbed.control(op::CLOSE, tcp(&third), 0)?);
    ensure!(testbed.control(op::CLOSE, tcp(&second), 0)?);
    let client = testbed
        .client(second.client)?
        .context("the second client")?;
    ensure!(client.connections == 0, "{client:?}");
    Ok(())
}

fn both_full(namespace: &Namespace) -> Result<()> {
    let (first, second, third) = (another(1), another(2), another(3));
    let mut testbed = Testbed::new(&compiled(tables(1, 1)))?;
    testbed.open(tcp(&first))?;
    let host = Host::new(namespace, &[&second, &third])?;
    for form in [&second, &third] {
        ensure!(testbed.open(tcp(form)).is_err(), "there was room");
    }
    lacking(&testbed, 2)?;
    // A flood without connections, from anywhere.
    let mut random = Random(1);
    for _ in 0..5_000 {
        let form = random.form();
        ensure!(host.run(&testbed, &form)? == PASS);
    }
    ensure!(
        shared(&mut testbed)?.traffic[0].packets == 0,
        "a flood was charged"
    );
    burst_held("the second", host.until_dropped(&testbed, &second)?)?;
    ensure!(host.run(&testbed, &third)? == DROP, "a bucket of its own");
    ensure!(host.run(&testbed, &first)? == PASS, "the first paid");
    let sample = testbed.sample()?;
    ensure!(sample.clients.len() == 1 && sample.flows.len() == 1);
    ensure!(sample.stats[Stat::ClientTableFull as usize] == 1);
    ensure!(sample.overflow.connections == 2);
    Ok(())
}

/// A small generator (splitmix64): the same sources in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A segment with data from anywhere.
    fn form(&mut self) -> Form {
        let bits = self.next();
        let [a, b, c, d, e, f, ..] = bits.to_be_bytes();
        Form {
            client: IpAddr::V4(Ipv4Addr::new(1 + a % 190, b, c, d)),
            client_port: 1024 | u16::from_be_bytes([e, f]),
            payload: 10,
            ..Form::v4()
        }
    }
}

fn flood() -> Result<()> {
    const EACH: usize = 20_000;
    let form = Form::v4();
    let mut testbed = Testbed::new(&compiled(Tables::default()))?;
    testbed.open(tcp(&form))?;
    for _ in 0..5 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    let before = testbed.sample()?;
    let kept = |sample: &shaper_user::kernel::Sample| -> Result<_> {
        let flow = sample.flows.iter().find(|(key, _)| *key == tcp(&form));
        let client = sample
            .clients
            .iter()
            .find(|(key, _)| key.addr == tcp(&form).client);
        Ok((*flow.context("flow")?, *client.context("client")?))
    };
    let began = Instant::now();
    let mut random = Random(2);
    for _ in 0..EACH {
        let source = random.form();
        let fragment = Form {
            extra: super::build::Extra::LaterFragment,
            ..source.clone()
        };
        let udp = Form {
            udp: true,
            ..source.clone()
        };
        let kinds = [Flags::Syn, Flags::Data, Flags::Rst, Flags::Fin];
        let tcp = kinds.map(|flags| Form {
            flags,
            ..source.clone()
        });
        for form in tcp.iter().chain([&fragment, &udp]) {
            let packet = form.build();
            ensure!(testbed.run(Hook::Ingress, &packet)? == PASS, "{form:?}");
            testbed.run_shield(&packet)?;
        }
    }
    let after = testbed.sample()?;
    ensure!(kept(&before)? == kept(&after)?, "the flow was changed");
    let of = |protocol: u8| {
        let flows = after.flows.iter();
        flows.filter(|(key, _)| key.protocol == protocol).count()
    };
    ensure!(of(TCP) == 1, "the flood made {} flows", of(TCP));
    ensure!(of(UDP) <= names::MAX_UDP_FLOWS as usize);
    ensure!(after.clients.len() <= 1 + names::MAX_UDP_CLIENTS as usize);
    ensure!(testbed.entries(names::CLIENTS)? == 1);
    ensure!(testbed.entries(names::HANDSHAKES)? <= names::MAX_HANDSHAKES as usize);
    ensure!(testbed.entries(names::SYN_RATES)? <= names::MAX_SYN_RATES as usize);
    ensure!(after.overflow == before.overflow);
    // And the limit is where it was: the burst less what was sent, and what has
    // become free since, at 1250 bytes a second.
    let len = form.build().len() as u64 - 14;
    let mut passed = 5;
    while testbed.run(Hook::Ingress, &form.build())? == PASS {
        passed += 1;
    }
    let freed = began.elapsed().as_millis() as u64 * 1_250 / 1_000;
    let at_once = (passed * len).saturating_sub(freed);
    ensure!(
        passed * len >= BURST && at_once < BURST + 2_200,
        "after the flood: {} bytes passed a burst of {BURST} and {freed}",
        passed * len
    );
    Ok(())
}

fn udp_flood() -> Result<()> {
    let form = Form {
        udp: true,
        ..Form::v4()
    };
    let own = key(form.client, form.client_port, form.local(), UDP);
    let mut testbed = Testbed::new(&compiled(Tables::default()))?;
    for _ in 0..3 {
        ensure!(testbed.run(Hook::Ingress, &form.build())? == PASS);
    }
    let before = testbed.flow(&own)?.context("flow")?;
    ensure!(before.traffic[0].packets == 3, "{before:?}");
    let len = form.build().len() as u64 - 14;
    ensure!(before.traffic[0].bytes == 3 * len);
    let client = testbed.client(form.client)?.context("client")?;
    ensure!(client.traffic[0].packets == 3 && client.traffic[0].bytes == 3 * len);
    let mut random = Random(3);
    for _ in 0..4 * names::MAX_UDP_FLOWS {
        let source = Form {
            udp: true,
            ..random.form()
        };
        ensure!(testbed.run(Hook::Ingress, &source.build())? == PASS);
    }
    let after = testbed.flow(&own)?.context("the flow was pushed out")?;
    ensure!(before == after);
    let still = testbed
        .client(form.client)?
        .context("the client was pushed out")?;
    ensure!(client == still);
    Ok(())
}
