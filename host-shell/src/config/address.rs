//! What addresses, prefixes and names in the cluster file may be.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// A prefix, or a list of prefixes, as the file has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefixes(pub(super) Vec<IpNet>);

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Prefixes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prefix such as \"10.244.0.0/16\", or a list of prefixes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prefixes, E> {
                let prefix = text.parse().map_err(|_| {
                    E::custom(format!(
                        "{text:?} is no prefix; write one as \"10.244.0.0/16\" or \"fd00::/48\""
                    ))
                })?;
                Ok(Prefixes(vec![prefix]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prefixes, A::Error> {
                let mut all = Vec::new();
                while let Some(prefix) = seq.next_element()? {
                    all.push(prefix);
                }
                Ok(Prefixes(all))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// Reports an address that is no host's.
pub(super) fn address(key: &str, address: IpAddr, problems: &mut Vec<String>) {
    let problem = match address {
        _ if address.is_unspecified() => "is unspecified",
        _ if address.is_multicast() => "is a multicast address",
        _ if address.is_loopback() => "is a loopback address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is unspecified",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => "is a broadcast or reserved address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            "is an IPv4 address in IPv6 form; write it as IPv4"
        }
        _ => return,
    };
    problems.push(format!("{key} {address} {problem}"));
}

/// Reports a prefix with host bits; returns it without.
pub(super) fn block(key: &str, prefix: IpNet, problems: &mut Vec<String>) -> IpNet {
    if prefix != prefix.trunc() {
        problems.push(format!(
            "{key} {prefix} has bits behind its prefix; write {}",
            prefix.trunc()
        ));
    }
    prefix.trunc()
}

/// Whether two prefixes without host bits have addresses in common.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// All pairs of prefixes of one list that have addresses in common.
pub(super) fn overlaps(prefixes: &[IpNet]) -> Vec<(IpNet, IpNet)> {
    let mut pairs = Vec::new();
    for (index, one) in prefixes.iter().enumerate() {
        let earlier = prefixes[..index].iter();
        pairs.extend(
            earlier
                .filter(|other| overlap(*one, **other))
                .map(|other| (*one, *other)),
        );
    }
    pairs
}

/// What is wrong with a name, or `None`.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > 253 {
        Some("has more than 253 bytes")
    } else if !name.bytes().all(plain) {
        Some("must have only letters, digits, '-', '_' and '.'")
    } else {
        None
    }
}
