//! Ethernet addresses as configuration, database and API spell them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

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
        if self.0[0] & 1 != 0 {
            Some("is a multicast address")
        } else if self.0 == [0; 6] {
            Some("is all zero")
        } else {
            None
        }
    }
}

impl From<Mac> for culvert_core::MacAddr {
    fn from(mac: Mac) -> Self {
        culvert_core::MacAddr::new(mac.0)
    }
}

impl From<culvert_core::MacAddr> for Mac {
    fn from(mac: culvert_core::MacAddr) -> Self {
        Mac(mac.bytes())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
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
        let wrong = || MacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            if !hex {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(wrong()),
        }
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
