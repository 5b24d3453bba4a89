//! Up to a thousand endpoints on the receiving node. All are devices of one namespace, so
//! that one sink hears them all; each has an address and a way of its own from the node.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::setups::{KERNEL, Site};
use crate::process::run;

/// The namespace in which endpoints are made.
const MAKER: &str = "maker";
/// Keeps new devices from saying hello by IPv6: on a bridge a thousand hear it from each of
/// a thousand, which takes the machine minutes.
const QUIET: &str = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";

impl Site {
    /// Gives the receiving pod's namespace further devices until there are `count` in
    /// all, which were `has`; their addresses follow the pod's own.
    ///
    /// # Errors
    /// When one cannot be made or gets another address.
    pub(super) fn grow(&self, has: u32, count: u32) -> Result<()> {
        if has == 1 {
            self.lab.add_place(MAKER)?;
            let (place, _) = self.to;
            let node = &self.lab.pod(place)?.node;
            for quiet in [MAKER, place, node] {
                self.lab.run(quiet, &["sh", "-ec", QUIET])?;
            }
        }
        if self.setup.key == KERNEL {
            return self.grow_bridge(has, count);
        }
        for index in has..count {
            self.add_endpoint(index)?;
        }
        Ok(())
    }

    /// culvert gives a pod one interface: each is made in a namespace of its own turn and
    /// then moved to the others.
    fn add_endpoint(&self, index: u32) -> Result<()> {
        let (place, first) = self.to;
        let node = &self.lab.pod(place)?.node;
        let call = self.lab.call("ADD", node, MAKER);
        let answer = call
            .env("CNI_CONTAINERID", &format!("endpoint{index}"))
            .answer()?;
        let address = answer.address();
        let address = address.with_context(|| format!("ADD of endpoint {index}: {answer:?}"))?;
        ensure!(
            address.to_bits() == first.to_bits() + index,
            "ADD of endpoint {index} gave {address}, which does not follow"
        );
        let (maker, own) = (self.lab.namespace(MAKER), self.lab.namespace(place));
        let moved = format!("link set eth0 netns {own} name eth{index}\n");
        run(&["ip", "-n", &maker, "-batch", "-"], &moved)?;
        let up = format!("addr add {address}/32 dev eth{index}\nlink set eth{index} up\n");
        run(&["ip", "-n", &own, "-batch", "-"], &up)?;
        Ok(())
    }

    /// The node's bridge and its neighbors learn nothing here: what has never sent would
    /// be flooded to all, and each of a thousand devices that hears of a neighbor takes
    /// one of the thousand entries that the kernel has for the whole machine.
    fn grow_bridge(&self, has: u32, count: u32) -> Result<()> {
        let (place, first) = self.to;
        let node = &self.lab.pod(place)?.node;
        let (there, own) = (self.lab.namespace(node), self.lab.namespace(place));
        let (mtu, address) = (self.lab.plan().pod_mtu(), |index| {
            Ipv4Addr::from_bits(first.to_bits() + index)
        });
        let mac = |index: u32| format!("02:00:00:00:{:02x}:{:02x}", index >> 8, index & 0xff);
        let (mut links, mut ports, mut inside) = (String::new(), String::new(), String::new());
        for index in has..count {
            let (address, mac) = (address(index), mac(index));
            writeln!(
                links,
                "link add v{index} mtu {mtu} type veth peer name eth{index} mtu {mtu} \
                 address {mac} netns {own}\n\
                 link set v{index} master cni0 up"
            )?;
            writeln!(ports, "fdb add {mac} dev v{index} master static")?;
            writeln!(
                inside,
                "addr add {address}/32 dev eth{index}\nlink set eth{index} arp off up"
            )?;
        }
        run(&["ip", "-n", &there, "-batch", "-"], &links)?;
        run(&["bridge", "-n", &there, "-batch", "-"], &ports)?;
        run(&["ip", "-n", &own, "-batch", "-"], &inside)?;
        // Last and all: a bridge whose own address follows that of a new port forgets them.
        let mut neighbors = String::new();
        for index in 1..count {
            let (address, mac) = (address(index), mac(index));
            writeln!(
                neighbors,
                "neigh replace {address} lladdr {mac} dev cni0 nud permanent"
            )?;
        }
        run(&["ip", "-n", &there, "-batch", "-"], &neighbors)?;
        Ok(())
    }
}
