//! The key that an appliance and its hosts share, in a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use culvert_core::channel::KEY_LEN;

/// Where the kernel gives randomness, which never runs out.
const RANDOM: &str = "/dev/urandom";
/// More than a file with a key may have.
const TOO_LONG: usize = 256;

/// A pre-shared key. It is never shown, but by [`Key::create`] in its file.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_LEN]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key file {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner may use the file.
    #[error("others may use the key file {path} (mode {mode:04o}): chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds no key.
    #[error(
        "{path} holds no key, which is {} hex digits or {KEY_LEN} bytes; \
         `culvert appliance key FILE` makes one",
        2 * KEY_LEN
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("the key file {path} cannot be made: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Key {
    /// A key from elsewhere.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Key(bytes)
    }

    /// Its bytes, for who has to tell an appliance.
    pub const fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Reads a key from a file that nobody but its owner may use: 64 hex digits, with
    /// white space around them or not, or 32 bytes.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(KeyError::Mode { path, mode });
        }
        let mut bytes = Vec::with_capacity(TOO_LONG);
        let limit = u64::try_from(TOO_LONG).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        let key = bytes
            .as_slice()
            .try_into()
            .ok()
            .or_else(|| from_hex(&bytes));
        key.map(Key).ok_or_else(|| KeyError::Form {
            path: path.to_owned(),
        })
    }

    /// Makes a new key of the kernel's randomness, and a file with it, in hex digits,
    /// that only its owner may use.
    ///
    /// # Errors
    /// [`KeyError::Write`], also when there is such a file already; [`KeyError::Read`]
    /// when there is no randomness.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let mut key = [0; KEY_LEN];
        let random = File::open(RANDOM).and_then(|mut random| random.read_exact(&mut key));
        random.map_err(|source| KeyError::Read {
            path: RANDOM.into(),
            source,
        })?;
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|mut file| {
            writeln!(file, "{digits}")?;
            file.sync_all()
        });
        written.map_err(|source| KeyError::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(Key(key))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The bytes that hex digits say.
fn from_hex(text: &[u8]) -> Option<[u8; KEY_LEN]> {
    let digits = text.trim_ascii();
    let mut key = [0; KEY_LEN];
    if digits.len() != 2 * KEY_LEN || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        let pair = str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn file(directory: &Path, content: &[u8], mode: u32) -> PathBuf {
        let path = directory.join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn keys_are_hex_digits_or_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let digits = "00FF".repeat(16);
        let expected: Vec<u8> = [0, 255].repeat(16);
        for content in [
            digits.as_bytes(),
            format!(" {digits}\n").as_bytes(),
            expected.as_slice(),
        ] {
            let path = file(directory.path(), content, 0o600);
            assert_eq!(Key::read(&path).unwrap().bytes()[..], expected);
        }
        for content in [
            b"".as_slice(),
            &digits.as_bytes()[1..],
            format!("{digits}0").as_bytes(),
            "0g".repeat(32).as_bytes(),
            "+1".repeat(32).as_bytes(),
            &[7; 33],
        ] {
            let path = file(directory.path(), content, 0o600);
            let error = Key::read(&path).unwrap_err().to_string();
            assert!(error.contains("holds no key"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, good) in [
            (0o400, true),
            (0o600, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            let path = file(directory.path(), &[7; 32], mode);
            let read = Key::read(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
        }
        let error = Key::read(&directory.path().join("none")).unwrap_err();
        assert!(matches!(error, KeyError::Read { .. }));
    }

    #[test]
    fn new_keys_differ_and_replace_none() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        let key = Key::create(&one).unwrap();
        assert_eq!(Key::read(&one).unwrap(), key);
        assert_ne!(Key::create(&two).unwrap(), key);
        assert!(matches!(Key::create(&one), Err(KeyError::Write { .. })));
        assert_eq!(Key::read(&one).unwrap(), key);
        let mode = fs::metadata(&one).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let shown = format!("{key:?}");
        assert_eq!(shown, "Key(…)");
    }
}
