//! What ADD answers, in the shape of the newest version, and the way down to older ones.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CniError, Version, code};

/// The success result of ADD.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// The interfaces made, in the container (with a sandbox) and on the host.
    pub interfaces: Vec<Interface>,
    /// The addresses given.
    pub ips: Vec<IpConfig>,
    /// The routes in the container.
    pub routes: Vec<Route>,
    /// Name service, if the plugin has something to say about it.
    #[serde(skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// An interface made by the plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Its name in its namespace.
    pub name: String,
    /// Its MAC address as text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU in bytes; from version 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of its network namespace; none for the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Path of a vhost-user socket; from version 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// PCI address; from version 1.1.0.
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address given to an interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Address with the length of its prefix.
    pub address: IpNet,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into [`CniResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route in the container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; none for the subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU of the route in bytes; from version 1.1.0, as all below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Maximum segment size to advertise, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Priority; lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope as in the kernel's `rtm_scope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Name service settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to search.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

impl CniResult {
    /// The result as `version` spells it, with its `cniVersion`.
    ///
    /// # Panics
    /// Never: all fields have a JSON form.
    pub fn to_version(&self, version: Version) -> Value {
        let mut value = serde_json::to_value(self).expect("plain data serializes");
        // Each step leads one version down; an older version is one more step.
        let steps: [(Version, Step); 2] = [
            (Version::V1_0_0, down_to_1_0),
            (Version::V0_4_0, down_to_0_4),
        ];
        for (target, step) in steps {
            if version <= target {
                step(&mut value);
            }
        }
        value["cniVersion"] = json!(version.as_str());
        value
    }

    /// Reads a result of any supported version, as `prevResult` has it.
    ///
    /// # Errors
    /// Code 7 if it is no result, or an address points at an interface that is not there.
    pub fn from_value(value: &Value) -> Result<CniResult, CniError> {
        let wrong = |details: String| {
            CniError::new(
                code::INVALID_CONFIG,
                "key \"prevResult\" is not a CNI result",
            )
            .with_details(details)
        };
        if !value.is_object() {
            return Err(wrong("it is not a JSON object".to_owned()));
        }
        let result = CniResult::deserialize(value).map_err(|error| wrong(error.to_string()))?;
        let dangling = result
            .ips
            .iter()
            .find(|ip| ip.interface.is_some_and(|i| i >= result.interfaces.len()));
        match dangling {
            Some(ip) => Err(wrong(format!(
                "{} is on an interface that is not listed",
                ip.address
            ))),
            None => Ok(result),
        }
    }
}

/// Turns a result of the next newer version into one of the version it belongs to.
type Step = fn(&mut Value);

/// 1.0.0 knows fewer fields of interfaces and routes.
fn down_to_1_0(value: &mut Value) {
    remove(value, "interfaces", &["mtu", "socketPath", "pciID"]);
    remove(
        value,
        "routes",
        &["mtu", "advmss", "priority", "table", "scope"],
    );
}

/// 0.4.0 states the family of each address.
fn down_to_0_4(value: &mut Value) {
    for ip in value["ips"].as_array_mut().into_iter().flatten() {
        let v6 = ip["address"]
            .as_str()
            .is_some_and(|address| address.contains(':'));
        ip["version"] = json!(if v6 { "6" } else { "4" });
    }
}

fn remove(value: &mut Value, list: &str, keys: &[&str]) {
    let entries = value[list].as_array_mut().into_iter().flatten();
    for entry in entries.filter_map(Value::as_object_mut) {
        for key in keys {
            entry.remove(*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CniResult {
        CniResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "0a:58:0a:f4:01:02".into(),
                mtu: Some(1450),
                sandbox: Some("/run/netns/a".into()),
                ..Interface::default()
            }],
            ips: vec![
                IpConfig {
                    address: "10.244.1.2/32".parse().unwrap(),
                    gateway: Some("169.254.1.1".parse().unwrap()),
                    interface: Some(0),
                },
                IpConfig {
                    address: "fd00::2/128".parse().unwrap(),
                    gateway: None,
                    interface: Some(0),
                },
            ],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: Some("169.254.1.1".parse().unwrap()),
                mtu: Some(1400),
                advmss: None,
                priority: Some(1),
                table: None,
                scope: Some(0),
            }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn newest_version_has_everything() {
        assert_eq!(
            sample().to_version(Version::V1_1_0),
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0", "mac": "0a:58:0a:f4:01:02", "mtu": 1450, "sandbox": "/run/netns/a"}],
                "ips": [
                    {"address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 0},
                    {"address": "fd00::2/128", "interface": 0}
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400, "priority": 1, "scope": 0}]
            })
        );
    }

    #[test]
    fn older_versions_lack_new_fields_and_have_old_ones() {
        let v1 = sample().to_version(Version::V1_0_0);
        assert_eq!(v1["interfaces"][0].get("mtu"), None);
        assert_eq!(
            v1["routes"][0],
            json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"})
        );
        assert_eq!(v1["ips"][0].get("version"), None);
        let v0 = sample().to_version(Version::V0_4_0);
        assert_eq!(v0["cniVersion"], "0.4.0");
        assert_eq!(
            (&v0["ips"][0]["version"], &v0["ips"][1]["version"]),
            (&json!("4"), &json!("6"))
        );
        assert_eq!(v0["interfaces"][0].get("mtu"), None);
    }

    #[test]
    fn results_are_read_back_from_every_version() {
        assert_eq!(
            CniResult::from_value(&sample().to_version(Version::V1_1_0)).unwrap(),
            sample()
        );
        for version in [Version::V0_4_0, Version::V1_0_0] {
            let read = CniResult::from_value(&sample().to_version(version)).unwrap();
            assert_eq!(read.ips, sample().ips);
        }
    }

    #[test]
    fn dangling_interface_index_is_refused() {
        let mut result = sample();
        result.interfaces.clear();
        let error = CniResult::from_value(&result.to_version(Version::V1_1_0)).unwrap_err();
        assert!(error.details.contains("10.244.1.2/32"), "{error}");
        let negative = json!({"ips": [{"address": "10.0.0.1/24", "interface": -1}]});
        assert_eq!(CniResult::from_value(&negative).unwrap_err().code, 7);
    }
}
