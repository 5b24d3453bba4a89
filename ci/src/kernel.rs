//! A node as plain Linux: `flannel.<vni>`, `cni0` and static entries, all as
//! flannel's VXLAN backend and its CNI plugin set them up.

use std::net::IpAddr;

use anyhow::Result;

use crate::guest::Place;
use crate::plan::{NetworkPlan, NodePlan};

/// Name of the tunnel device.
pub(crate) fn device(network: &NetworkPlan) -> String {
    format!("flannel.{}", network.vni)
}

/// The lines for `ip -batch` that give a node its addresses on the underlay.
pub(crate) fn underlay_lines(network: &NetworkPlan, node: &NodePlan) -> String {
    let (address, address6) = (node.underlay(), node.underlay6());
    let (length, length6) = network.subnets;
    let mut lines = format!(
        "addr add {address}/{length} dev eth0\n\
         addr add {address6}/{length6} dev eth0 nodad\n\
         link set eth0 up\n"
    );
    if network.subnets != NetworkPlan::default().subnets {
        lines += "route replace 192.168.77.0/24 dev eth0\nroute replace fd00:77::/64 dev eth0\n";
    }
    lines
}

/// Configures the node's pod network.
pub(crate) fn configure(
    place: &Place,
    network: &NetworkPlan,
    node: &NodePlan,
    pod_mtu: u32,
) -> Result<()> {
    let (links, entries) = commands(network, node, pod_mtu);
    place.batch("ip", &links)?;
    place.batch("bridge", &entries)?;
    Ok(())
}

/// The commands for `ip -batch` and for `bridge -batch`.
fn commands(network: &NetworkPlan, node: &NodePlan, pod_mtu: u32) -> (String, String) {
    let device = device(network);
    let NetworkPlan { vni, udp_port, .. } = network;
    let own = network.address(node, 0);
    let mut links = format!(
        "link add {device} address {mac} type vxlan id {vni} local {underlay} dev eth0 \
         dstport {udp_port} nolearning\n\
         addr add {own}/32 dev {device}\n\
         link set {device} up\n\
         link add cni0 mtu {pod_mtu} type bridge\n\
         addr add {first}/{length} dev cni0\n\
         link set cni0 up\n",
        mac = node.vtep_mac(),
        underlay = node.underlay(),
        first = network.address(node, 1),
        length = network.block_length,
    );
    let mut entries = String::new();
    for peer in network.nodes.iter().filter(|peer| peer.name != node.name) {
        let (mac, via) = (peer.vtep_mac(), network.address(peer, 0));
        links += &format!(
            "route add {block} via {via} dev {device} onlink\n\
             neigh add {via} lladdr {mac} dev {device} nud permanent\n",
            block = network.block(peer),
        );
        entries += &format!(
            "fdb add {mac} dev {device} dst {} self permanent\n",
            peer.underlay()
        );
    }
    (links, entries)
}

/// What joins a pod to its node.
#[derive(Debug)]
pub(crate) struct Join<'a> {
    /// The pod's name.
    pub(crate) pod: &'a str,
    /// Its namespace as `ip` on the node calls it.
    pub(crate) namespace: &'a str,
    /// Its addresses, each with the node's in the same prefix.
    pub(crate) addresses: &'a [(IpAddr, IpAddr)],
    /// MTU of the pod's device in bytes.
    pub(crate) mtu: u32,
}

/// Joins a pod's namespace to the node: a veth whose other end is a port of `cni0`.
pub(crate) fn add_pod((node, pod): (&Place, &Place), join: &Join) -> Result<()> {
    let mtu = join.mtu;
    let on_node = format!(
        "link add {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
         link set {veth} master cni0 up\n",
        join.namespace,
        veth = veth(join.pod),
    );
    node.batch("ip", &on_node)?;
    let mut in_pod = "link set eth0 up\n".to_owned();
    for (address, gateway) in join.addresses {
        let length = if address.is_ipv4() { "24" } else { "64 nodad" };
        in_pod += &format!(
            "addr add {address}/{length} dev eth0\n\
             route add default via {gateway}\n"
        );
    }
    pod.batch("ip", &in_pod)?;
    Ok(())
}

/// Name of the node's end of a pod's veth.
pub(crate) fn veth(pod: &str) -> String {
    format!("veth-{pod}")
}

/// Takes a veth or a tunnel away; nothing happens when it is gone.
pub(crate) fn delete_link(place: &Place, name: &str) -> Result<()> {
    let there = place.batch("ip", "link show\n")?;
    if there.stdout.contains(&format!(" {name}@")) {
        place.batch("ip", &format!("link del {name}\n"))?;
    }
    Ok(())
}
