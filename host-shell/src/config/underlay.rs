//! The section `[underlay]`: how tunnel packets get to the wire and back.

use serde::Deserialize;

use crate::cni::ifname_problem;

/// How tunnel packets get to the underlay's device.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum UnderlayDriver {
    /// By a TAP where kernel and cluster allow it, by sockets otherwise.
    Auto,
    /// By UDP and raw sockets.
    #[default]
    Socket,
    /// By a TAP that is joined to the underlay's device, outer headers included.
    Tap,
}

/// The section `[underlay]`.
#[derive(Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct UnderlayConfig {
    /// How tunnel packets get to the underlay's device.
    #[serde(default)]
    pub driver: UnderlayDriver,
    /// Name of the TAP, where it is one.
    #[serde(default = "default_device")]
    pub device: String,
}

fn default_device() -> String {
    "culvert-ul".to_owned()
}

impl Default for UnderlayConfig {
    fn default() -> Self {
        UnderlayConfig {
            driver: UnderlayDriver::default(),
            device: default_device(),
        }
    }
}

impl UnderlayConfig {
    /// Adds what is wrong with the section; `host` is the name of the host's device.
    pub(super) fn check(&self, host: &str, problems: &mut Vec<String>) {
        let device = &self.device;
        if let Some(problem) = ifname_problem(device) {
            problems.push(format!("underlay.device {device:?} {problem}"));
        } else if device == host {
            problems.push(format!(
                "underlay.device {device:?} is the host's device too; choose a name of its own"
            ));
        } else if device == "lo" {
            problems.push(
                "underlay.device \"lo\" is the loopback device; choose a name of its own".into(),
            );
        }
    }
}
