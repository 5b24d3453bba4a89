//! Ethernet addresses as configuration, database and API spell them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use culvert_core::MacAddr;
use serde::{Deserialize, Serialize};

/// A MAC address in the order of its bytes on the wire; as text `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: six pairs of hex digits with colons, as in 0a:58:0a:f4:01:02")]
pub struct MacError(String);

impl Mac {
    /// The address of an interface in the pods' network, of a pod or the host, with these
    /// addresses: `0a:58` and the four bytes of its first IPv4 address, or `0a:5a` and the last
    /// four bytes of its first IPv6 address.
    ///
    /// Locally administered and stable, so a pod that gets its address back has the MAC its
    /// neighbors still know. Other CNI plugins use the prefix of IPv4, too.
    pub fn for_pod(addresses: &[IpAddr]) -> Mac {
        let v4 = addresses.iter().find(|address| address.is_ipv4());
        match v4.or(addresses.first()) {
            Some(IpAddr::V4(v4)) => {
                let [a, b, c, d] = v4.octets();
                Mac([0x0a, 0x58, a, b, c, d])
            }
            Some(IpAddr::V6(v6)) => {
                let [.., a, b, c, d] = v6.octets();
                Mac([0x0a, 0x5a, a, b, c, d])
            }
            None => Mac([0x0a, 0x5a, 0, 0, 0, 0]),
        }
    }

    /// The link-local IPv6 address that follows from it (RFC 4291 appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        let halves = [a << 8 ^ 0x200 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f];
        let [w, x, y, z] = halves;
        Ipv6Addr::new(0xfe80, 0, 0, 0, w, x, y, z)
    }

    /// What makes the address unusable for an interface (group bit, all zero), or `None`.
    pub fn problem(self) -> Option<&'static str> {
        if MacAddr::from(self).is_group() {
            Some("is a multicast address")
        } else if self.0 == [0; 6] {
            Some("is all zero")
        } else {
            None
        }
    }
}

impl From<Mac> for MacAddr {
    fn from(mac: Mac) -> Self {
        MacAddr::new(mac.0)
    }
}

impl From<MacAddr> for Mac {
    fn from(mac: MacAddr) -> Self {
        Mac(mac.bytes())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MacAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let parsed = text.parse::<MacAddr>();
        parsed.map(Mac::from).map_err(|_| MacError(text.to_owned()))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Mac, MacError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        let mac: Mac = "AA:bb:0c:00:ff:01".parse().unwrap();
        assert_eq!(mac, Mac([0xaa, 0xbb, 0x0c, 0, 0xff, 1]));
        assert_eq!(mac.to_string(), "aa:bb:0c:00:ff:01");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "aa",
            "aa:bb:cc:dd:ee",
            "aa:bb:cc:dd:ee:ff:00",
            "aa:bb:cc:dd:ee:+f",
            "aa-bb-cc-dd-ee-ff",
            "a:b:c:d:e:f",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn link_local_addresses_are_as_the_kernel_makes_them() {
        for (mac, address) in [
            ("52:74:f2:b1:a8:7f", "fe80::5074:f2ff:feb1:a87f"),
            ("0a:58:0a:f4:01:07", "fe80::858:aff:fef4:107"),
        ] {
            let mac: Mac = mac.parse().unwrap();
            assert_eq!(mac.link_local().to_string(), address);
        }
    }

    #[test]
    fn pod_address_is_local_and_usable() {
        let mac = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            Mac::for_pod(&addresses)
        };
        for (addresses, text) in [
            (&["10.244.1.7"][..], "0a:58:0a:f4:01:07"),
            (&["fd00::1", "10.244.1.7"], "0a:58:0a:f4:01:07"),
            (&["fd00::1:0203"], "0a:5a:00:01:02:03"),
        ] {
            assert_eq!(mac(addresses).to_string(), text);
            assert_eq!(mac(addresses).problem(), None);
        }
        assert!(Mac([1, 0, 0, 0, 0, 0]).problem().is_some());
        assert!(Mac([0; 6]).problem().is_some());
    }
}
