//! Kernel settings of interfaces, in the calling thread's network namespace.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One of an interface's settings: `net.ipv6.conf.eth0.accept_ra`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// The protocol's directory: `ipv4` or `ipv6`.
    pub protocol: String,
    /// The interface; `all` for what holds for the whole namespace.
    pub link: String,
    /// The setting's own name.
    pub name: String,
}

/// Why a setting could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {setting}: {source}{}", hint(.setting, .source))]
pub struct SysctlError {
    /// What was being done: `read`, or `set to 1`.
    doing: String,
    /// The setting.
    setting: Setting,
    /// What the kernel said.
    source: io::Error,
}

fn hint(setting: &Setting, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound if setting.protocol == "ipv6" => {
            " (has the kernel IPv6? it has none when it was booted with ipv6.disable=1)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            " (/proc/sys is mounted read-only here; let culvertd write to it, or set it by hand)"
        }
        io::ErrorKind::PermissionDenied => " (run as root)",
        _ => "",
    }
}

impl SysctlError {
    /// Whether there is no such setting, or no such interface.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting {
            protocol,
            link,
            name,
        } = self;
        write!(f, "net.{protocol}.conf.{link}.{name}")
    }
}

impl Setting {
    /// A setting of IPv4.
    pub fn ipv4(link: &str, name: &str) -> Self {
        Self::of("ipv4", link, name)
    }

    /// A setting of IPv6.
    pub fn ipv6(link: &str, name: &str) -> Self {
        Self::of("ipv6", link, name)
    }

    fn of(protocol: &str, link: &str, name: &str) -> Self {
        Self {
            protocol: protocol.to_owned(),
            link: link.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Its value.
    ///
    /// # Errors
    /// [`SysctlError`]; [`SysctlError::is_not_found`] where the kernel does not know it.
    pub fn get(&self) -> Result<String, SysctlError> {
        let text = fs::read_to_string(self.path());
        let text = text.map_err(|source| self.failed("read", source))?;
        Ok(text.trim().to_owned())
    }

    /// Gives it this value.
    ///
    /// # Errors
    /// As [`Setting::get`].
    pub fn set(&self, value: &str) -> Result<(), SysctlError> {
        // Not created where it is missing, as fs::write would try.
        let written = fs::OpenOptions::new()
            .write(true)
            .open(self.path())
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        written.map_err(|source| self.failed(&format!("set to {value}"), source))
    }

    /// Gives it this value where it has another; returns that.
    ///
    /// # Errors
    /// As [`Setting::get`].
    pub fn change(&self, value: &str) -> Result<Option<String>, SysctlError> {
        let before = self.get()?;
        if before == value {
            return Ok(None);
        }
        self.set(value)?;
        Ok(Some(before))
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys/net");
        path.extend([&self.protocol, "conf", &self.link, &self.name]);
        path
    }

    fn failed(&self, doing: &str, source: io::Error) -> SysctlError {
        SysctlError {
            doing: doing.to_owned(),
            setting: self.clone(),
            source,
        }
    }
}

/// Prepares an interface for IPv6 addresses that are given to it and none else: IPv6 is on (in
/// containers it often starts off), the kernel makes no link-local address, which would be
/// tentative for a second, and asks for no router.
///
/// # Errors
/// [`SysctlError`]; above all where the kernel has no IPv6 or `/proc/sys` cannot be written.
pub fn prepare_ipv6(link: &str) -> Result<(), SysctlError> {
    // The mode first: switching IPv6 on would make an address.
    const SETTINGS: [(&str, &str); 3] = [
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("disable_ipv6", "0"),
    ];
    for (name, value) in SETTINGS {
        Setting::ipv6(link, name).change(value)?;
    }
    Ok(())
}
