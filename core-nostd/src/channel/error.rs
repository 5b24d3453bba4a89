//! Why a request was not even tried.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::Version;

/// Why a request could not be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Error {
    /// The frame's CRC or COBS coding is wrong.
    Damaged,
    /// The frame or the message is larger than the limit.
    TooLarge,
    /// The message ends too early or goes on behind its end.
    Malformed,
    /// A variant, or a value, that this version does not know.
    Unsupported,
    /// More operations than the limit.
    TooManyOperations {
        /// How many there were.
        count: u32,
        /// How many there may be.
        limit: u32,
    },
    /// The major versions differ.
    Version {
        /// The core's.
        core: Version,
    },
    /// Anything but `Hello` and `Ping` before the first `Hello`.
    NoEpoch,
    /// `Hello` offered the epoch 0, which means "just booted".
    EpochZero,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Damaged => f.write_str("the control frame was damaged on its way"),
            Error::TooLarge => f.write_str("the control frame is larger than 4096 bytes"),
            Error::Malformed => f.write_str("the control message is malformed"),
            Error::Unsupported => f.write_str("the core does not know this control message"),
            Error::TooManyOperations { count, limit } => {
                write!(
                    f,
                    "{count} operations in one transaction; the limit is {limit}"
                )
            }
            Error::Version { core } => write!(
                f,
                "the core speaks version {core} of the control protocol, and major versions must be equal"
            ),
            Error::NoEpoch => f.write_str("the core has just booted and waits for Hello"),
            Error::EpochZero => f.write_str("Hello must offer an epoch other than 0"),
        }
    }
}

impl core::error::Error for Error {}
