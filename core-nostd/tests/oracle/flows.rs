//! Which flow a tunnel packet belongs to: all packets of a flow, and all fragments
//! of a packet, must leave by one outer source port (RFC 7348 section 4.2).

use std::collections::{BTreeMap, BTreeSet};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Source, destination and protocol, and of whole packets the ports.
pub(crate) type Flow = (Vec<u8>, Vec<u8>, u8, Option<(u16, u16)>);

/// The inner flow of a VXLAN packet, and its outer source port.
pub(crate) fn of(frame: &[u8]) -> Option<(Flow, u16)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let TransportSlice::Udp(udp) = packet.transport? else {
        return None;
    };
    let tunnel = [4789, 8472].contains(&udp.destination_port());
    let inner = udp.payload().get(8..).filter(|_| tunnel)?;
    Some((inner_flow(inner)?, udp.source_port()))
}

fn inner_flow(frame: &[u8]) -> Option<Flow> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst, protocol, fragment) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let ends = (header.source().to_vec(), header.destination().to_vec());
            (
                ends.0,
                ends.1,
                header.protocol().0,
                header.is_fragmenting_payload(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let ends = (header.source().to_vec(), header.destination().to_vec());
            let payload = ip.payload();
            (ends.0, ends.1, payload.ip_number.0, payload.fragmented)
        }
        NetSlice::Arp(_) => return None,
    };
    let ports = match packet.transport.filter(|_| !fragment) {
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        _ => None,
    };
    Some((src, dst, protocol, ports))
}

/// The source ports of each flow.
pub(crate) fn ports<'a>(frames: impl Iterator<Item = &'a [u8]>) -> BTreeMap<Flow, BTreeSet<u16>> {
    let mut all = BTreeMap::<Flow, BTreeSet<u16>>::new();
    for (flow, port) in frames.filter_map(of) {
        all.entry(flow).or_default().insert(port);
    }
    all
}
