//! Which addresses a management port can have.

use core::net::IpAddr;

use culvert_core::channel::{Management, WireAddress};

/// Whether a port can have these addresses and gateways.
///
/// # Errors
/// The first that it cannot.
pub(crate) fn check(config: &Management) -> Result<(), IpAddr> {
    for (own, before) in config.addresses.iter().zip(0..) {
        let mut others = config.addresses.iter().take(before);
        if !is_host(own) || others.any(|other| other.address == own.address) {
            return Err(own.address);
        }
    }
    for (gateway, before) in config.gateways.iter().zip(0..) {
        let same_version = |other: &IpAddr| other.is_ipv4() == gateway.is_ipv4();
        let mut others = config.gateways.iter().take(before);
        if others.any(same_version) || !is_reached(config, gateway) {
            return Err(*gateway);
        }
    }
    Ok(())
}

/// Whether it is one host's address, in a prefix that has hosts.
fn is_host(own: &WireAddress) -> bool {
    if !is_unicast(&own.address) || own.prefix_length == 0 {
        return false;
    }
    match own.address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(u32::from(own.prefix_length));
            let hosts = hosts.unwrap_or(0);
            let host = address.to_bits() & hosts;
            // The first of a prefix is its network and the last its broadcast
            // address, but where there are two of them or one (RFC 3021).
            own.prefix_length <= 32 && (hosts <= 1 || (host != 0 && host != hosts))
        }
        IpAddr::V6(_) => own.prefix_length <= 128,
    }
}

fn is_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            (1..224).contains(&first) && first != 127
        }
        IpAddr::V6(address) => {
            let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
            !other && address.to_ipv4_mapped().is_none()
        }
    }
}

/// Whether a gateway is another host on the link.
fn is_reached(config: &Management, gateway: &IpAddr) -> bool {
    let mut own = config.addresses.iter();
    let is_near = match gateway {
        IpAddr::V6(gateway) if gateway.is_unicast_link_local() => {
            own.any(|own| own.address.is_ipv6())
        }
        gateway => own.any(|own| is_in(gateway, own)),
    };
    let is_own = config.addresses.iter().any(|own| own.address == *gateway);
    is_unicast(gateway) && is_near && !is_own
}

fn is_in(address: &IpAddr, own: &WireAddress) -> bool {
    let length = u32::from(own.prefix_length);
    match (address, own.address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differ = a.to_bits() ^ b.to_bits();
            differ.leading_zeros() >= length
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differ = a.to_bits() ^ b.to_bits();
            differ.leading_zeros() >= length
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn checked(addresses: &[&str], gateways: &[&str]) -> Result<(), IpAddr> {
        let addresses = addresses.iter().map(|text| {
            let (address, length) = text.split_once('/').unwrap();
            WireAddress {
                address: address.parse().unwrap(),
                prefix_length: length.parse().unwrap(),
            }
        });
        check(&Management {
            addresses: addresses.collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            tcp_port: 7373,
        })
    }

    #[test]
    fn hosts_on_a_link_are_taken() {
        let good: [(&[&str], &[&str]); 6] = [
            (&[], &[]),
            (&["192.0.2.9/24"], &["192.0.2.1"]),
            (&["192.0.2.0/31"], &["192.0.2.1"]),
            (&["192.0.2.0/32", "192.0.2.9/24"], &[]),
            (
                &["192.0.2.9/24", "2001:db8::9/64"],
                &["2001:db8::1", "192.0.2.1"],
            ),
            (&["2001:db8::9/128"], &["fe80::1"]),
        ];
        for (addresses, gateways) in good {
            assert_eq!(checked(addresses, gateways), Ok(()), "{addresses:?}");
        }
    }

    #[test]
    fn what_is_no_host_is_named() {
        let bad = "0.0.0.0/8 0.1.2.3/8 127.0.0.1/8 224.0.0.1/4 255.255.255.255/32 240.0.0.1/24 \
            192.0.2.0/24 192.0.2.255/24 192.0.2.9/0 192.0.2.9/33 ::/64 ::1/128 ff02::1/64 \
            ::ffff:192.0.2.9/120 2001:db8::9/0 2001:db8::9/129";
        for text in bad.split_whitespace().collect::<Vec<_>>() {
            let (address, _) = text.split_once('/').unwrap();
            let refused = checked(&["198.51.100.1/24", text], &[]);
            assert_eq!(refused, Err(address.parse().unwrap()));
        }
        let twice = checked(&["192.0.2.9/24", "192.0.2.9/32"], &[]);
        assert_eq!(twice, Err("192.0.2.9".parse().unwrap()));
    }

    #[test]
    fn gateways_that_nothing_reaches_are_named() {
        let own = ["192.0.2.9/24", "2001:db8::9/64"];
        let bad = "192.0.2.9 192.0.3.1 224.0.0.1 2001:db8::9 2001:db8:0:1::1 ff02::2 ::";
        for gateway in bad.split_whitespace() {
            assert_eq!(checked(&own, &[gateway]), Err(gateway.parse().unwrap()));
        }
        let second = checked(&own, &["192.0.2.1", "192.0.2.2"]);
        assert_eq!(second, Err("192.0.2.2".parse().unwrap()));
        let without = checked(&["192.0.2.9/24"], &["fe80::1"]);
        assert_eq!(without, Err("fe80::1".parse().unwrap()));
    }
}
