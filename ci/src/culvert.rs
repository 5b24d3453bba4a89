//! A node with culvert: its files, its daemon, and calls of the CNI plugin as a
//! container runtime makes them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::plan::{NetworkPlan, NodePlan};
use crate::process::{Output, wait_for};
use crate::site::Site;

/// How long a daemon may take until it answers.
const READY: Duration = Duration::from_secs(10);
/// How long one call of the plugin or the command line may take.
pub(crate) const CALL: Duration = Duration::from_secs(10);

/// The directory with culvert's own programs: `CULVERT_BIN_DIR`, or where the
/// running program lies.
///
/// # Errors
/// When the running program's own path is unknown.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CULVERT_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    own_dir()
}

/// Where the lab's own program lies: beside the running one, or above it for a
/// test, which cargo puts into `deps`.
pub(crate) fn own_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let dir = own.parent().context("this program lies nowhere")?;
    Ok(if dir.ends_with("deps") {
        dir.join("..")
    } else {
        dir.to_owned()
    })
}

/// A path of one of culvert's programs.
pub(crate) fn program(name: &str) -> Result<String> {
    let path = bin_dir()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is not there: build it with `cargo build --release`",
            path.display()
        );
    }
    Ok(path.display().to_string())
}

/// The files of one culvert node.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(crate) fn new(site: &Site, node: &str) -> Self {
        Self {
            dir: site.dir().join(node),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("run/culvertd.sock")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("culvert.toml")
    }

    /// Writes both configuration files; `sections` are those of the node's mode.
    pub(crate) fn write(
        &self,
        network: &NetworkPlan,
        node: &NodePlan,
        sections: &str,
    ) -> Result<()> {
        fs::create_dir_all(self.dir.join("run"))?;
        fs::create_dir_all(self.dir.join("state"))?;
        let dir = self.dir.display();
        let config = format!(
            "node = \"{}\"\ncluster = \"{dir}/cluster.toml\"\nrun_dir = \"{dir}/run\"\n\
             state_dir = \"{dir}/state\"\n{sections}",
            node.name
        );
        fs::write(self.config(), config)?;
        fs::write(self.dir.join("cluster.toml"), network.cluster_toml())?;
        Ok(())
    }
}

/// Starts the node's daemon and waits until it answers. Returns its pid.
pub(crate) fn start_daemon(site: &Site, node: &str, log: &Path) -> Result<u32> {
    let config = Files::new(site, node).config().display().to_string();
    let pid = site.background(node, &[&program("culvertd")?, "--config", &config], log)?;
    wait_for(&format!("culvertd on {node} ready"), READY, || {
        if let Some(status) = site.ended(pid)? {
            bail!(
                "culvertd on {node} ended with {status}; its log:\n{}",
                tail(log, 20)
            );
        }
        Ok(ask(site, node, &["status"])?.status.success().then_some(()))
    })?;
    Ok(pid)
}

/// Calls `culvert` on the node.
pub(crate) fn ask(site: &Site, node: &str, args: &[&str]) -> Result<Output> {
    let socket = Files::new(site, node).socket().display().to_string();
    let program = program("culvert")?;
    let mut argv = vec![program.as_str(), "--socket", &socket];
    argv.extend(args);
    site.exec(node, &argv, &[], ("", CALL))
}

/// The network configuration that a runtime of the node has.
pub(crate) fn net_conf(site: &Site, node: &str) -> Value {
    let dir = Files::new(site, node).dir;
    json!({
        "cniVersion": "1.0.0",
        "name": "culvert",
        "type": "culvert-cni",
        "runDir": dir.join("run"),
        "stateDir": dir.join("state"),
    })
}

/// The result of an ADD, and the addresses it gave: IPv4 and, if any, IPv6.
pub(crate) fn parse_result(text: &str) -> Result<(Value, Ipv4Addr, Option<Ipv6Addr>)> {
    let result: Value =
        serde_json::from_str(text).with_context(|| format!("the CNI result is no JSON: {text}"))?;
    let addresses = result["ips"]
        .as_array()
        .context("the CNI result has no `ips`")?;
    let texts = addresses
        .iter()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next());
    let first = texts.clone().find_map(|address| address.parse().ok());
    let address6 = texts.clone().find_map(|address| address.parse().ok());
    let address = first.with_context(|| format!("the CNI result has no IPv4 address: {text}"))?;
    Ok((result, address, address6))
}

/// The last `lines` lines of a log.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ipv4_address_of_a_result_is_the_pods() {
        let text = r#"{"ips":[{"address":"fd00::2/128"},{"address":"10.244.1.2/32"}]}"#;
        let (_, address, address6) = parse_result(text).unwrap();
        assert_eq!(address, Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(address6, Some("fd00::2".parse().unwrap()));
        for bad in ["", "{}", r#"{"ips":[]}"#, r#"{"ips":[{"address":"x"}]}"#] {
            assert!(parse_result(bad).is_err(), "{bad}");
        }
    }
}
