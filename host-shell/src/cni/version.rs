//! Which versions of the specification are spoken.

use serde_json::{Value, json};

use super::{CniError, code};

/// A supported version of the CNI specification; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.4.0
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0
    V1_1_0,
}

/// All supported versions, oldest first.
pub const SUPPORTED: [Version; 3] = [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

impl Version {
    /// The newest supported version: used when the runtime's cannot be known.
    pub const LATEST: Version = Version::V1_1_0;

    /// The version as the specification spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Finds a supported version by its text.
    ///
    /// # Errors
    /// Code 1, with the list of versions that would do.
    pub fn negotiate(text: &str) -> Result<Version, CniError> {
        SUPPORTED
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                CniError::new(
                    code::INCOMPATIBLE_VERSION,
                    format!("cniVersion {text:?} is not supported"),
                )
                .with_details(format!("supported versions: {}", names().join(", ")))
            })
    }
}

fn names() -> Vec<&'static str> {
    SUPPORTED.into_iter().map(Version::as_str).collect()
}

/// The answer to VERSION.
pub fn version_answer() -> Value {
    json!({ "cniVersion": Version::LATEST.as_str(), "supportedVersions": names() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_versions_are_found_and_others_listed() {
        for version in SUPPORTED {
            assert_eq!(Version::negotiate(version.as_str()), Ok(version));
        }
        for text in ["", "0.2.0", "0.3.1", "1.0", "1.1.0 ", "2.0.0"] {
            let error = Version::negotiate(text).unwrap_err();
            assert_eq!(error.code, 1);
            assert_eq!(error.details, "supported versions: 0.4.0, 1.0.0, 1.1.0");
        }
        assert_eq!(SUPPORTED.iter().max(), Some(&Version::LATEST));
    }
}
