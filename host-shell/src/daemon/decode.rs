//! The first bytes of a dropped frame in words.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use etherparse::{
    ArpOperation, EtherType, IpNumber, LaxIpPayloadSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice,
};

use crate::mac::Mac;

/// Who sent what to whom, as far as the bytes tell. At an underlay port a VXLAN header,
/// or nothing, may stand in front of the packet.
pub(super) fn describe(header: &[u8], underlay: bool) -> String {
    if let (true, [8, 0, 0, 0, vni @ .., 0]) = (underlay, header.get(..8).unwrap_or_default()) {
        let vni = vni.iter().fold(0, |vni, byte| vni << 8 | u32::from(*byte));
        let inner = header.get(8..).unwrap_or_default();
        return format!("VXLAN VNI {vni}: {}", ethernet(inner));
    }
    let known = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP];
    let has_ethernet = known.iter().any(|ethertype| {
        let found = header.get(12..14);
        found.is_some_and(|found| found == ethertype.0.to_be_bytes())
    });
    if underlay && !has_ethernet {
        let packet = LaxSlicedPacket::from_ip(header);
        if let Some(words) = packet.ok().and_then(|packet| network(&packet)) {
            return words;
        }
    }
    ethernet(header)
}

fn ethernet(bytes: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
        return match bytes {
            [] => "nothing".to_owned(),
            bytes => format!("{} bytes, too few for Ethernet", bytes.len()),
        };
    };
    network(&packet).unwrap_or_else(|| match &packet.link {
        Some(LinkSlice::Ethernet2(link)) => {
            let (src, dst) = (Mac(link.source()), Mac(link.destination()));
            format!("{src} → {dst} ethertype {:#06x}", link.ether_type().0)
        }
        _ => "no Ethernet".to_owned(),
    })
}

/// The IP or ARP packet; `None` when there is none.
fn network(packet: &LaxSlicedPacket<'_>) -> Option<String> {
    Some(match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            transport((src.into(), dst.into()), ip.payload())
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            transport((src.into(), dst.into()), ip.payload())
        }
        LaxNetSlice::Arp(arp) => {
            let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
            let sender = address(arp.sender_protocol_addr())?;
            let target = address(arp.target_protocol_addr())?;
            match arp.operation() {
                ArpOperation::REQUEST => format!("arp: who has {target}? tells {sender}"),
                operation => format!("arp: operation {} of {sender} to {target}", operation.0),
            }
        }
    })
}

fn transport((src, dst): (IpAddr, IpAddr), payload: &LaxIpPayloadSlice<'_>) -> String {
    let number = payload.ip_number;
    let mut words = match payload.payload {
        [a, b, c, d, ..] if has_ports(number) && !payload.fragmented => {
            let ports = [[*a, *b], [*c, *d]].map(u16::from_be_bytes);
            let (src, dst) = (
                SocketAddr::new(src, ports[0]),
                SocketAddr::new(dst, ports[1]),
            );
            format!("{src} → {dst}")
        }
        _ => format!("{src} → {dst}"),
    };
    // Writing to a string does not fail.
    let _ = match number.keyword_str() {
        Some(name) => write!(words, " {}", name.to_ascii_lowercase()),
        None => write!(words, " protocol {}", number.0),
    };
    match payload.payload {
        _ if payload.fragmented => words += " fragment",
        [kind, code, ..] if [IpNumber::ICMP, IpNumber::IPV6_ICMP].contains(&number) => {
            let _ = write!(words, " type {kind} code {code}");
        }
        _ => {}
    }
    words
}

fn has_ports(number: IpNumber) -> bool {
    [IpNumber::TCP, IpNumber::UDP, IpNumber::SCTP].contains(&number)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame(v6: bool, tcp: bool) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v6 {
            false => ethernet.ipv4([10, 244, 1, 2], [10, 244, 2, 7], 64),
            true => ethernet.ipv6([0xfd; 16], [0xfe; 16], 64),
        };
        let mut out = Vec::new();
        match tcp {
            true => ip.tcp(1234, 80, 1, 100).write(&mut out, &[7; 500]).unwrap(),
            false => ip.udp(1234, 53).write(&mut out, &[7; 500]).unwrap(),
        }
        out
    }

    /// As an event has it.
    fn cut(frame: &[u8]) -> &[u8] {
        &frame[..frame.len().min(culvert_core::channel::HEADER_BYTES)]
    }

    #[test]
    fn addresses_protocol_and_ports_are_told() {
        let told = |v6, tcp| describe(cut(&frame(v6, tcp)), false);
        assert_eq!(told(false, true), "10.244.1.2:1234 → 10.244.2.7:80 tcp");
        assert_eq!(told(false, false), "10.244.1.2:1234 → 10.244.2.7:53 udp");
        // Of TCP over IPv6 there is only a part.
        let ends = [[0xfd; 16], [0xfe; 16]].map(std::net::Ipv6Addr::from);
        let expected = format!("[{}]:1234 → [{}]:80 tcp", ends[0], ends[1]);
        assert_eq!(told(true, true), expected);
    }

    #[test]
    fn what_the_underlay_brings_is_told_with_and_without_its_tunnel() {
        let inner = frame(false, false);
        let vxlan = [&[8, 0, 0, 0, 0, 0x10, 1, 0], &inner[..]].concat();
        let words = "10.244.1.2:1234 → 10.244.2.7:53 udp";
        for (bytes, expected) in [
            (&vxlan[..], format!("VXLAN VNI 4097: {words}")),
            (&inner, words.to_owned()),
            (&inner[14..], words.to_owned()),
        ] {
            assert_eq!(describe(cut(bytes), true), expected);
        }
    }

    #[test]
    fn what_has_no_ports_is_told_without() {
        let mut icmp = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut icmp, &[])
            .unwrap();
        assert_eq!(
            describe(&icmp, false),
            "10.0.0.1 → 10.0.0.2 icmp type 8 code 0"
        );
        let mut fragment = frame(false, false);
        fragment[20] |= 0x20;
        assert_eq!(
            describe(&fragment, false),
            "10.244.1.2 → 10.244.2.7 udp fragment"
        );
        let vlan = [&[4; 6][..], &[2; 6], &[0x88, 0xcc, 1, 2]].concat();
        let expected = "02:02:02:02:02:02 → 04:04:04:04:04:04 ethertype 0x88cc";
        assert_eq!(describe(&vlan, false), expected);
        let mut arp = vec![0xff; 6];
        arp.extend([2; 6]);
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend([[2; 6].as_slice(), &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 2]].concat());
        assert_eq!(
            describe(&arp, false),
            "arp: who has 10.0.0.2? tells 10.0.0.1"
        );
        assert_eq!(describe(&[1, 2, 3], true), "3 bytes, too few for Ethernet");
        assert_eq!(describe(&[], false), "nothing");
    }

    #[test]
    fn any_bytes_are_told() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..65);
        let told = runner.run(&(bytes, proptest::bool::ANY), |(bytes, underlay)| {
            assert!(!describe(&bytes, underlay).is_empty());
            Ok(())
        });
        told.unwrap();
    }
}
