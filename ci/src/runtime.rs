//! Calls of the CNI plugin as a container runtime makes them, well or badly.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

use crate::culvert;
use crate::process::Output;
use crate::site::Site;

/// One call of `culvert-cni`; every part of it can be changed before it is made.
#[derive(Debug, Clone)]
pub struct Call {
    site: Arc<Site>,
    node: String,
    env: BTreeMap<String, String>,
    config: Value,
    stdin: Option<String>,
    under: Vec<String>,
}

/// What the plugin answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whether its status was 0.
    pub success: bool,
    /// What it printed, null when that was nothing.
    pub json: Value,
    /// What it printed to standard error.
    pub stderr: String,
}

impl Answer {
    /// The CNI error code; `None` in a success.
    #[must_use]
    pub fn code(&self) -> Option<u64> {
        self.json["code"].as_u64()
    }

    /// Message and details of an error.
    #[must_use]
    pub fn message(&self) -> String {
        let text = |key: &str| self.json[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("msg"), text("details"))
    }

    /// The first address of an ADD's result, without its length.
    #[must_use]
    pub fn address(&self) -> Option<std::net::Ipv4Addr> {
        let text = self.json["ips"][0]["address"].as_str()?;
        text.split('/').next()?.parse().ok()
    }
}

impl Call {
    pub(crate) fn new(site: &Arc<Site>, (verb, node, place): (&str, &str, &str)) -> Self {
        let netns = format!("/var/run/netns/{}", site.namespace(place));
        let env = [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", container_id(site.tag(), place)),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ];
        Self {
            site: Arc::clone(site),
            node: node.to_owned(),
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            config: culvert::net_conf(site, node),
            stdin: None,
            under: Vec::new(),
        }
    }

    /// With this variable in the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Without this variable in the environment.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// With this key in the network configuration.
    #[must_use]
    pub fn key(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// With these bytes instead of a network configuration.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// Run by another program, which is given the plugin's path as its last argument.
    #[must_use]
    pub fn under(mut self, argv: &[&str]) -> Self {
        self.under = argv.iter().map(ToString::to_string).collect();
        self
    }

    /// Makes the call.
    ///
    /// # Errors
    /// When the plugin cannot be started or takes too long.
    pub fn output(&self) -> Result<Output> {
        let env: Vec<(&str, &str)> = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let config = self.config.to_string();
        let stdin = self.stdin.as_deref().unwrap_or(&config);
        let plugin = culvert::program("culvert-cni")?;
        let mut argv: Vec<&str> = self.under.iter().map(String::as_str).collect();
        argv.push(&plugin);
        self.site
            .exec(&self.node, &argv, &env, (stdin, culvert::CALL))
    }

    /// Makes the call and takes its answer apart.
    ///
    /// # Errors
    /// As [`Call::output`], and when it printed something that is no JSON.
    pub fn answer(&self) -> Result<Answer> {
        let output = self.output()?;
        let json = match output.stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)?,
        };
        Ok(Answer {
            success: output.status.success(),
            json,
            stderr: output.stderr,
        })
    }
}

/// A container identity of 64 hex digits, as containerd's are.
pub(crate) fn container_id(tag: &str, pod: &str) -> String {
    let bytes = format!("{tag}-{pod}").into_bytes();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64.64}")
}

#[cfg(test)]
mod tests {
    use super::container_id;

    #[test]
    fn container_ids_are_as_long_as_containerds() {
        let (one, other) = (
            container_id("cvl1234567x12", "p1"),
            container_id("cvl1234567x12", "p2"),
        );
        assert_eq!((one.len(), other.len()), (64, 64));
        assert_ne!(one, other);
    }
}
