//! Where an outcome differs from what was expected.

use std::fmt;

use super::{Capture, Captured};

/// The first difference between two captures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The ports' names or numbers.
    Ports,
    /// One has more frames than the other, which are the same up to there.
    Count {
        /// Frames that are expected.
        expected: usize,
        /// Frames that there are.
        actual: usize,
    },
    /// A frame, counted from 1 as Wireshark does.
    Frame {
        /// Its number.
        number: usize,
        /// What is different.
        what: What,
    },
}

/// How a frame differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Sent at another time: microseconds expected, and found.
    Time(u64, u64),
    /// Sent by another port: names expected, and found.
    Port(String, String),
    /// Another length: bytes expected, and found; the same up to the shorter's end.
    Length(usize, usize),
    /// A byte.
    Byte {
        /// Where, counted from 0 at the Ethernet header.
        at: usize,
        /// What is expected.
        expected: u8,
        /// What is there.
        actual: u8,
    },
}

impl Capture {
    /// The first difference; `None` when there is none.
    pub fn difference(&self, actual: &Capture) -> Option<Difference> {
        if self.ports != actual.ports {
            return Some(Difference::Ports);
        }
        let pairs = self.frames.iter().zip(&actual.frames).zip(1..);
        for ((expected, found), number) in pairs {
            if let Some(what) = self.unlike(expected, found) {
                return Some(Difference::Frame { number, what });
            }
        }
        let (expected, actual) = (self.frames.len(), actual.frames.len());
        (expected != actual).then_some(Difference::Count { expected, actual })
    }

    fn name(&self, frame: &Captured) -> String {
        let port = self.ports.iter().find(|port| port.id == frame.port);
        port.map_or_else(|| frame.port.to_string(), |port| port.name.clone())
    }

    /// Bytes tell most about what went wrong, so they come first.
    fn unlike(&self, expected: &Captured, actual: &Captured) -> Option<What> {
        if expected.port != actual.port {
            return Some(What::Port(self.name(expected), self.name(actual)));
        }
        let mut pairs = expected.bytes.iter().zip(&actual.bytes).enumerate();
        if let Some((at, (expected, actual))) = pairs.find(|(_, (a, b))| a != b) {
            let (expected, actual) = (*expected, *actual);
            return Some(What::Byte {
                at,
                expected,
                actual,
            });
        }
        let (expected_len, len) = (expected.bytes.len(), actual.bytes.len());
        if expected_len != len {
            return Some(What::Length(expected_len, len));
        }
        let times = (expected.micros, actual.micros);
        (times.0 != times.1).then_some(What::Time(times.0, times.1))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Ports => write!(f, "the ports have other names or descriptions"),
            Difference::Count { expected, actual } => write!(
                f,
                "{actual} frames instead of {expected}, the same as far as both go"
            ),
            Difference::Frame { number, what } => write!(f, "frame {number}: {what}"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Time(expected, actual) => {
                write!(f, "sent at {actual} µs instead of {expected} µs")
            }
            What::Port(expected, actual) => write!(f, "sent by {actual} instead of {expected}"),
            What::Length(expected, actual) => write!(f, "{actual} bytes instead of {expected}"),
            What::Byte {
                at,
                expected,
                actual,
            } => write!(f, "byte {at} is {actual:#04x} instead of {expected:#04x}"),
        }
    }
}

/// The first line that differs: its number, what is expected, and what is there.
pub fn line_difference(expected: &str, actual: &str) -> Option<String> {
    let (mut expected, mut actual) = (expected.lines(), actual.lines());
    for number in 1.. {
        match (expected.next(), actual.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => {
                let [a, b] = [a, b].map(|line| line.unwrap_or("the end"));
                return Some(format!("line {number}: {b:?} instead of {a:?}"));
            }
        }
    }
    None
}
