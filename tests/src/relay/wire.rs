//! Just enough parsing to tally a frame: Ethernet, VLAN tags, IP, ports.

use super::Peer;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];

/// The peer of a TCP or UDP frame and its length from the IP header on.
/// `None` for anything else, fragments and extension headers included.
pub fn parse(frame: &[u8], upload: bool) -> Option<(Peer, u64)> {
    let mut at = 12;
    let mut kind = word(frame, at)?;
    while VLAN.contains(&kind) {
        at += 4;
        kind = word(frame, at)?;
    }
    let ip = frame.get(at + 2..)?;
    let (source, destination, protocol, length, header): (IpAddr, IpAddr, u8, u64, usize) =
        match kind {
            IPV4 => {
                if word(ip, 6)? & 0x3fff != 0 {
                    return None;
                }
                let address = |at: usize| -> Option<IpAddr> {
                    let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
                    Some(Ipv4Addr::from(bytes).into())
                };
                (
                    address(12)?,
                    address(16)?,
                    *ip.get(9)?,
                    u64::from(word(ip, 2)?),
                    usize::from(ip.first()? & 15) * 4,
                )
            }
            IPV6 => {
                let address = |at: usize| -> Option<IpAddr> {
                    let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
                    Some(Ipv6Addr::from(bytes).into())
                };
                (
                    address(8)?,
                    address(24)?,
                    *ip.get(6)?,
                    u64::from(word(ip, 4)?) + 40,
                    40,
                )
            }
            _ => return None,
        };
    if protocol != shaper_common::key::TCP && protocol != shaper_common::key::UDP {
        return None;
    }
    let (client, port) = if upload {
        (source, word(ip, header + 2)?)
    } else {
        (destination, word(ip, header)?)
    };
    let peer = Peer {
        client,
        port,
        protocol,
    };
    Some((peer, length))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_v4(tags: &[u16]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for tag in tags {
            frame.extend([tag.to_be_bytes(), [0, 100]].concat());
        }
        frame.extend([0x08, 0x00, 0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend([10, 77, 0, 10, 10, 77, 0, 1]);
        frame.extend([0xc0, 0x01, 0x1f, 0x90]);
        frame.resize(frame.len() + 36, 0);
        frame
    }

    #[test]
    fn tags_are_skipped_and_sides_told_apart() {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let (peer, length) = parse(&tcp_v4(tags), true).unwrap();
            assert_eq!(
                (peer.client.to_string().as_str(), peer.port, length),
                ("10.77.0.10", 8080, 60)
            );
        }
        let (peer, _) = parse(&tcp_v4(&[]), false).unwrap();
        assert_eq!(
            (peer.client.to_string().as_str(), peer.port),
            ("10.77.0.1", 0xc001)
        );
    }

    #[test]
    fn truncated_frames_are_nobodys() {
        let frame = tcp_v4(&[0x8100]);
        for end in 0..42 {
            assert_eq!(parse(&frame[..end], true), None, "{end} bytes");
        }
    }
}
