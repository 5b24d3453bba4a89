//! What a lab is made of, and every address that follows from it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail, ensure};
use culvert_host::appliance::Arch;

use crate::guest::Checksums;

/// What makes a node's pod network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// `culvertd` and `culvert-cni`.
    Culvert,
    /// `culvertd` and `culvert-cni`, in front of an appliance that forwards.
    Appliance(Arch),
    /// The kernel's `vxlan` device and a bridge, as flannel configures them.
    Kernel,
    /// A machine of its own with Debian's kernel, configured as a kernel node
    /// and for IPv6 too; see [`crate::Guest`].
    Guest(Checksums),
    /// A namespace with the node's addresses on the underlay; its pod network is made
    /// by whoever builds the lab.
    Bare,
}

impl NodeKind {
    /// Whether the node's daemon is culvertd.
    #[must_use]
    pub fn runs_culvert(self) -> bool {
        matches!(self, NodeKind::Culvert | NodeKind::Appliance(_))
    }

    /// The architecture of the node's appliance, if it has one.
    #[must_use]
    pub fn appliance(self) -> Option<Arch> {
        match self {
            NodeKind::Appliance(arch) => Some(arch),
            NodeKind::Culvert | NodeKind::Kernel | NodeKind::Guest(_) | NodeKind::Bare => None,
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Name, also of its namespace.
    pub name: String,
    /// What runs its pod network.
    pub kind: NodeKind,
    /// Last byte of its underlay address, third byte of its block; 1 to 254,
    /// one of its own in the whole lab.
    pub number: u8,
    /// Further lines for its entry in the cluster file.
    pub settings: String,
    /// Further lines at the end of its daemon's own configuration.
    pub daemon: String,
    /// Whether its appliance has a management port, whose wire is the node's TAP `tapm`.
    pub managed: bool,
}

impl NodePlan {
    /// A node.
    #[must_use]
    pub fn new(name: &str, kind: NodeKind, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            number,
            settings: String::new(),
            daemon: String::new(),
            managed: false,
        }
    }

    /// The node's address on the underlay, a /24.
    #[must_use]
    pub fn underlay(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, self.number)
    }

    /// The node's IPv6 address on the underlay, a /64.
    #[must_use]
    pub fn underlay6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(self.number))
    }

    /// MAC address of a guest's network device.
    #[must_use]
    pub fn guest_mac(&self) -> String {
        format!("52:54:00:a8:4d:{:02x}", self.number)
    }

    /// MAC address of the node's tunnel end. That of a culvert node is the one
    /// that culvertd derives from the underlay address.
    #[must_use]
    pub fn vtep_mac(&self) -> String {
        let first = match self.kind {
            NodeKind::Culvert | NodeKind::Appliance(_) => "0a:63",
            NodeKind::Kernel | NodeKind::Guest(_) | NodeKind::Bare => "6e:6b",
        };
        let [a, b, c, d] = self.underlay().octets();
        format!("{first}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

/// One pod network: a cluster of nodes with one VNI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Name.
    pub name: String,
    /// Second byte of its prefix `10.<net>.0.0/16`, one of its own in the lab.
    pub net: u8,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub udp_port: u16,
    /// Its nodes.
    pub nodes: Vec<NodePlan>,
    /// Further lines for `[network]` in the cluster file.
    pub settings: String,
    /// Whether the pods of culvert nodes have IPv6 addresses too.
    pub dual_stack: bool,
    /// Whether the nodes know each other by their IPv6 addresses.
    pub over_v6: bool,
    /// Lengths of the prefixes that a node shares with its neighbors, IPv4 and
    /// IPv6; the rest of the underlay is reached without a router all the same.
    pub subnets: (u8, u8),
    /// Length of each node's block of IPv4 addresses, 16 to 24; below 24 the nodes'
    /// numbers have only so many bits less.
    pub block_length: u8,
    /// Whether its nodes, two of them, are joined by one veth and not by the underlay's
    /// bridge, so that a measurement has nothing of it.
    pub cable: bool,
}

impl Default for NetworkPlan {
    /// Flannel's numbers, IPv4, and no nodes.
    fn default() -> Self {
        Self {
            name: "pods".into(),
            net: 244,
            vni: 1,
            udp_port: 8472,
            nodes: Vec::new(),
            settings: String::new(),
            dual_stack: false,
            over_v6: false,
            subnets: (24, 64),
            block_length: 24,
            cable: false,
        }
    }
}

impl NetworkPlan {
    /// Prefix of the whole network.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("10.{}.0.0/16", self.net)
    }

    /// Address number `host` in the block of `node`; 0 is the node's own
    /// address in the pod network.
    #[must_use]
    pub fn address(&self, node: &NodePlan, host: u16) -> Ipv4Addr {
        let block = u32::from(node.number) << (32 - self.block_length);
        let net = Ipv4Addr::new(10, self.net, 0, 0).to_bits();
        Ipv4Addr::from_bits(net + block + u32::from(host))
    }

    /// IPv6 address number `host` in the IPv6 block of `node`.
    #[must_use]
    pub fn address6(&self, node: &NodePlan, host: u16) -> Ipv6Addr {
        let [net, number] = [self.net, node.number].map(u16::from);
        Ipv6Addr::new(0xfd00, net, number, 0, 0, 0, 0, host)
    }

    /// The block of IPv6 addresses of the pods on `node`.
    #[must_use]
    pub fn block6(&self, node: &NodePlan) -> String {
        format!("{}/64", self.address6(node, 0))
    }

    /// The block of addresses of the pods on `node`.
    #[must_use]
    pub fn block(&self, node: &NodePlan) -> String {
        format!("{}/{}", self.address(node, 0), self.block_length)
    }

    fn check(&self) -> Result<()> {
        let (name, length) = (&self.name, self.block_length);
        ensure!(
            (16..=24).contains(&length),
            "network {name}: blocks of length {length} are not in 16..=24"
        );
        let most = 1_u32 << (length - 16);
        let high = |node: &&NodePlan| u32::from(node.number) >= most;
        if let Some(node) = self.nodes.iter().find(high) {
            bail!(
                "{}: number {} is not below {most}, which blocks of length {length} allow",
                node.name,
                node.number
            );
        }
        ensure!(
            !self.cable || self.nodes.len() == 2,
            "network {name}: one veth joins two nodes, and it has {}",
            self.nodes.len()
        );
        let other = |node: &&NodePlan| {
            matches!(node.kind, NodeKind::Guest(_)) || node.kind.appliance().is_some()
        };
        ensure!(
            !self.cable || !self.nodes.iter().any(|node| other(&node)),
            "network {name}: guests and appliances are on the underlay's bridge only"
        );
        Ok(())
    }

    /// The cluster file that all culvert nodes of the network read.
    #[must_use]
    pub fn cluster_toml(&self) -> String {
        let prefixes = match self.dual_stack {
            false => format!("\"{}\"", self.prefix()),
            true => format!("[\"{}\", \"fd00:{:x}::/32\"]", self.prefix(), self.net),
        };
        let mut text = format!(
            "[network]\nname = \"{}\"\nprefix = {prefixes}\nvni = {}\nudp_port = {}\n{}",
            self.name, self.vni, self.udp_port, self.settings
        );
        for node in &self.nodes {
            let pods = match self.dual_stack {
                false => format!("\"{}\"", self.block(node)),
                true => format!("[\"{}\", \"{}\"]", self.block(node), self.block6(node)),
            };
            let underlay = match self.over_v6 {
                false => node.underlay().to_string(),
                true => node.underlay6().to_string(),
            };
            text += &format!(
                "\n[[node]]\nname = \"{}\"\nunderlay = \"{underlay}\"\npods = {pods}\n",
                node.name
            );
            if !node.kind.runs_culvert() {
                text += &format!("vtep_mac = \"{}\"\n", node.vtep_mac());
            }
            text += &node.settings;
        }
        text
    }
}

/// A whole lab: networks of nodes on one underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// MTU of the underlay in bytes.
    pub mtu: u32,
    /// The pod networks.
    pub networks: Vec<NetworkPlan>,
}

impl Plan {
    /// Bytes that VXLAN over IPv4 takes from the underlay's MTU.
    pub const OVERHEAD: u32 = 50;

    /// MTU that is left for the pods, in bytes.
    #[must_use]
    pub fn pod_mtu(&self) -> u32 {
        self.mtu.saturating_sub(Self::OVERHEAD)
    }

    /// Every node with its network.
    pub fn nodes(&self) -> impl Iterator<Item = (&NetworkPlan, &NodePlan)> {
        self.networks
            .iter()
            .flat_map(|network| network.nodes.iter().map(move |node| (network, node)))
    }

    /// Whether the lab can be built.
    ///
    /// # Errors
    /// Names what is out of range or there twice.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (576..=65535).contains(&self.mtu),
            "underlay MTU {} is not in 576..=65535",
            self.mtu
        );
        let mut seen: Vec<&NodePlan> = Vec::new();
        for (_, node) in self.nodes() {
            check_name(&node.name)?;
            ensure!(
                (1..=254).contains(&node.number),
                "{}: number {} is not in 1..=254",
                node.name,
                node.number
            );
            let twin = seen
                .iter()
                .find(|other| other.name == node.name || other.number == node.number);
            ensure!(
                twin.is_none(),
                "two nodes are called {} or have number {}",
                node.name,
                node.number
            );
            seen.push(node);
        }
        for network in &self.networks {
            network.check()?;
        }
        let mut nets: Vec<u8> = self.networks.iter().map(|network| network.net).collect();
        nets.sort_unstable();
        ensure!(
            nets.windows(2).all(|pair| pair[0] != pair[1]),
            "two networks have the same prefix"
        );
        Ok(())
    }
}

/// Whether a place can have this name: it becomes part of interface names,
/// which have at most 15 characters.
///
/// # Errors
/// Says what a name may be.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    ensure!(
        (1..=8).contains(&name.len()) && name.bytes().all(fine) && name != "underlay",
        "`{name}` cannot be a node's or pod's name: 1 to 8 of a-z and 0-9, not `underlay`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: Vec<NodePlan>) -> Plan {
        let network = NetworkPlan {
            name: "pods".into(),
            net: 244,
            vni: 1,
            udp_port: 8472,
            nodes,
            ..NetworkPlan::default()
        };
        Plan {
            mtu: 1500,
            networks: vec![network],
        }
    }

    #[test]
    fn the_cluster_file_names_foreign_tunnel_ends_only() {
        let plan = plan(vec![
            NodePlan::new("n1", NodeKind::Culvert, 1),
            NodePlan::new("n3", NodeKind::Kernel, 3),
        ]);
        plan.check().unwrap();
        let text = plan.networks[0].cluster_toml();
        assert_eq!(text.matches("vtep_mac").count(), 1);
        assert!(
            text.ends_with("pods = \"10.244.3.0/24\"\nvtep_mac = \"6e:6b:c0:a8:4d:03\"\n"),
            "{text}"
        );
        assert_eq!(plan.networks[0].nodes[0].vtep_mac(), "0a:63:c0:a8:4d:01");
    }

    #[test]
    fn what_cannot_be_built_is_named() {
        let kernel = |name, number| NodePlan::new(name, NodeKind::Kernel, number);
        for (nodes, said) in [
            (vec![kernel("n1", 1), kernel("n1", 2)], "two nodes"),
            (vec![kernel("n1", 1), kernel("n2", 1)], "two nodes"),
            (vec![kernel("n1", 0)], "number 0"),
            (vec![kernel("underlay", 1)], "underlay"),
            (vec![kernel("Node", 1)], "Node"),
            (vec![kernel("n123456789", 1)], "n123456789"),
            (vec![kernel("", 1)], "``"),
        ] {
            let error = plan(nodes).check().unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let wide = |block_length, cable| {
            let mut wide = plan(vec![kernel("n1", 15), kernel("n2", 16)]);
            (wide.networks[0].block_length, wide.networks[0].cable) = (block_length, cable);
            wide
        };
        wide(21, true).check().unwrap();
        assert_eq!(
            wide(21, true).networks[0].block(&kernel("n1", 15)),
            "10.244.120.0/21"
        );
        for (length, said) in [(20, "n2: number 16"), (25, "length 25"), (15, "length 15")] {
            let error = wide(length, false).check().unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let mut three = wide(24, true);
        three.networks[0].nodes.push(kernel("n3", 3));
        let error = three.check().unwrap_err().to_string();
        assert!(error.contains("joins two nodes"), "{error}");
        let low = Plan {
            mtu: 100,
            ..plan(vec![])
        };
        assert!(low.check().unwrap_err().to_string().contains("MTU 100"));
    }
}
