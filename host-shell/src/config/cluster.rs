//! The cluster file.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::Path;

use culvert_core::MacAddr;
use culvert_core::channel::Encap;
use ipnet::IpNet;
use serde::Deserialize;

use super::address::{Prefixes, address, block, name_problem, overlap};
use super::network::{Mode, Network, RawNetwork, RawTunnel};
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

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub underlay: IpAddr,
    /// The blocks that its pods' addresses come from, without host bits: one of IPv4,
    /// one of IPv6, or both, IPv4 first.
    pub pods: Vec<IpNet>,
    /// The MAC of a foreign node's VXLAN device; `None` for culvert nodes, which derive theirs.
    pub vtep_mac: Option<Mac>,
    /// The tunnel to this node where that is another than the network's mode says.
    pub tunnel: Option<Encap>,
    /// Packets from this node may go on to another that has this too, in whichever
    /// tunnel that is reached.
    pub transit: bool,
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
struct RawNode {
    name: String,
    underlay: IpAddr,
    pods: Prefixes,
    vtep_mac: Option<Mac>,
    tunnel: Option<RawTunnel>,
    #[serde(default)]
    transit: bool,
}

impl Cluster {
    /// Loads and checks the cluster file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and all that is wrong with it.
    pub fn load(path: &Path) -> Result<Cluster, ConfigError> {
        let file: File = read(path)?;
        let mut problems = Vec::new();
        let tunnels = file.node.iter().filter_map(|node| node.tunnel);
        let tunnels: Vec<Encap> = tunnels.map(Encap::from).collect();
        let network = file.network.check(&tunnels, &mut problems);
        let nodes = file.node.into_iter();
        let nodes = nodes.map(|raw| raw.check(&network, &mut problems));
        let cluster = Cluster {
            nodes: nodes.collect(),
            network,
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

    /// All encapsulations that packets leave in, of the mode and of the nodes.
    pub fn encaps(&self) -> impl Iterator<Item = Encap> {
        let tunnels = self.nodes.iter().filter_map(|node| node.tunnel);
        tunnels.chain([self.network.mode.largest()])
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
        let nodes = &self.nodes;
        duplicates(nodes, |node| Some(node.name.clone()), "name", problems);
        duplicates(nodes, |node| Some(node.underlay), "underlay", problems);
        duplicates(nodes, |node| Some(node.vtep()), "vtep_mac", problems);
        for (index, node) in nodes.iter().enumerate() {
            if node.underlay.is_ipv4() != nodes[0].underlay.is_ipv4() {
                problems.push(format!(
                    "node {:?}: underlay {} is of another IP version than {} of node {:?}; give all nodes the same",
                    node.name, node.underlay, nodes[0].underlay, nodes[0].name
                ));
            }
            for other in &nodes[..index] {
                node.check_overlaps(other, problems);
            }
        }
    }
}

impl RawNode {
    /// The section with what is wrong with it added to `problems`.
    fn check(self, network: &Network, problems: &mut Vec<String>) -> Node {
        let mut found = Vec::new();
        if let Some(problem) = name_problem(&self.name) {
            found.push(format!("name {problem}"));
        }
        check_underlay(self.underlay, network, &mut found);
        let pods = self.pods.0.iter();
        let mut pods: Vec<IpNet> = pods.map(|pods| block("pods", *pods, &mut found)).collect();
        // The file's order means nothing; IPv4 sorts first.
        pods.sort_unstable();
        check_blocks(&pods, self.underlay, network, &mut found);
        if let Some((mac, problem)) = self.vtep_mac.and_then(|mac| Some((mac, mac.problem()?))) {
            found.push(format!("vtep_mac {mac} {problem}"));
        }
        let name = &self.name;
        let found = found.into_iter();
        problems.extend(found.map(|found| format!("node {name:?}: {found}")));
        Node {
            name: self.name,
            underlay: self.underlay,
            pods,
            vtep_mac: self.vtep_mac,
            tunnel: self.tunnel.map(Encap::from),
            transit: self.transit,
        }
    }
}

impl Node {
    /// The MAC address of the node's VTEP: its own if it is a foreign node, derived otherwise.
    pub fn vtep(&self) -> Mac {
        self.vtep_mac
            .unwrap_or_else(|| MacAddr::vtep_for(self.underlay).into())
    }

    /// The node's own addresses in the pods' network: the first of each block.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.iter().map(IpNet::network)
    }

    fn check_overlaps(&self, other: &Node, problems: &mut Vec<String>) {
        for pods in &self.pods {
            let hit = other.pods.iter().find(|theirs| overlap(*pods, **theirs));
            if let Some(theirs) = hit {
                problems.push(format!(
                    "node {:?}: pods {pods} overlaps {theirs} of node {:?}; give each node a block of its own",
                    self.name, other.name
                ));
            }
        }
    }
}

fn check_underlay(underlay: IpAddr, network: &Network, found: &mut Vec<String>) {
    address("underlay", underlay, found);
    if matches!(underlay, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        found.push(format!(
            "underlay {underlay} is link-local; give an address that all nodes can reach"
        ));
    }
    if let Some(prefix) = network.prefix_of(underlay) {
        found.push(format!(
            "underlay {underlay} lies inside the pods' prefix {prefix}; nodes need addresses outside of it"
        ));
    }
    if underlay == network.gateway_for(underlay) {
        found.push(format!("underlay {underlay} is the gateway's address"));
    }
}

fn check_blocks(pods: &[IpNet], underlay: IpAddr, network: &Network, found: &mut Vec<String>) {
    if pods.is_empty() {
        found.push("pods is an empty list; the node's pods need addresses".to_owned());
    }
    for pair in pods.windows(2) {
        if pair[0].addr().is_ipv4() == pair[1].addr().is_ipv4() {
            found.push(format!(
                "pods has {} and {}; a node has one block of each IP version",
                pair[0], pair[1]
            ));
        }
    }
    for pods in pods {
        let longest = pods.max_prefix_len() - 2;
        if pods.prefix_len() > longest {
            found.push(format!(
                "pods {pods} is too small; it must be /{longest} or larger"
            ));
        }
        let like = |prefix: &&IpNet| prefix.addr().is_ipv4() == pods.addr().is_ipv4();
        let prefixes: Vec<_> = network.prefixes.iter().filter(like).collect();
        if !prefixes.iter().any(|prefix| prefix.contains(pods)) {
            let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
            found.push(match prefixes.join(", ") {
                none if none.is_empty() => format!(
                    "pods {pods} lies outside of the network, which has no prefix of its IP version"
                ),
                all => format!("pods {pods} lies outside of the network's prefix {all}"),
            });
        }
        // An IPv4 route can lead over an IPv6 address (RFC 5549), not the other way round.
        let routable = pods.addr().is_ipv4() || underlay.is_ipv6();
        if network.mode == Mode::One(Encap::Direct) && !routable {
            found.push(format!(
                "pods {pods} cannot be routed to the IPv4 address {underlay} without a tunnel; \
                 give the nodes IPv6 underlay addresses, or set encap to \"cross-subnet\" or a tunnel"
            ));
        }
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
