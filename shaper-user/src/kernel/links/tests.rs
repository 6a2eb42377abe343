use super::*;
use netlink_packet_core::{NetlinkHeader, NetlinkMessage};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use proptest::prelude::*;

fn event(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), message.into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len().next_multiple_of(4)];
    packet.serialize(&mut bytes);
    bytes
}

fn message(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
    ];
    message
}

fn added(index: u32, name: &str) -> Vec<u8> {
    event(RouteNetlinkMessage::NewLink(message(index, name)))
}

fn removed(index: u32, name: &str) -> Vec<u8> {
    event(RouteNetlinkMessage::DelLink(message(index, name)))
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        ethernet: true,
        veth: true,
        up: true,
    }
}

fn listed(table: &Table) -> Vec<Link> {
    table.iter().cloned().collect()
}

fn route(added: bool, v6: bool, prefix: u8) -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header.address_family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.destination_prefix_length = prefix;
    message.attributes = vec![RouteAttribute::Oif(2)];
    event(if added {
        RouteNetlinkMessage::NewRoute(message)
    } else {
        RouteNetlinkMessage::DelRoute(message)
    })
}

#[test]
fn interfaces_come_are_renamed_and_go() {
    let mut table = Table::of(vec![link(2, "eth0")]);
    assert!(table.learn(&added(7, "eth1")).unwrap());
    assert_eq!(table.named("eth1"), Some(&link(7, "eth1")));
    assert!(table.learn(&added(7, "lan0")).unwrap());
    assert_eq!(table.get(7), Some(&link(7, "lan0")));
    assert_eq!(table.named("eth1"), None);
    assert!(table.learn(&removed(7, "lan0")).unwrap());
    assert_eq!(listed(&table), [link(2, "eth0")]);
    assert!(table.removed.contains(&7));
}

#[test]
fn one_that_goes_and_comes_back_is_told() {
    let mut table = Table::of(vec![link(2, "eth0")]);
    let events = [removed(2, "eth0"), added(2, "eth0")].concat();
    assert!(table.learn(&events).unwrap());
    assert_eq!(listed(&table), [link(2, "eth0")]);
    assert!(table.removed.contains(&2));
}

#[test]
fn what_changes_nothing_is_no_news() {
    let mut table = Table::of(vec![link(2, "eth0")]);
    // Its address, its carrier or its queue is another.
    assert!(!table.learn(&added(2, "eth0")).unwrap());
    assert!(!table.learn(&removed(9, "eth9")).unwrap());
    assert!(!table.learn(&[]).unwrap());
    // The default route may go with it, without an event of its own.
    let mut down = message(2, "eth0");
    down.header.flags = LinkFlags::empty();
    let down = event(RouteNetlinkMessage::NewLink(down));
    assert!(table.learn(&down).unwrap());
}

#[test]
fn a_port_that_leaves_its_bridge_is_still_there() {
    let mut table = Table::of(vec![link(2, "eth0")]);
    let mut port = message(2, "eth0");
    port.header.interface_family = AddressFamily::Bridge;
    let left = event(RouteNetlinkMessage::DelLink(port));
    assert!(!table.learn(&left).unwrap());
    assert!(table.named("eth0").is_some());
}

#[test]
fn only_a_default_route_is_news() {
    let mut table = Table::default();
    for v6 in [false, true] {
        for added in [false, true] {
            assert!(table.learn(&route(added, v6, 0)).unwrap());
            assert!(!table.learn(&route(added, v6, 24)).unwrap());
        }
    }
}

#[test]
fn a_datagram_has_many_events() {
    let mut table = Table::default();
    let events = [
        added(2, "eth0"),
        added(3, "a"),
        removed(2, "eth0"),
        route(true, false, 8),
        added(4, "bb"),
    ];
    assert!(table.learn(&events.concat()).unwrap());
    assert_eq!(listed(&table), [link(3, "a"), link(4, "bb")]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let whole = added(2, "eth0");
    for end in [1, 4, 15, 16, 20, 31, whole.len() - 4] {
        let _ = Table::default().learn(&whole[..end]);
        let mut table = Table::default();
        assert!(table.learn(&whole[..end]).is_err() || table == Table::default());
    }
    assert!(Table::default().learn(&whole[..whole.len() - 4]).is_err());
    let mut nameless = message(2, "");
    nameless.attributes.clear();
    let nameless = event(RouteNetlinkMessage::NewLink(nameless));
    assert!(Table::default().learn(&nameless).is_err());
    // NLMSG_OVERRUN.
    let mut overrun = vec![0; 20];
    overrun[0] = 20;
    overrun[4] = 4;
    assert!(Table::default().learn(&overrun).is_err());
}

#[test]
fn the_interfaces_of_this_host_are_listed_once() {
    let mut links = Links::open().unwrap();
    assert!(links.table().named("lo").is_some());
    links.follow_routes(true).unwrap();
    links.follow_routes(false).unwrap();
    links.refresh().unwrap();
    assert!(links.table().named("lo").is_some());
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(
        any in proptest::collection::vec(any::<u8>(), 0..200),
        (at, byte) in (0_usize..200, any::<u8>()),
    ) {
        let _ = Table::default().learn(&any);
        let mut damaged = [added(2, "eth0"), route(true, true, 0), removed(2, "eth0")].concat();
        let at = at % damaged.len();
        damaged[at] = byte;
        let _ = Table::default().learn(&damaged);
    }
}
