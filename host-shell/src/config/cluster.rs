//! The cluster file.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use culvert_core::MacAddr;
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use super::{ConfigError, read};
use crate::mac::Mac;

/// The cluster as all nodes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The pods' network.
    pub network: Network,
    /// All nodes, this one too, in the order of the file.
    pub nodes: Vec<Node>,
}

/// The pods' network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The prefix that all pod blocks lie in.
    pub prefix: IpNet,
    /// VXLAN network identifier, 1 to 16777215.
    pub vni: u32,
    /// UDP port of VXLAN.
    pub udp_port: u16,
    /// The address that pods know as their gateway, the same on all nodes.
    pub gateway: IpAddr,
    /// The MAC that answers for the gateway.
    pub gateway_mac: Mac,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub underlay: IpAddr,
    /// The block that its pods' addresses come from.
    pub pods: IpNet,
    /// The MAC of a foreign node's VXLAN device; `None` for culvert nodes, which derive theirs.
    pub vtep_mac: Option<Mac>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    network: RawNetwork,
    #[serde(default)]
    node: Vec<RawNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    name: String,
    prefix: IpNet,
    // Wider than what is allowed, so that the error can name the range.
    vni: i64,
    udp_port: i64,
    #[serde(default = "default_gateway")]
    gateway: IpAddr,
    #[serde(default = "default_gateway_mac")]
    gateway_mac: Mac,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: String,
    underlay: IpAddr,
    pods: IpNet,
    vtep_mac: Option<Mac>,
}

fn default_gateway() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1))
}

fn default_gateway_mac() -> Mac {
    Mac([0xee; 6])
}

impl Cluster {
    /// Loads and checks the cluster file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and all that is wrong with it.
    pub fn load(path: &Path) -> Result<Cluster, ConfigError> {
        let file: File = read(path)?;
        let mut problems = Vec::new();
        let cluster = Cluster {
            network: network(file.network, &mut problems),
            nodes: file.node.into_iter().map(Node::from).collect(),
        };
        cluster.check_nodes(&mut problems);
        if problems.is_empty() {
            Ok(cluster)
        } else {
            Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// The entry of the node called `name`, which `config` says this one is.
    pub(super) fn own(&self, name: &str, config: &Path) -> Result<&Node, String> {
        let Some(own) = self.nodes.iter().find(|node| node.name == name) else {
            let names: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(format!(
                "there is no node {name:?}, which {} says this node is; there are: {}",
                config.display(),
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            ));
        };
        match own.vtep_mac {
            Some(mac) => Err(format!(
                "node {name:?}: vtep_mac {mac} is for foreign nodes only, and this node runs culvert; remove it"
            )),
            None => Ok(own),
        }
    }

    fn check_nodes(&self, problems: &mut Vec<String>) {
        if self.nodes.is_empty() {
            problems.push("there is no [[node]]; add one for each node".to_owned());
        }
        for node in &self.nodes {
            let name = &node.name;
            let found = node.problems(&self.network);
            problems.extend(
                found
                    .into_iter()
                    .map(|found| format!("node {name:?}: {found}")),
            );
        }
        let nodes = &self.nodes;
        duplicates(nodes, |node| Some(node.name.clone()), "name", problems);
        duplicates(nodes, |node| Some(node.underlay), "underlay", problems);
        duplicates(nodes, |node| Some(node.vtep()), "vtep_mac", problems);
        for (index, node) in nodes.iter().enumerate() {
            for other in &nodes[..index] {
                if overlap(node.pods, other.pods) {
                    problems.push(format!(
                        "node {:?}: pods {} overlaps {} of node {:?}; give each node a block of its own",
                        node.name, node.pods, other.pods, other.name
                    ));
                }
            }
        }
    }
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Node {
        let RawNode {
            name,
            underlay,
            pods,
            vtep_mac,
        } = raw;
        Node {
            name,
            underlay,
            pods,
            vtep_mac,
        }
    }
}

impl Node {
    /// The MAC address of the node's VTEP: its own if it is a foreign node, derived otherwise.
    pub fn vtep(&self) -> Mac {
        self.vtep_mac
            .unwrap_or_else(|| MacAddr::vtep_for(self.underlay).into())
    }

    fn problems(&self, network: &Network) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(problem) = name_problem(&self.name) {
            problems.push(format!("name {problem}"));
        }
        address("underlay", self.underlay, &mut problems);
        if network.prefix.contains(&self.underlay) {
            problems.push(format!(
                "underlay {} lies inside the pods' prefix {}; nodes need addresses outside of it",
                self.underlay, network.prefix
            ));
        }
        if self.underlay == network.gateway {
            problems.push(format!(
                "underlay {} is the gateway's address",
                self.underlay
            ));
        }
        let (pods, prefix) = (self.pods, network.prefix);
        if let Some(pods) = block("pods", pods, &mut problems) {
            if pods.prefix_len() > 30 {
                problems.push(format!(
                    "pods {pods} is too small; it must be /30 or larger"
                ));
            }
            if matches!(prefix, IpNet::V4(_)) && !prefix.trunc().contains(&self.pods) {
                problems.push(format!(
                    "pods {pods} lies outside of the network's prefix {prefix}"
                ));
            }
        }
        if let Some((mac, problem)) = self.vtep_mac.and_then(|mac| Some((mac, mac.problem()?))) {
            problems.push(format!("vtep_mac {mac} {problem}"));
        }
        problems
    }
}

fn network(raw: RawNetwork, problems: &mut Vec<String>) -> Network {
    let mut found = Vec::new();
    if let Some(problem) = name_problem(&raw.name) {
        found.push(format!("name {:?} {problem}", raw.name));
    }
    let vni = u32::try_from(raw.vni)
        .ok()
        .filter(|vni| (1..1 << 24).contains(vni));
    if vni.is_none() {
        found.push(format!("vni {} is not from 1 to 16777215", raw.vni));
    }
    let udp_port = u16::try_from(raw.udp_port).ok().filter(|port| *port != 0);
    if udp_port.is_none() {
        found.push(format!("udp_port {} is not from 1 to 65535", raw.udp_port));
    }
    if let Some(prefix) = block("prefix", raw.prefix, &mut found) {
        let reserved = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"];
        let hit = reserved.into_iter().find(|net| {
            net.parse()
                .is_ok_and(|net: Ipv4Net| overlap(IpNet::V4(net), IpNet::V4(prefix)))
        });
        if let Some(net) = hit {
            found.push(format!(
                "prefix {prefix} overlaps {net}, which is not for hosts"
            ));
        }
    }
    address("gateway", raw.gateway, &mut found);
    if raw.prefix.contains(&raw.gateway) {
        found.push(format!(
            "gateway {} lies inside the pods' prefix {}; choose a link-local one, as 169.254.1.1",
            raw.gateway, raw.prefix
        ));
    }
    if let Some(problem) = raw.gateway_mac.problem() {
        found.push(format!("gateway_mac {} {problem}", raw.gateway_mac));
    }
    problems.extend(found.into_iter().map(|found| format!("network: {found}")));
    Network {
        name: raw.name,
        prefix: raw.prefix,
        // A problem is recorded above when these are replaced, so nobody sees them.
        vni: vni.unwrap_or_default(),
        udp_port: udp_port.unwrap_or_default(),
        gateway: raw.gateway,
        gateway_mac: raw.gateway_mac,
    }
}

/// Reports an address that is no host's.
fn address(key: &str, address: IpAddr, problems: &mut Vec<String>) {
    let problem = match address {
        IpAddr::V6(_) => "is IPv6, and the data path is IPv4 only so far",
        IpAddr::V4(v4) if v4.is_unspecified() || v4.octets()[0] == 0 => "is unspecified",
        IpAddr::V4(v4) if v4.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4.is_loopback() => "is a loopback address",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => "is a broadcast or reserved address",
        IpAddr::V4(_) => return,
    };
    problems.push(format!("{key} {address} {problem}"));
}

/// Reports a prefix with host bits or of IPv6; returns it without host bits.
fn block(key: &str, prefix: IpNet, problems: &mut Vec<String>) -> Option<Ipv4Net> {
    let IpNet::V4(v4) = prefix else {
        problems.push(format!(
            "{key} {prefix} is IPv6, and the data path is IPv4 only so far"
        ));
        return None;
    };
    if v4 != v4.trunc() {
        problems.push(format!(
            "{key} {v4} has bits behind its prefix; write {}",
            v4.trunc()
        ));
    }
    Some(v4.trunc())
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    let (a, b) = (a.trunc(), b.trunc());
    a.contains(&b) || b.contains(&a)
}

fn name_problem(name: &str) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > 253 {
        Some("has more than 253 bytes")
    } else if !name.bytes().all(plain) {
        Some("must have only letters, digits, '-', '_' and '.'")
    } else {
        None
    }
}

fn duplicates<T: Hash + Eq + ToString>(
    nodes: &[Node],
    value: impl Fn(&Node) -> Option<T>,
    what: &str,
    problems: &mut Vec<String>,
) {
    let mut seen = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let Some(value) = value(node) else { continue };
        let text = value.to_string();
        if let Some(first) = seen.insert(value, index) {
            problems.push(format!(
                "node {:?} (number {}) has the same {what} as node {:?} (number {}): {text}",
                node.name,
                index + 1,
                nodes[first].name,
                first + 1
            ));
        }
    }
}
