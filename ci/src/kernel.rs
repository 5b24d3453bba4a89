//! A node as plain Linux: `flannel.<vni>`, `cni0` and static entries, all as
//! flannel's VXLAN backend and its CNI plugin set them up.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::plan::{NetworkPlan, NodePlan};
use crate::process::run;

/// Name of the tunnel device.
pub(crate) fn device(network: &NetworkPlan) -> String {
    format!("flannel.{}", network.vni)
}

/// Configures the node's pod network in its namespace.
pub(crate) fn configure(
    namespace: &str,
    network: &NetworkPlan,
    node: &NodePlan,
    pod_mtu: u32,
) -> Result<()> {
    let (links, entries) = commands(network, node, pod_mtu);
    run(&["ip", "-n", namespace, "-batch", "-"], &links)?;
    run(&["bridge", "-n", namespace, "-batch", "-"], &entries)?;
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
         addr add {first}/24 dev cni0\n\
         link set cni0 up\n",
        mac = node.vtep_mac(),
        underlay = node.underlay(),
        first = network.address(node, 1),
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

/// Joins a pod's namespace to the node: a veth whose other end is a port of `cni0`.
pub(crate) fn add_pod(
    (node_ns, pod_ns): (&str, &str),
    pod: &str,
    (address, gateway): (Ipv4Addr, Ipv4Addr),
    mtu: u32,
) -> Result<()> {
    let on_node = format!(
        "link add veth-{pod} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod_ns}\n\
         link set veth-{pod} master cni0 up\n"
    );
    run(&["ip", "-n", node_ns, "-batch", "-"], &on_node)?;
    let in_pod = format!(
        "addr add {address}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {gateway}\n"
    );
    run(&["ip", "-n", pod_ns, "-batch", "-"], &in_pod)?;
    Ok(())
}

/// Takes the pod's veth away; nothing happens when it is gone.
pub(crate) fn delete_pod(node_ns: &str, pod: &str) -> Result<()> {
    let name = format!("veth-{pod}");
    let there = run(
        &["ip", "-n", node_ns, "-o", "link", "show", "type", "veth"],
        "",
    )?;
    if there.stdout.contains(&format!(" {name}@")) {
        run(&["ip", "-n", node_ns, "link", "del", &name], "")?;
    }
    Ok(())
}
