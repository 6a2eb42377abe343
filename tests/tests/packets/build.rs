//! Packets in every form of headers that the programs read.

use etherparse::{
    IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options,
    Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions,
    PacketBuilder, PacketBuilderStep, TcpHeader, VlanId,
};
use shaper_tests::testbed::PORT;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub const LOCAL_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 7));
pub const LOCAL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub const CLIENT_PORT: u16 = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    None,
    Vlan,
    QinQ,
}

/// What stands between the IP header and the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    None,
    /// IPv4: options.
    Options,
    /// First fragment, ports present.
    FirstFragment,
    /// A later fragment.
    LaterFragment,
    /// IPv6: hop-by-hop, destination, routing, authentication.
    AllExtensions,
}

#[derive(Clone, Debug)]
pub struct Form {
    pub tags: Tags,
    pub v6: bool,
    pub extra: Extra,
    pub udp: bool,
    pub flags: Flags,
    /// From this host to the client.
    pub reply: bool,
    pub payload: usize,
    /// TCP acknowledgement number.
    pub ack: u32,
    pub client: IpAddr,
    pub client_port: u16,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    Data,
    Syn,
    SynAck,
    Fin,
    Rst,
}

impl Form {
    pub fn v4() -> Self {
        Self {
            tags: Tags::None,
            v6: false,
            extra: Extra::None,
            udp: false,
            flags: Flags::Data,
            reply: false,
            payload: 1000,
            ack: 0,
            client: CLIENT_V4,
            client_port: CLIENT_PORT,
            port: PORT,
        }
    }

    pub fn v6() -> Self {
        Self {
            v6: true,
            client: CLIENT_V6,
            ..Self::v4()
        }
    }

    pub fn local(&self) -> IpAddr {
        if self.v6 { LOCAL_V6 } else { LOCAL_V4 }
    }

    /// Bytes before the IP header.
    pub fn l2(&self) -> usize {
        14 + match self.tags {
            Tags::None => 0,
            Tags::Vlan => 4,
            Tags::QinQ => 8,
        }
    }

    /// The packet, from Ethernet on.
    pub fn build(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let id = |n| VlanId::try_new(n).unwrap();
        let ip = self.ip();
        let step = match self.tags {
            Tags::None => ethernet.ip(ip),
            Tags::Vlan => ethernet.single_vlan(id(7)).ip(ip),
            Tags::QinQ => ethernet.double_vlan(id(7), id(9)).ip(ip),
        };
        self.transport(step)
    }

    fn ip(&self) -> IpHeaders {
        let (source, destination) = if self.reply {
            (self.local(), self.client)
        } else {
            (self.client, self.local())
        };
        let offset = IpFragOffset::try_new(185).unwrap();
        let more = self.extra == Extra::FirstFragment;
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip =
                    Ipv4Header::new(0, 64, IpNumber::TCP, source.octets(), destination.octets())
                        .unwrap();
                ip.dont_fragment = false;
                ip.more_fragments = more;
                match self.extra {
                    Extra::Options => ip.options = Ipv4Options::try_from(&[1_u8; 12][..]).unwrap(),
                    Extra::LaterFragment => ip.fragment_offset = offset,
                    _ => {}
                }
                IpHeaders::Ipv4(ip, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                let mut extensions = Ipv6Extensions::default();
                let raw =
                    |payload: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber::TCP, payload).unwrap();
                match self.extra {
                    Extra::AllExtensions => {
                        extensions.hop_by_hop_options = Some(raw(&[1; 14]));
                        extensions.destination_options = Some(raw(&[1; 6]));
                        extensions.routing = Some(Ipv6RoutingExtensions {
                            routing: raw(&[0; 22]),
                            final_destination_options: None,
                        });
                        extensions.auth =
                            Some(IpAuthHeader::new(IpNumber::TCP, 1, 2, &[0; 12]).unwrap());
                    }
                    Extra::FirstFragment | Extra::LaterFragment => {
                        let offset = if more { IpFragOffset::ZERO } else { offset };
                        extensions.fragment =
                            Some(Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, 77));
                    }
                    _ => {}
                }
                IpHeaders::Ipv6(ip, extensions)
            }
            _ => unreachable!("a form has one family"),
        }
    }

    fn transport(&self, step: PacketBuilderStep<IpHeaders>) -> Vec<u8> {
        let (source, destination) = if self.reply {
            (self.port, self.client_port)
        } else {
            (self.client_port, self.port)
        };
        let payload = vec![0xa5; self.payload];
        let mut packet = Vec::new();
        if self.udp {
            step.udp(source, destination)
                .write(&mut packet, &payload)
                .unwrap();
            return packet;
        }
        let mut tcp = TcpHeader::new(source, destination, 1, 65_535);
        tcp.acknowledgment_number = self.ack;
        tcp.ack = self.flags != Flags::Syn;
        tcp.syn = matches!(self.flags, Flags::Syn | Flags::SynAck);
        tcp.fin = self.flags == Flags::Fin;
        tcp.rst = self.flags == Flags::Rst;
        tcp.set_options_raw(&[1; 12]).unwrap();
        step.tcp_header(tcp).write(&mut packet, &payload).unwrap();
        packet
    }
}

/// Every form of headers with ports.
pub fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for tags in [Tags::None, Tags::Vlan, Tags::QinQ] {
        for udp in [false, true] {
            for extra in [Extra::None, Extra::Options, Extra::FirstFragment] {
                forms.push(Form {
                    tags,
                    udp,
                    extra,
                    ..Form::v4()
                });
            }
            for extra in [Extra::None, Extra::AllExtensions, Extra::FirstFragment] {
                forms.push(Form {
                    tags,
                    udp,
                    extra,
                    ..Form::v6()
                });
            }
        }
    }
    forms
}
