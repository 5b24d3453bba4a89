//! How a guest reaches the pods of another node: the kernel's tunnel devices as
//! container networks configure them.

use crate::plan::{NetworkPlan, NodePlan};

/// How packets of one node's pods travel to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// No tunnel: the peer is the router.
    Direct,
    /// VXLAN over IPv4 (RFC 7348), as flannel configures it; every guest begins
    /// with it. IPv4 pods.
    Vxlan,
    /// IPv4 in IPv4 (RFC 2003) by the device `tunl0`, as Calico configures it.
    Ipip,
    /// IPv6 in IPv4 (RFC 4213) by the device `sit0`. IPv6 pods.
    Sit,
    /// IPv4 and IPv6 in IPv6 (RFC 2473) by a device for each peer. With a limit
    /// each packet carries it in a destination option (section 4.1.1), which the
    /// kernel does by itself with 4.
    Ip6Tunnel {
        /// How many tunnels a packet may enter inside this one.
        limit: Option<u8>,
    },
}

/// Name of the device that carries packets to `peer` over IPv6.
pub(super) fn device6(peer: &NodePlan) -> String {
    format!("tnl-{}", peer.name)
}

impl Encapsulation {
    /// Bytes that it takes from the underlay's MTU.
    #[must_use]
    pub fn overhead(self) -> u32 {
        match self {
            Self::Direct => 0,
            Self::Vxlan => 50,
            Self::Ipip | Self::Sit => 20,
            Self::Ip6Tunnel { limit: None } => 40,
            Self::Ip6Tunnel { limit: Some(_) } => 48,
        }
    }

    /// Lines for `ip -batch` that send packets for the peer's pods this way.
    pub(super) fn lines(self, network: &NetworkPlan, own: &NodePlan, peer: &NodePlan) -> String {
        let (block, block6) = (network.block(peer), network.block6(peer));
        match self {
            Self::Direct => format!(
                "route replace {block} via {} dev eth0\n\
                 route replace {block6} via {} dev eth0\n",
                peer.underlay(),
                peer.underlay6()
            ),
            Self::Vxlan => format!(
                "route replace {block} via {} dev {} onlink\n",
                network.address(peer, 0),
                crate::kernel::device(network)
            ),
            Self::Ipip => format!(
                "addr replace {}/32 dev tunl0\n\
                 link set tunl0 up\n\
                 route replace {block} via {} dev tunl0 onlink\n",
                network.address(own, 0),
                peer.underlay()
            ),
            Self::Sit => format!(
                "link set sit0 up\n\
                 route replace {block6} via ::{} dev sit0\n",
                peer.underlay()
            ),
            Self::Ip6Tunnel { limit } => {
                let limit = limit.map_or("none".to_owned(), |limit| limit.to_string());
                let device = device6(peer);
                format!(
                    "link add {device} type ip6tnl mode any local {} remote {} encaplimit {limit}\n\
                     link set {device} up\n\
                     route replace {block} dev {device}\n\
                     route replace {block6} dev {device}\n",
                    own.underlay6(),
                    peer.underlay6()
                )
            }
        }
    }
}
