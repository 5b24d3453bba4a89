//! Whether a frame on the wire is right, layer by layer, for etherparse and smoltcp.

use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress,
    IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

type Checked = Result<(), String>;

/// UDP ports of VXLAN in the cases.
const VXLAN: [u16; 2] = [4789, 8472];

fn said<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |e| format!("{what}: {e}")
}

fn ensure(right: bool, what: &str) -> Checked {
    if right { Ok(()) } else { Err(what.to_owned()) }
}

/// Checks a frame and everything in it: lengths, checksums, and no byte too many.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(frame: &[u8]) -> Checked {
    etherparse::PacketHeaders::from_ethernet_slice(frame).map_err(said("etherparse"))?;
    let ethernet = EthernetFrame::new_checked(frame).map_err(said("Ethernet"))?;
    let source = ethernet.src_addr();
    ensure(source.is_unicast(), "the Ethernet source is no device")?;
    match ethernet.ethertype() {
        EthernetProtocol::Arp => {
            let packet = ArpPacket::new_checked(ethernet.payload()).map_err(said("ARP"))?;
            ArpRepr::parse(&packet).map_err(said("ARP"))?;
            ensure(
                ethernet.payload().len() == 28,
                "ARP has bytes behind its end",
            )
        }
        EthernetProtocol::Ipv4 => ipv4(ethernet.payload()),
        EthernetProtocol::Ipv6 => ipv6(ethernet.payload()),
        EthernetProtocol::Unknown(kind) => Err(format!("ethertype {kind:#06x}")),
    }
}

fn ipv4(packet: &[u8]) -> Checked {
    let (header, _) = etherparse::Ipv4Header::from_slice(packet).map_err(said("etherparse"))?;
    ensure(
        header.header_checksum == header.calc_header_checksum(),
        "the IPv4 header checksum is wrong for etherparse",
    )?;
    let ip = Ipv4Packet::new_checked(packet).map_err(said("IPv4"))?;
    ensure(ip.verify_checksum(), "the IPv4 header checksum is wrong")?;
    ensure(
        usize::from(ip.total_len()) == packet.len(),
        "the IPv4 total length is not the packet's",
    )?;
    ensure(ip.hop_limit() > 0, "the TTL is 0")?;
    if ip.more_frags() || ip.frag_offset() > 0 {
        return ensure(
            !ip.more_frags() || ip.payload().len() % 8 == 0,
            "a fragment that is not the last has no multiple of 8 bytes",
        );
    }
    let ends = (ip.src_addr().into(), ip.dst_addr().into());
    upper(ip.next_header(), ends, ip.payload())
}

fn ipv6(packet: &[u8]) -> Checked {
    let (headers, payload) =
        etherparse::IpHeaders::from_ipv6_slice(packet).map_err(said("etherparse"))?;
    let ip = Ipv6Packet::new_checked(packet).map_err(said("IPv6"))?;
    ensure(
        ip.total_len() == packet.len(),
        "the IPv6 payload length is not the packet's",
    )?;
    ensure(ip.hop_limit() > 0, "the hop limit is 0")?;
    if headers.is_fragmenting_payload() {
        return Ok(());
    }
    let ends = (ip.src_addr().into(), ip.dst_addr().into());
    upper(payload.ip_number.0.into(), ends, payload.payload)
}

fn upper(protocol: IpProtocol, (src, dst): (IpAddress, IpAddress), payload: &[u8]) -> Checked {
    match protocol {
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).map_err(said("UDP"))?;
            ensure(udp.verify_checksum(&src, &dst), "the UDP checksum is wrong")?;
            ensure(
                usize::from(udp.len()) == payload.len(),
                "the UDP length is not the packet's",
            )?;
            if VXLAN.contains(&udp.dst_port()) {
                return vxlan(udp.payload());
            }
            let may_be_zero = matches!(src, IpAddress::Ipv4(_));
            ensure(
                udp.checksum() != 0 || may_be_zero,
                "UDP over IPv6 has no checksum",
            )
        }
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).map_err(said("TCP"))?;
            ensure(tcp.verify_checksum(&src, &dst), "the TCP checksum is wrong")
        }
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(payload).map_err(said("ICMP"))?;
            ensure(icmp.verify_checksum(), "the ICMP checksum is wrong")
        }
        IpProtocol::Icmpv6 => {
            let (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) = (src, dst) else {
                return Err("ICMPv6 in IPv4".into());
            };
            let icmp = Icmpv6Packet::new_checked(payload).map_err(said("ICMPv6"))?;
            ensure(
                icmp.verify_checksum(&src, &dst),
                "the ICMPv6 checksum is wrong",
            )
        }
        IpProtocol::Unknown(4) => ipv4(payload),
        IpProtocol::Unknown(41) => ipv6(payload),
        _ => Ok(()),
    }
}

/// RFC 7348 section 5: the I flag and nothing that is reserved.
fn vxlan(payload: &[u8]) -> Checked {
    let (header, frame) = payload
        .split_first_chunk::<8>()
        .ok_or("shorter than a VXLAN header")?;
    let reserved = [&header[1..4], &header[7..]].concat();
    ensure(
        header[0] == 8 && reserved == [0; 4],
        "the VXLAN header has another flag than I",
    )?;
    check(frame)
}
