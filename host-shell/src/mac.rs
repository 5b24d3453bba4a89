//! Ethernet addresses as configuration, database and API spell them.

use std::fmt;
use std::net::Ipv4Addr;
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
    /// The address of a pod's interface: `0a:58` and the four bytes of its IPv4 address.
    ///
    /// Locally administered and stable, so a pod that gets its address back has the MAC its
    /// neighbors still know. Other CNI plugins use the same prefix.
    pub fn for_pod(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([0x0a, 0x58, a, b, c, d])
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
    fn pod_address_is_local_and_usable() {
        let mac = Mac::for_pod(Ipv4Addr::new(10, 244, 1, 7));
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:07");
        assert_eq!(mac.problem(), None);
        assert!(Mac([1, 0, 0, 0, 0, 0]).problem().is_some());
        assert!(Mac([0; 6]).problem().is_some());
    }
}
