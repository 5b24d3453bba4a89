//! The filters that join a TAP to the underlay's device.

use std::net::IpAddr;

use culvert_core::wire::ip;

use super::{Filter, Hand, PresentFilter, Word};
use crate::dataplane::UnderlayOptions;

/// The first priority of culvert's filters; each has one of its own. Those that are set
/// without a priority have 49152 and less.
const FIRST_PRIORITY: u16 = 51_970;
/// As many as there can be.
const PRIORITIES: u16 = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_ARP: u16 = 0x0806;
/// Protocol numbers.
const ICMP: u8 = 1;
const UDP: u8 = 17;
const IPV6_ICMP: u8 = 58;

/// The filters at the underlay's device: tunnel packets for this node go to the TAP with
/// the index `tap`, past the node's own network stack, and copies of what neighbors and
/// routers say about the way (ARP and ND answers, ICMP about packets that were too large).
/// Fragments stay with the kernel: only the first one would tell that it is a tunnel's.
pub fn filters_to_tap(options: &UnderlayOptions, tap: u32) -> Vec<Filter> {
    let address = options.address;
    let mut priorities = FIRST_PRIORITY..FIRST_PRIORITY + PRIORITIES;
    let ethertype = match address {
        IpAddr::V4(_) => ETHERTYPE_IPV4,
        IpAddr::V6(_) => ETHERTYPE_IPV6,
    };
    let mut filter = |ethertype, hand, words| Filter {
        // There are more than are asked for.
        priority: priorities.next().unwrap_or(u16::MAX),
        ethertype,
        words,
        hand,
        target: tap,
    };
    let mut all = Vec::new();
    if let Some(port) = options.udp_port {
        let words = packet(address, UDP, Some((0x0000_ffff, u32::from(port))));
        all.push(filter(ethertype, Hand::Over, words));
    }
    if options.ipip {
        for protocol in [ip::IPV4, ip::IPV6] {
            let words = packet(address, protocol, None);
            all.push(filter(ethertype, Hand::Over, words));
        }
    }
    match address {
        IpAddr::V4(_) => {
            let reply = Word {
                at: 4,
                mask: 0x0000_ffff,
                value: 2,
            };
            all.push(filter(ETHERTYPE_ARP, Hand::Copy, vec![reply]));
            // Destination unreachable: fragmentation needed.
            let words = packet(address, ICMP, Some((0xffff_0000, 0x0304_0000)));
            all.push(filter(ethertype, Hand::Copy, words));
        }
        IpAddr::V6(_) => {
            let mut advertisement = packet(address, IPV6_ICMP, Some((0xff00_0000, 136 << 24)));
            // It may be for all nodes.
            advertisement.retain(|word| !(24..40).contains(&word.at));
            all.push(filter(ethertype, Hand::Copy, advertisement));
            let words = packet(address, IPV6_ICMP, Some((0xff00_0000, 2 << 24)));
            all.push(filter(ethertype, Hand::Copy, words));
        }
    }
    all
}

/// What an unfragmented packet without options for `address` has, and the first word
/// behind its header.
fn packet(address: IpAddr, protocol: u8, upper: Option<(u32, u32)>) -> Vec<Word> {
    let word = |at, mask, value| Word { at, mask, value };
    let mut words = match address {
        IpAddr::V4(v4) => vec![
            word(0, 0x0f00_0000, 5 << 24),
            word(4, 0x0000_3fff, 0),
            word(8, 0x00ff_0000, u32::from(protocol) << 16),
            word(16, u32::MAX, v4.to_bits()),
        ],
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let (words, _) = octets.as_chunks::<4>();
            let words = words.iter().zip([24, 28, 32, 36]);
            let address = words.map(|(octets, at)| word(at, u32::MAX, u32::from_be_bytes(*octets)));
            let protocol = word(4, 0x0000_ff00, u32::from(protocol) << 8);
            std::iter::once(protocol).chain(address).collect()
        }
    };
    let behind = if address.is_ipv4() { 20 } else { 40 };
    words.extend(upper.map(|(mask, value)| word(behind, mask, value)));
    words
}

/// The filter at the TAP: all that is written into it leaves by the underlay's device, which
/// has the index `underlay`.
pub fn filter_from_tap(underlay: u32) -> Filter {
    Filter {
        priority: FIRST_PRIORITY,
        ethertype: Filter::ALL,
        words: Vec::new(),
        hand: Hand::Over,
        target: underlay,
    }
}

impl PresentFilter {
    /// Whether it is one that culvert makes.
    pub fn is_ours(&self) -> bool {
        let ours = FIRST_PRIORITY..FIRST_PRIORITY + PRIORITIES;
        ours.contains(&self.priority) && self.kind == "u32"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(address: &str, ipip: bool) -> UnderlayOptions {
        UnderlayOptions {
            address: address.parse().unwrap(),
            udp_port: Some(8472),
            ipip,
            zero_udp_checksum: false,
            may_fragment: false,
        }
    }

    /// Which filter takes a frame from the kernel, and which ones copy it, by their place.
    fn handed(filters: &[Filter], ethertype: u16, packet: &[u8]) -> (Option<usize>, Vec<usize>) {
        let matches = |filter: &Filter| {
            let word = |at: u8| {
                let bytes = packet.get(usize::from(at)..)?.first_chunk::<4>()?;
                Some(u32::from_be_bytes(*bytes))
            };
            let mut words = filter.words.iter();
            filter.ethertype == ethertype
                && words.all(|w| word(w.at).is_some_and(|found| found & w.mask == w.value))
        };
        let mut copies = Vec::new();
        for (place, filter) in filters.iter().enumerate() {
            match filter.hand {
                _ if !matches(filter) => {}
                Hand::Over => return (Some(place), copies),
                Hand::Copy => copies.push(place),
            }
        }
        (None, copies)
    }

    /// An IPv4 packet for 10.77.0.1 and the first bytes behind its header.
    fn v4(protocol: u8, fragment: u16, upper: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 60, 7, 7];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 1, 2, 10, 77, 0, 2, 10, 77, 0, 1]);
        packet.extend(upper);
        packet
    }

    /// An IPv6 packet for this address and the first bytes behind its header.
    fn v6(next_header: u8, to: &str, upper: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 60, next_header, 64];
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        packet.extend(address("fd77::2"));
        packet.extend(address(to));
        packet.extend(upper);
        packet
    }

    const TO_TUNNEL: [u8; 4] = [0xc0, 0x01, 0x21, 0x18];

    #[test]
    fn over_ipv4_the_tap_has_tunnel_packets_and_hears_of_the_way() {
        let filters = filters_to_tap(&options("10.77.0.1", false), 9);
        let v4 = |packet: &[u8]| handed(&filters, ETHERTYPE_IPV4, packet);
        let nobody = (None, vec![]);
        assert_eq!(v4(&v4_tunnel(0x4000)), (Some(0), vec![]));
        assert_eq!(v4(&v4_tunnel(0)), (Some(0), vec![]));
        // The first fragment, a later one whose bytes look like ports, the last one.
        for fragment in [0x2000, 0x2001, 0x0001, 0x1fff] {
            assert_eq!(v4(&v4_tunnel(fragment)), nobody, "{fragment:#x}");
        }
        let mut other = v4_tunnel(0x4000);
        other[19] = 2;
        assert_eq!(v4(&other), nobody);
        let mut with_options = v4_tunnel(0x4000);
        with_options[0] = 0x46;
        assert_eq!(v4(&with_options), nobody);
        for (protocol, upper) in [
            (17, [0x21, 0x18, 0xc0, 0x01]),
            (6, TO_TUNNEL),
            (4, [0x45, 0, 0, 60]),
            (41, [0x60, 0, 0, 0]),
            (1, [8, 0, 0, 0]),
            (1, [3, 3, 0, 0]),
        ] {
            assert_eq!(v4(&self::v4(protocol, 0x4000, upper)), nobody, "{protocol}");
        }
        assert_eq!(v4(&self::v4(1, 0, [3, 4, 0, 0])), (None, vec![2]));
        let arp = |operation| handed(&filters, ETHERTYPE_ARP, &[0, 1, 8, 0, 6, 4, 0, operation]);
        assert_eq!(arp(2), (None, vec![1]));
        assert_eq!(arp(1), nobody);
        assert!(filters.iter().all(|filter| filter.target == 9));
    }

    fn v4_tunnel(fragment: u16) -> Vec<u8> {
        v4(UDP, fragment, TO_TUNNEL)
    }

    #[test]
    fn ip_in_ip_is_taken_where_it_is_used() {
        let filters = filters_to_tap(&options("10.77.0.1", true), 9);
        for (protocol, place) in [(4, 1), (41, 2)] {
            let packet = v4(protocol, 0x4000, [0; 4]);
            let handed = handed(&filters, ETHERTYPE_IPV4, &packet);
            assert_eq!(handed, (Some(place), vec![]));
        }
    }

    #[test]
    fn over_ipv6_the_tap_has_tunnel_packets_and_hears_of_the_way() {
        let filters = filters_to_tap(&options("fd77::1", false), 9);
        let v6 = |packet: &[u8]| handed(&filters, ETHERTYPE_IPV6, packet);
        let nobody = (None, vec![]);
        assert_eq!(v6(&self::v6(17, "fd77::1", TO_TUNNEL)), (Some(0), vec![]));
        assert_eq!(v6(&self::v6(17, "fd77::3", TO_TUNNEL)), nobody);
        // Behind a fragment header.
        assert_eq!(v6(&self::v6(44, "fd77::1", [17, 0, 0, 0])), nobody);
        assert_eq!(v6(&self::v6(58, "fd77::1", [2, 0, 0, 0])), (None, vec![2]));
        assert_eq!(v6(&self::v6(58, "fd77::3", [2, 0, 0, 0])), nobody);
        for to in ["fd77::1", "ff02::1"] {
            assert_eq!(v6(&self::v6(58, to, [136, 0, 0, 0])), (None, vec![1]));
            assert_eq!(v6(&self::v6(58, to, [135, 0, 0, 0])), nobody);
        }
    }

    #[test]
    fn each_filter_has_a_priority_that_marks_it_as_culvert_s() {
        for address in ["10.77.0.1", "fd77::1"] {
            let filters = filters_to_tap(&options(address, true), 9);
            let mut priorities: Vec<u16> = filters.iter().map(|f| f.priority).collect();
            priorities.dedup();
            assert_eq!(priorities.len(), filters.len());
            for priority in priorities {
                let mut found = PresentFilter {
                    priority,
                    ethertype: ETHERTYPE_ARP,
                    kind: "u32".to_owned(),
                    filter: None,
                };
                assert!(found.is_ours());
                found.kind = "bpf".to_owned();
                assert!(!found.is_ours());
            }
        }
    }
}
