//! A node whose packets are an appliance's: culvertd in offload mode, and QEMU with the
//! image, whose NICs are TAPs of the node's namespace.
//!
//! Each NIC's TAP is joined by mirred to a veth, because a TAP that moves into a pod
//! dies with it: `eth0` is the underlay, `cvlh0` the node's own device, and `cvlp1`…
//! the pool of the pods'. The node itself has no address on the underlay.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_core::PortId;
use culvert_core::channel::Role;
use culvert_host::appliance::{Backend, Console, Image, Logs, Machine, Nic, Serial};
use nix::sys::signal::Signal;

use crate::appliance::image;
use crate::culvert::Files;
use crate::lab::Lab;
use crate::plan::{NetworkPlan, NodePlan};
use crate::process::wait_for;

/// Devices for pods. A management port takes the place of one: the x86 machine has room
/// for six NICs.
pub(crate) const PODS: u16 = 4;
/// The appliance's ports: on the underlay, for the node, and the first of the pods'.
const UPLINK: PortId = PortId(0);
const HOST: PortId = PortId(1);
const FIRST: u16 = 2;
/// The node's end of the wire to the management port.
const MANAGEMENT: &str = "tapm";
/// How long an image may take until it listens.
const READY: Duration = Duration::from_secs(10);

/// An appliance that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pid: u32,
    image: Image,
}

fn pods(node: &NodePlan) -> u16 {
    PODS - u16::from(node.managed)
}

/// The node's devices that are joined to a port of the appliance, with the TAP of that.
fn devices(node: &NodePlan) -> impl Iterator<Item = (PortId, String, String)> {
    let pods = (1..=pods(node)).map(|n| {
        let port = PortId(FIRST + n - 1);
        (port, format!("cvlx{n}"), format!("tap{n}"))
    });
    let uplink = (UPLINK, "eth0".to_owned(), "tapu".to_owned());
    let host = (HOST, "cvlhx0".to_owned(), "taph".to_owned());
    [uplink, host].into_iter().chain(pods)
}

impl Lab {
    /// Makes the devices and the files of such a node, whose `eth0` is there.
    pub(crate) fn build_appliance(&self, network: &NetworkPlan, node: &NodePlan) -> Result<()> {
        let (name, mtu) = (&node.name, self.plan().mtu);
        // IPv6 would announce the node on links that are not its own.
        self.run(
            name,
            &["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"],
        )?;
        self.run(
            name,
            &["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1"],
        )?;
        let mut links = format!(
            "link add cvlh0 mtu {mtu} type veth peer name cvlhx0 mtu {mtu}\n\
             link set eth0 up\n"
        );
        for n in 1..=pods(node) {
            links += &format!("link add cvlp{n} mtu {mtu} type veth peer name cvlx{n} mtu {mtu}\n");
        }
        let mut joins = String::new();
        for (_, device, tap) in devices(node) {
            links += &format!(
                "tuntap add {tap} mode tap\n\
                 link set {tap} mtu {mtu} up\n\
                 link set {device} up\n"
            );
            for (from, to) in [(&device, &tap), (&tap, &device)] {
                joins += &format!(
                    "qdisc add dev {from} clsact\n\
                     filter add dev {from} ingress u32 match u32 0 0 \
                     action mirred egress redirect dev {to}\n"
                );
            }
        }
        if node.managed {
            links += &format!("tuntap add {MANAGEMENT} mode tap\nlink set {MANAGEMENT} up\n");
        }
        self.place(name).batch("ip", &links)?;
        self.place(name).batch("tc", &joins)?;
        // The pods' are the daemon's to enable.
        self.run(
            name,
            &["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0"],
        )?;
        let sections = self.offload_toml(name, node);
        Files::new(self.site(), name).write(network, node, &sections)
    }

    /// The daemon's `[offload]`.
    fn offload_toml(&self, name: &str, node: &NodePlan) -> String {
        format!(
            "mode = \"offload\"\n\n[offload]\nchannel = \"unix:{}\"\ndevices = \"cvlp{{1..{}}}\"\n\
             first_port = {FIRST}\nhost = {{ device = \"cvlh0\", port = {HOST} }}\n\n\
             [offload.uplink]\nport = {UPLINK}\naddress = [\"{}/24\", \"{}/64\"]\nmtu = {}\n",
            self.console(name).display(),
            pods(node),
            node.underlay(),
            node.underlay6(),
            self.plan().mtu,
        )
    }

    /// The socket of a node's appliance's console.
    #[must_use]
    pub fn console(&self, node: &str) -> std::path::PathBuf {
        self.dir().join(node).join("console")
    }

    /// Switches the appliance of a node on, and waits until it listens.
    ///
    /// # Errors
    /// When it runs already, there is no image and none can be built, or QEMU does not
    /// start.
    pub fn start_appliance(&mut self, node: &str) -> Result<()> {
        ensure!(
            !self.appliances.contains_key(node),
            "the appliance of {node} runs already"
        );
        let (_, plan) = self.node(node)?;
        let arch = plan.kind.appliance().context("the node has no appliance")?;
        let features: &[&str] = match plan.managed {
            true => &["management-auth"],
            false => &[],
        };
        let image = image(arch, features)?;
        let console = self.console(node);
        let _ = std::fs::remove_file(&console);
        let mut machine = Machine::new(arch, &image.stripped);
        machine.console = Console::Socket(console.clone());
        machine.serial = Serial::File(self.serial(node));
        machine.faults = Some(self.log(&format!("faults-{node}")));
        let nics =
            devices(plan).map(|(port, _, tap)| Nic::new(Role::Port(port), Backend::Tap(tap)));
        machine.nics = nics.collect();
        if plan.managed {
            let tap = Backend::Tap(MANAGEMENT.to_owned());
            machine.nics.push(Nic::new(Role::Management, tap));
        }
        let command = machine.command()?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let argv: Option<Vec<&str>> = words.map(|word| word.to_str()).collect();
        let argv = argv.context("a path that is no text")?;
        let log = self.log(&format!("qemu-{node}"));
        let pid = self.site().background(node, &argv, &log)?;
        self.appliances
            .insert(node.to_owned(), Running { pid, image });
        wait_for(&format!("console of {node}"), READY, || {
            if let Some(status) = self.site().ended(pid)? {
                let said = crate::culvert::tail(&log, 20);
                anyhow::bail!("the appliance of {node} ended with {status}: {said}");
            }
            Ok(console.exists().then_some(()))
        })
    }

    /// Takes the appliance of a node off its power.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_appliance(&mut self, node: &str) -> Result<()> {
        let running = self.appliances.remove(node);
        let running = running.with_context(|| format!("no appliance runs on {node}"))?;
        self.site().end(running.pid, Signal::SIGKILL)?;
        Ok(())
    }

    /// Takes all appliances off their power.
    ///
    /// # Errors
    /// When one does not go.
    pub fn stop_appliances(&mut self) -> Result<()> {
        let nodes: Vec<_> = self.appliances.keys().cloned().collect();
        nodes.iter().try_for_each(|node| self.stop_appliance(node))
    }

    /// What the appliance of a node has logged, decoded.
    ///
    /// # Errors
    /// When it does not run, or the image's ELF file cannot be read.
    pub fn appliance_log(&self, node: &str) -> Result<String> {
        let running = self.appliances.get(node);
        let running = running.with_context(|| format!("no appliance runs on {node}"))?;
        let bytes = std::fs::read(self.serial(node)).unwrap_or_default();
        Ok(Logs::read(&running.image.elf)?.text(&bytes))
    }

    /// What QEMU holds to be mistakes of the image; empty is right.
    #[must_use]
    pub fn appliance_faults(&self, node: &str) -> String {
        std::fs::read_to_string(self.log(&format!("faults-{node}"))).unwrap_or_default()
    }

    fn serial(&self, node: &str) -> std::path::PathBuf {
        self.log(&format!("serial-{node}"))
    }
}
