//! The error object of the specification.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Version;

/// Error codes of the specification (section "Error") and the one of our own.
pub mod code {
    /// The version of the configuration is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported; the message names key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone: the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// Something is not the JSON it should be.
    pub const DECODE: u32 = 6;
    /// The configuration is readable and wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace given is the plugin's own; not in the specification, in general use.
    pub const NETNS_IS_OWN: u32 = 8;
    /// Something is missing that may come; the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD cannot be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD cannot be served, and existing containers may have limited connectivity.
    pub const LIMITED: u32 = 51;
    /// culvert: the container has an attachment of that name already.
    pub const DUPLICATE: u32 = 100;
    /// culvert: no address or port is left, or the address asked for cannot be had.
    pub const NO_ADDRESS: u32 = 101;
    /// culvert: CHECK found that what is there is not what ADD made.
    pub const CHECK_FAILED: u32 = 102;
    /// culvert: the daemon failed in a way that no other code describes.
    pub const INTERNAL: u32 = 103;
}

/// An error as the runtime, the API and the command line see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (code {code})", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// One of [`code`], or a plugin's own from 100.
    pub code: u32,
    /// What went wrong, short; runtimes show it.
    pub msg: String,
    /// The longer story: what to do about it. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> CniError {
        self.details = details.into();
        self
    }

    /// The object the specification wants on stdout.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "code": self.code,
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            object["details"] = Value::from(self.details.clone());
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_has_the_keys_of_the_specification() {
        let error = CniError::new(code::INVALID_CONFIG, "no name").with_details("add one");
        assert_eq!(
            error.to_json(Version::V1_0_0),
            json!({"cniVersion": "1.0.0", "code": 7, "msg": "no name", "details": "add one"})
        );
        assert_eq!(error.to_string(), "no name: add one (code 7)");
    }
}
