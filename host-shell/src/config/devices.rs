//! The devices of a pool as a file has them: one by one, or by a pattern.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::PortDevice;

/// Devices that one pattern can stand for: as many as an appliance can have ports.
const MOST: u32 = 4096;

/// The devices as they stand in the file.
pub(super) enum Devices {
    /// A name, with a range in braces: `cvlp{1..64}`.
    Pattern(String),
    /// Names with their ports.
    List(Vec<PortDevice>),
}

impl Devices {
    /// Whether the file tells their ports.
    pub(super) fn have_ports(&self) -> bool {
        matches!(self, Devices::List(_))
    }

    /// All devices; those of a pattern have the ports from `first` on.
    pub(super) fn expand(self, first: u16, found: &mut Vec<String>) -> Vec<PortDevice> {
        let devices = match self {
            Devices::List(devices) => devices,
            Devices::Pattern(pattern) => match names(&pattern) {
                Ok(names) => number(names, first, found),
                Err(problem) => {
                    found.push(format!("devices {pattern:?} {problem}"));
                    return Vec::new();
                }
            },
        };
        if devices.is_empty() {
            found.push("devices is an empty list; pods need devices".to_owned());
        }
        devices
    }
}

fn number(names: Vec<String>, first: u16, found: &mut Vec<String>) -> Vec<PortDevice> {
    let wanted = names.len();
    let numbered = names.into_iter().zip(first..=u16::MAX);
    let devices: Vec<_> = numbered
        .map(|(name, port)| PortDevice { name, port })
        .collect();
    if devices.len() < wanted {
        found.push(format!(
            "first_port {first} leaves no port numbers for {wanted} devices"
        ));
    }
    devices
}

/// The names that a pattern stands for.
fn names(pattern: &str) -> Result<Vec<String>, String> {
    let Some((prefix, rest)) = pattern.split_once('{') else {
        return match pattern.contains('}') {
            true => Err("has no \"{\"".to_owned()),
            false => Ok(vec![pattern.to_owned()]),
        };
    };
    let range = rest.split_once('}');
    let range = range.and_then(|(range, suffix)| Some((range.split_once("..")?, suffix)));
    let Some(((from, to), suffix)) = range else {
        return Err("has no range such as {1..64}".to_owned());
    };
    let (Ok(first), Ok(last)) = (from.parse::<u32>(), to.parse::<u32>()) else {
        return Err(format!("has no numbers in {{{from}..{to}}}"));
    };
    if first > last || last - first >= MOST {
        return Err(format!(
            "has the range {{{from}..{to}}}, which must go upwards and have at most {MOST} numbers"
        ));
    }
    // {01..64} begins with 01, not with 1.
    let width = if from.starts_with('0') { from.len() } else { 0 };
    let names = (first..=last).map(|number| format!("{prefix}{number:0width$}{suffix}"));
    Ok(names.collect())
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PatternOrList;

        impl<'de> Visitor<'de> for PatternOrList {
            type Value = Devices;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "names such as \"vf{1..64}\", or a list of { name = \"vf1\", port = 2 }",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Devices, E> {
                Ok(Devices::Pattern(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Devices, A::Error> {
                let mut all = Vec::new();
                while let Some(device) = seq.next_element()? {
                    all.push(device);
                }
                Ok(Devices::List(all))
            }
        }

        deserializer.deserialize_any(PatternOrList)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_its_names_in_order() {
        for (pattern, first, last, count) in [
            ("cvlp{1..64}", "cvlp1", "cvlp64", 64),
            ("ens1f0v{0..7}", "ens1f0v0", "ens1f0v7", 8),
            ("vf{08..11}x", "vf08x", "vf11x", 4),
            ("eth7", "eth7", "eth7", 1),
        ] {
            let names = names(pattern).unwrap();
            assert_eq!(names.len(), count, "{pattern}");
            assert_eq!(names[0], first);
            assert_eq!(names[count - 1], last);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, said) in [
            ("a{1..2", "no range"),
            ("a{1-2}", "no range"),
            ("a1..2}", "no \"{\""),
            ("a{x..2}", "no numbers"),
            ("a{3..2}", "upwards"),
            ("a{0..99999999}", "at most"),
        ] {
            assert!(names(pattern).unwrap_err().contains(said), "{pattern}");
        }
    }
}
