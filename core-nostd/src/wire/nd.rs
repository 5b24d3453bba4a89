//! Neighbor discovery for IPv6 (RFC 4861).

use core::net::Ipv6Addr;

use super::{checksum, ip};
use crate::MacAddr;

/// The hop limit of all messages: nobody off the link can send one.
pub const HOP_LIMIT: u8 = 255;
/// Length of a solicitation or advertisement with one link-layer address option
/// in bytes.
pub const MESSAGE_LEN: usize = 32;

const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// A message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// "Who has `target`?" In duplicate address detection (RFC 4862) the source
    /// of the packet is `::` and there is no `source_mac`.
    Solicitation {
        /// The address that is asked for.
        target: Ipv6Addr,
        /// The asker's MAC address.
        source_mac: Option<MacAddr>,
    },
    /// "`target` is at `target_mac`."
    Advertisement(Advertisement),
    /// "Who is a router?"
    RouterSolicitation,
    /// What only routers may say: router advertisement, redirect.
    Router,
}

/// A neighbor advertisement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// The address that the message is about.
    pub target: Ipv6Addr,
    /// Its MAC address.
    pub target_mac: Option<MacAddr>,
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces what is cached.
    pub overrides: bool,
}

/// Why a message was refused (RFC 4861 sections 7.1.1 and 7.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Truncated, a wrong code, a multicast target, or an option of length zero
    /// or beyond the message.
    Malformed,
    /// The hop limit is not 255: the packet came through a router.
    HopLimit,
    /// The ICMPv6 checksum is wrong.
    Checksum,
}

/// Whether an ICMPv6 message of this type is neighbor discovery.
pub fn is_nd(message_type: u8) -> bool {
    (ROUTER_SOLICITATION..=REDIRECT).contains(&message_type)
}

/// Reads the message in the ICMPv6 part of a packet. A device may have left the
/// checksum `finished` to others, or vouch for it.
///
/// # Errors
/// [`Error`].
pub fn parse(header: &ip::Header, message: &[u8], finished: bool) -> Result<Message, Error> {
    if header.ttl != HOP_LIMIT {
        return Err(Error::HopLimit);
    }
    let (fixed, _) = message.split_first_chunk::<8>().ok_or(Error::Malformed)?;
    if fixed[1] != 0 {
        return Err(Error::Malformed);
    }
    if finished && !super::l4::is_valid(header, message) {
        return Err(Error::Checksum);
    }
    match fixed[0] {
        ROUTER_SOLICITATION => Ok(Message::RouterSolicitation),
        NEIGHBOR_SOLICITATION => {
            let (target, source_mac) = target(message, SOURCE_LINK_LAYER)?;
            Ok(Message::Solicitation { target, source_mac })
        }
        NEIGHBOR_ADVERTISEMENT => {
            let (target, target_mac) = target(message, TARGET_LINK_LAYER)?;
            Ok(Message::Advertisement(Advertisement {
                target,
                target_mac,
                router: fixed[4] & 0x80 != 0,
                solicited: fixed[4] & 0x40 != 0,
                overrides: fixed[4] & 0x20 != 0,
            }))
        }
        _ => Ok(Message::Router),
    }
}

/// Target address and the link-layer address option of this type.
fn target(message: &[u8], wanted: u8) -> Result<(Ipv6Addr, Option<MacAddr>), Error> {
    let (fixed, mut options) = message.split_first_chunk::<24>().ok_or(Error::Malformed)?;
    let octets = fixed.last_chunk::<16>().ok_or(Error::Malformed)?;
    let target = Ipv6Addr::from(*octets);
    if target.is_multicast() {
        return Err(Error::Malformed);
    }
    let mut mac = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        if len == 0 || len > options.len() {
            return Err(Error::Malformed);
        }
        let (option, rest) = options.split_at(len);
        if let ([_, _, address @ ..], true) = (option, kind == wanted) {
            mac = address.first_chunk::<6>().map(|bytes| MacAddr::new(*bytes));
        }
        options = rest;
    }
    match options.is_empty() {
        true => Ok((target, mac)),
        false => Err(Error::Malformed),
    }
}

/// Writes a solicitation for `target` from `src`, whose MAC address is `mac`, to `dst`.
pub fn emit_solicitation(
    target: Ipv6Addr,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    mac: MacAddr,
    out: &mut [u8; MESSAGE_LEN],
) {
    out[0] = NEIGHBOR_SOLICITATION;
    out[4] = 0;
    emit(target, (src, dst), (SOURCE_LINK_LAYER, mac), out);
}

/// Writes an advertisement from `src` to `dst`; a target without a MAC address
/// gets 00:00:00:00:00:00.
pub fn emit_advertisement(
    advertisement: &Advertisement,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    out: &mut [u8; MESSAGE_LEN],
) {
    out[0] = NEIGHBOR_ADVERTISEMENT;
    out[4] = u8::from(advertisement.router) << 7
        | u8::from(advertisement.solicited) << 6
        | u8::from(advertisement.overrides) << 5;
    let mac = advertisement.target_mac.unwrap_or(MacAddr::ZERO);
    emit(
        advertisement.target,
        (src, dst),
        (TARGET_LINK_LAYER, mac),
        out,
    );
}

fn emit(
    target: Ipv6Addr,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    (option, mac): (u8, MacAddr),
    out: &mut [u8; MESSAGE_LEN],
) {
    out[1..4].fill(0);
    out[5..8].fill(0);
    out[8..24].copy_from_slice(&target.octets());
    out[24..26].copy_from_slice(&[option, 1]);
    out[26..].copy_from_slice(&mac.bytes());
    let sum = checksum::pseudo_header_v6(src, dst, ip::ICMPV6, 32) + checksum::sum(out);
    out[2..4].copy_from_slice(&checksum::finish(sum).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 7]);

    fn addresses() -> (Ipv6Addr, Ipv6Addr) {
        ("fe80::1".parse().unwrap(), "fd00::2".parse().unwrap())
    }

    fn header() -> ip::Header {
        let (src, dst) = addresses();
        ip::Header {
            src: IpAddr::V6(src),
            dst: IpAddr::V6(dst),
            tos: 0,
            ttl: HOP_LIMIT,
            protocol: ip::ICMPV6,
            dont_fragment: true,
            fragment: ip::Fragment::Whole,
            source_routed: false,
            named_at: 6,
            header_len: 40,
            total_len: 72,
            ports: None,
        }
    }

    fn solicitation() -> [u8; MESSAGE_LEN] {
        let mut out = [0xa5; MESSAGE_LEN];
        emit_solicitation(addresses().0, addresses(), MAC, &mut out);
        out
    }

    #[test]
    fn emit_then_parse_is_identity() {
        let message = Message::Solicitation {
            target: addresses().0,
            source_mac: Some(MAC),
        };
        assert_eq!(parse(&header(), &solicitation(), true), Ok(message));
        for flags in 0..8u8 {
            let advertisement = Advertisement {
                target: addresses().1,
                target_mac: Some(MAC),
                router: flags & 4 != 0,
                solicited: flags & 2 != 0,
                overrides: flags & 1 != 0,
            };
            let mut out = [0xa5; MESSAGE_LEN];
            emit_advertisement(&advertisement, addresses(), &mut out);
            assert_eq!(
                parse(&header(), &out, true),
                Ok(Message::Advertisement(advertisement))
            );
        }
    }

    #[test]
    fn what_may_come_from_afar_is_refused() {
        let message = solicitation();
        let routed = ip::Header {
            ttl: 254,
            ..header()
        };
        assert_eq!(parse(&routed, &message, true), Err(Error::HopLimit));
        let mut wrong = message;
        wrong[30] ^= 1;
        assert_eq!(parse(&header(), &wrong, true), Err(Error::Checksum));
        assert!(parse(&header(), &wrong, false).is_ok());
    }

    #[test]
    fn malformed_messages_are_refused() {
        let message = solicitation();
        for len in (0..MESSAGE_LEN).filter(|len| *len != 24) {
            let found = parse(&header(), &message[..len], false);
            assert_eq!(found, Err(Error::Malformed), "{len} bytes");
        }
        for (at, value) in [(1, 1), (8, 0xff), (25, 0), (25, 2)] {
            let mut wrong = message;
            wrong[at] = value;
            let found = parse(&header(), &wrong, false);
            assert_eq!(found, Err(Error::Malformed), "byte {at}");
        }
        // An option of another type tells nothing.
        let mut other = message;
        other[24] = 14;
        let found = parse(&header(), &other, false);
        assert!(matches!(
            found,
            Ok(Message::Solicitation {
                source_mac: None,
                ..
            })
        ));
    }
}
