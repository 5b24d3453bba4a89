//! Guests in a lab.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::tunnel::device6;
use super::{Checksums, Encapsulation, Guest, Machine};
use crate::kernel::{self, Join};
use crate::lab::{FORWARD, Lab, UNDERLAY};
use crate::plan::{NetworkPlan, NodePlan};
use crate::process::{Output, run};

impl Lab {
    /// A guest of the lab.
    ///
    /// # Errors
    /// When there is no such node or it is not a guest.
    pub fn guest(&self, node: &str) -> Result<&Guest> {
        let guest = self.guests.get(node);
        guest.with_context(|| format!("no guest `{node}` in the lab"))
    }

    /// Makes a guest send packets for the pods of `peer` by `way`, and no longer
    /// as before. It accepts them by every way.
    ///
    /// # Errors
    /// When there is no such guest or peer, or what `ip` said.
    pub fn encapsulate(&self, guest: &str, peer: &str, way: Encapsulation) -> Result<()> {
        let (network, own) = self.node(guest)?;
        let (other, peer) = self.node(peer)?;
        ensure!(
            network.name == other.name,
            "{} and {} are in two networks",
            own.name,
            peer.name
        );
        let place = self.place(guest);
        if matches!(way, Encapsulation::Ip6Tunnel { .. }) {
            // One that is there cannot be given another limit.
            kernel::delete_link(&place, &device6(peer))?;
        }
        place.batch("ip", &way.lines(network, own, peer))?;
        Ok(())
    }

    /// Switches all guests off.
    ///
    /// # Errors
    /// When one does not go.
    pub fn stop_guests(&mut self) -> Result<()> {
        for (name, guest) in std::mem::take(&mut self.guests) {
            let ended = self.site().end(guest.pid(), Signal::SIGKILL);
            ended.with_context(|| format!("guest {name}"))?;
        }
        Ok(())
    }

    /// Starts a guest on the underlay; [`Lab::finish_guest`] must follow.
    pub(crate) fn start_guest(&mut self, node: &NodePlan, checksums: Checksums) -> Result<()> {
        let name = &node.name;
        let tap = format!(
            "tuntap add to-{name} mode tap\n\
             link set to-{name} mtu {} master br0 up\n",
            self.plan().mtu
        );
        let underlay = self.namespace(UNDERLAY);
        run(&["ip", "-n", &underlay, "-batch", "-"], &tap)?;
        let machine = Machine {
            name,
            mac: node.guest_mac(),
            mtu: self.plan().mtu,
            checksums,
            programs: self.programs(),
        };
        let guest = Guest::start(self.site(), &machine)?;
        self.guests.insert(name.clone(), guest);
        Ok(())
    }

    /// Waits for a guest and makes a node of it like a kernel node.
    pub(crate) fn finish_guest(&self, network: &NetworkPlan, node: &NodePlan) -> Result<()> {
        let guest = self.guest(&node.name)?;
        guest.wait_ready()?;
        let set = format!("{FORWARD}; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        guest.run(&["sh", "-ec", &set], "")?;
        let place = self.place(&node.name);
        place.batch(
            "ip",
            &format!("link set lo up\n{}", kernel::underlay_lines(network, node)),
        )?;
        kernel::configure(&place, network, node, self.plan().pod_mtu())?;
        let gateway = network.address6(node, 1);
        place.batch("ip", &format!("addr add {gateway}/64 dev cni0 nodad\n"))?;
        Ok(())
    }

    /// Makes the network namespace of a pod, on this machine or in a guest.
    pub(crate) fn add_pod_namespace(&self, node: &str, pod: &str) -> Result<()> {
        match self.guests.get(node) {
            None => self.site().add_namespace(pod),
            Some(guest) => {
                let make = format!("ip netns add {pod} && ip -n {pod} link set lo up");
                guest.run(&["sh", "-ec", &make], "").map(drop)
            }
        }
    }

    /// Deletes what [`Lab::add_pod_namespace`] made.
    pub(crate) fn delete_pod_namespace(&self, node: &str, pod: &str) -> Result<()> {
        match self.guests.get(node) {
            None => self.site().delete_namespace(pod),
            Some(guest) => guest.run(&["ip", "netns", "del", pod], "").map(drop),
        }
    }

    /// Joins a pod's namespace to a kernel node or a guest; each address comes
    /// with the node's in the same prefix.
    pub(crate) fn join_kernel(
        &self,
        node: &str,
        pod: &str,
        addresses: &[(IpAddr, IpAddr)],
    ) -> Result<()> {
        let (namespace, place) = match self.guests.get(node) {
            None => (self.namespace(pod), Place::Namespace(self.namespace(pod))),
            Some(guest) => (pod.to_owned(), Place::Guest(guest, Some(pod.to_owned()))),
        };
        let join = Join {
            pod,
            namespace: &namespace,
            addresses,
            mtu: self.plan().pod_mtu(),
        };
        kernel::add_pod((&self.place(node), &place), &join)
    }

    /// The guest that a place is in or is, and its network namespace there.
    pub(crate) fn guest_at<'a>(&'a self, place: &'a str) -> Option<(&'a Guest, Option<&'a str>)> {
        if let Some(guest) = self.guests.get(place) {
            return Some((guest, None));
        }
        let pod = self.pods().iter().find(|pod| pod.name == place)?;
        Some((self.guests.get(&pod.node)?, Some(place)))
    }

    /// Where the commands that configure a node are carried out.
    pub(crate) fn place(&self, node: &str) -> Place<'_> {
        match self.guests.get(node) {
            Some(guest) => Place::Guest(guest, None),
            None => Place::Namespace(self.namespace(node)),
        }
    }
}

/// A network namespace, of this machine or of a guest.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// One of this machine.
    Namespace(String),
    /// One of the guest's, or (`None`) its first.
    Guest(&'a Guest, Option<String>),
}

impl Place<'_> {
    /// Has `ip` or `bridge` carry out a batch of lines there.
    ///
    /// # Errors
    /// What the program said.
    pub(crate) fn batch(&self, program: &str, lines: &str) -> Result<Output> {
        match self {
            Self::Namespace(name) => run(&[program, "-n", name, "-batch", "-"], lines),
            Self::Guest(guest, Some(name)) => {
                guest.run(&[program, "-n", name, "-batch", "-"], lines)
            }
            Self::Guest(guest, None) => guest.run(&[program, "-batch", "-"], lines),
        }
    }
}
