//! The lab: an underlay, nodes on it, pods on the nodes, each in a network
//! namespace of its own, and all of it gone when the lab is dropped.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::culvert::{self, Files};
use crate::guest::Guest;
use crate::kernel;
use crate::offload::Running;
use crate::plan::{NetworkPlan, NodeKind, NodePlan, Plan, check_name};
use crate::process::{Output, ProcessId, run};
use crate::runtime::{Call, container_id};
use crate::site::{self, Site};
use crate::sweep::{Kept, sweep};

/// Name of the place that holds the underlay's bridge.
pub const UNDERLAY: &str = "underlay";

/// Makes a node forward packets, in shell. The reverse-path filter is loose,
/// systemd's default: a pod's packet to a node may come by the tunnel or by the
/// underlay.
pub(crate) const FORWARD: &str =
    "cd /proc/sys/net/ipv4; echo 1 >ip_forward; echo 2 >conf/all/rp_filter";

/// A pod of the lab.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Name, also of its place.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address; pods on guests and in dual-stack networks have one.
    pub address6: Option<Ipv6Addr>,
    /// The container's identity as the runtime gives it, 64 hex digits.
    pub container: String,
    /// What CNI ADD printed; `None` on a node without culvert.
    pub result: Option<Value>,
}

/// A running lab. Everything in it goes when it is dropped: in order, after a
/// panic, after SIGINT, SIGTERM or SIGHUP; after SIGKILL by the next sweep.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    plan: Plan,
    pods: Vec<Pod>,
    daemons: BTreeMap<String, u32>,
    programs: Vec<PathBuf>,
    pub(crate) guests: BTreeMap<String, Guest>,
    pub(crate) appliances: BTreeMap<String, Running>,
}

impl Lab {
    /// Builds the underlay and the nodes and starts their daemons; first sweeps
    /// what dead labs left.
    ///
    /// # Errors
    /// When the plan cannot be, this is not root, a tool is missing, or a
    /// daemon does not come up. Nothing is left then.
    pub fn new(plan: Plan) -> Result<Self> {
        Self::with_programs(plan, Vec::new())
    }

    /// Builds a lab as [`Lab::new`] does, whose guests have some programs of this
    /// machine more than usual, with the libraries that they are linked with.
    ///
    /// # Errors
    /// As [`Lab::new`], or when a program is missing.
    pub fn with_programs(plan: Plan, programs: Vec<PathBuf>) -> Result<Self> {
        plan.check()?;
        sweep(Kept::Leave)?;
        let site = Site::open()?;
        let mut lab = Self {
            site,
            plan,
            pods: Vec::new(),
            daemons: BTreeMap::new(),
            programs,
            guests: BTreeMap::new(),
            appliances: BTreeMap::new(),
        };
        lab.build()?;
        Ok(lab)
    }

    fn build(&mut self) -> Result<()> {
        self.site.add_namespace(UNDERLAY)?;
        let bridge = format!(
            "link add br0 mtu {} type bridge\nlink set br0 up\n",
            self.plan.mtu
        );
        run(
            &["ip", "-n", &self.site.namespace(UNDERLAY), "-batch", "-"],
            &bridge,
        )?;
        let plan = self.plan.clone();
        // Guests boot while the rest is built.
        for (_, node) in plan.nodes() {
            if let NodeKind::Guest(checksums) = node.kind {
                self.start_guest(node, checksums)?;
            }
        }
        for network in plan.networks.iter().filter(|network| network.cable) {
            self.lay_cable(network)?;
        }
        for (network, node) in plan.nodes() {
            self.build_node(network, node)?;
        }
        for (network, node) in plan.nodes() {
            match node.kind {
                NodeKind::Culvert => self.start_daemon(&node.name)?,
                NodeKind::Appliance(_) => {
                    self.start_appliance(&node.name)?;
                    self.start_daemon(&node.name)?;
                }
                NodeKind::Guest(_) => self.finish_guest(network, node)?,
                NodeKind::Kernel | NodeKind::Bare => {}
            }
        }
        Ok(())
    }

    /// Makes the namespaces of the network's two nodes and the veth between them.
    fn lay_cable(&self, network: &NetworkPlan) -> Result<()> {
        let names: Vec<_> = network.nodes.iter().map(|node| &node.name).collect();
        let &[one, other] = names.as_slice() else {
            bail!("a cable has two ends, not {}", names.len());
        };
        self.site.add_namespace(one)?;
        self.site.add_namespace(other)?;
        let (mtu, there) = (self.plan.mtu, self.site.namespace(other));
        let cable =
            format!("link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {there}\n");
        run(
            &["ip", "-n", &self.site.namespace(one), "-batch", "-"],
            &cable,
        )?;
        Ok(())
    }

    /// Makes a node's namespace and joins it to the underlay's bridge.
    fn join_bridge(&self, name: &str) -> Result<()> {
        self.site.add_namespace(name)?;
        let (underlay, own) = (self.site.namespace(UNDERLAY), self.site.namespace(name));
        let mtu = self.plan.mtu;
        let wire = format!(
            "link add to-{name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {own}\n\
             link set to-{name} master br0 up\n"
        );
        run(&["ip", "-n", &underlay, "-batch", "-"], &wire)?;
        Ok(())
    }

    fn build_node(&self, network: &NetworkPlan, node: &NodePlan) -> Result<()> {
        if matches!(node.kind, NodeKind::Guest(_)) {
            return Ok(());
        }
        if !network.cable {
            self.join_bridge(&node.name)?;
        }
        if node.kind.appliance().is_some() {
            return self.build_appliance(network, node);
        }
        let place = self.place(&node.name);
        place.batch("ip", &kernel::underlay_lines(network, node))?;
        self.run(&node.name, &["sh", "-ec", FORWARD])?;
        match node.kind {
            NodeKind::Culvert => {
                let sections = format!("\n[host]\ndevice = \"culvert0\"\n{}", node.daemon);
                Files::new(&self.site, &node.name).write(network, node, &sections)
            }
            NodeKind::Bare => Ok(()),
            _ => kernel::configure(&place, network, node, self.plan.pod_mtu()),
        }
    }

    /// What the lab was made from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The name that the lab's namespaces begin with.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.site.tag()
    }

    /// The lab's directory: configurations, sockets, state, logs, captures.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.site.dir()
    }

    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// Programs of this machine that guests have beside the usual ones.
    pub(crate) fn programs(&self) -> &[PathBuf] {
        &self.programs
    }

    /// The network namespace on this machine of a node, a pod or [`UNDERLAY`]; a
    /// guest and its pods have none.
    #[must_use]
    pub fn namespace(&self, place: &str) -> String {
        self.site.namespace(place)
    }

    /// The pods in the order they were added.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A node and its network.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, name: &str) -> Result<(&NetworkPlan, &NodePlan)> {
        let mut nodes = self.plan.nodes();
        nodes
            .find(|(_, node)| node.name == name)
            .with_context(|| format!("no node `{name}` in the lab"))
    }

    /// A pod.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.name == name);
        found.with_context(|| format!("no pod `{name}` in the lab"))
    }

    /// The MAC address of a node's end of the underlay.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn underlay_mac(&self, node: &str) -> Result<String> {
        Ok(self
            .run(node, &["cat", "/sys/class/net/eth0/address"])?
            .stdout
            .trim()
            .to_owned())
    }

    /// Adds a pod to a node: by CNI ADD on a culvert node, by a veth and the
    /// bridge on a kernel node and in a guest.
    ///
    /// # Errors
    /// When the name is taken, or what the plugin or `ip` said; the pod's
    /// namespace is gone then.
    pub fn add_pod(&mut self, node: &str, pod: &str) -> Result<Pod> {
        check_name(pod)?;
        let taken = self.pods.iter().any(|other| other.name == pod) || self.node(pod).is_ok();
        ensure!(!taken, "`{pod}` is already a place in the lab");
        self.add_pod_namespace(node, pod)?;
        match self.join_pod(node, pod) {
            Ok(added) => {
                self.pods.push(added.clone());
                Ok(added)
            }
            Err(error) => {
                self.delete_pod_namespace(node, pod)?;
                Err(error.context(format!("adding pod {pod} to {node}")))
            }
        }
    }

    fn join_pod(&self, node: &str, pod: &str) -> Result<Pod> {
        let (network, plan) = self.node(node)?;
        let mut made = Pod {
            name: pod.to_owned(),
            node: node.to_owned(),
            address: Ipv4Addr::UNSPECIFIED,
            address6: None,
            container: container_id(self.tag(), pod),
            result: None,
        };
        match plan.kind {
            NodeKind::Culvert | NodeKind::Appliance(_) => {
                let output = self.cni("ADD", &made)?.success()?;
                let (result, address, address6) = culvert::parse_result(&output.stdout)?;
                (made.result, made.address, made.address6) = (Some(result), address, address6);
            }
            NodeKind::Kernel | NodeKind::Guest(_) => {
                let free = |host: &u16| {
                    let address = network.address(plan, *host);
                    !self.pods.iter().any(|other| other.address == address)
                };
                let host = (2..=254)
                    .find(free)
                    .context("no free address on the node")?;
                made.address = network.address(plan, host);
                let first = (made.address.into(), network.address(plan, 1).into());
                let mut addresses: Vec<(IpAddr, IpAddr)> = vec![first];
                if matches!(plan.kind, NodeKind::Guest(_)) {
                    let address6 = network.address6(plan, host);
                    made.address6 = Some(address6);
                    addresses.push((address6.into(), network.address6(plan, 1).into()));
                }
                self.join_kernel(node, pod, &addresses)?;
            }
            NodeKind::Bare => bail!("{node} has no pod network of the lab's"),
        }
        Ok(made)
    }

    /// Calls `culvert-cni` for a pod, as a runtime does, and returns what it
    /// answered, success or not.
    ///
    /// # Errors
    /// When the plugin cannot be started or takes too long.
    pub fn cni(&self, verb: &str, pod: &Pod) -> Result<Output> {
        let call = self.call(verb, &pod.node, &pod.name);
        call.env("CNI_CONTAINERID", &pod.container).output()
    }

    /// Deletes a pod: CNI DEL and again CNI DEL (a runtime repeats it, and it
    /// must succeed), then its namespace.
    ///
    /// # Errors
    /// When there is no such pod, or what the plugin or `ip` said.
    pub fn delete_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name)?.clone();
        match self.node(&pod.node)?.1.kind {
            NodeKind::Culvert | NodeKind::Appliance(_) => {
                for time in ["first", "second"] {
                    let answer = self.cni("DEL", &pod)?.success();
                    answer.with_context(|| format!("{time} CNI DEL of {name}"))?;
                }
                let left = self.exec(
                    name,
                    &["ip", "link", "show", "eth0"],
                    Duration::from_secs(5),
                )?;
                ensure!(
                    !left.status.success(),
                    "CNI DEL left eth0 in {name}: {}",
                    left.stdout
                );
            }
            NodeKind::Kernel | NodeKind::Guest(_) | NodeKind::Bare => {
                kernel::delete_link(&self.place(&pod.node), &kernel::veth(name))?;
            }
        }
        self.pods.retain(|other| other.name != name);
        self.delete_pod_namespace(&pod.node, name)
    }

    /// Calls `culvert` on a culvert node, for example with `["counters"]`.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or fails.
    pub fn culvert(&self, node: &str, args: &[&str]) -> Result<Output> {
        culvert::ask(&self.site, node, args)?.success()
    }

    /// The command line that asks a culvert node, to be followed by what to ask.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn culvert_command(&self, node: &str) -> Result<String> {
        let socket = Files::new(&self.site, node).socket();
        Ok(format!(
            "{} --socket {}",
            culvert::program("culvert")?,
            socket.display()
        ))
    }

    /// Starts the daemon of a culvert node and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already, or ends or is silent instead (with its log).
    pub fn start_daemon(&mut self, node: &str) -> Result<()> {
        ensure!(
            !self.daemons.contains_key(node),
            "culvertd on {node} runs already"
        );
        let pid = culvert::start_daemon(&self.site, node, &self.log(&format!("culvertd-{node}")))?;
        self.daemons.insert(node.to_owned(), pid);
        Ok(())
    }

    /// Ends the daemon of a culvert node with `signal`.
    ///
    /// # Errors
    /// When it does not run, does not end in time, or, after SIGTERM, ends
    /// with another status than 0.
    pub fn stop_daemon(&mut self, node: &str, signal: Signal) -> Result<()> {
        let pid = self
            .daemons
            .remove(node)
            .with_context(|| format!("no culvertd runs on {node}"))?;
        let status = self
            .site
            .end(pid, signal)
            .with_context(|| format!("culvertd on {node}"))?;
        if signal == Signal::SIGTERM && !status.success() {
            bail!(
                "culvertd on {node} ended with {status} after SIGTERM; its log:\n{}",
                self.log_tails(20)
            );
        }
        Ok(())
    }

    /// The process of a culvert node's daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn daemon_pid(&self, node: &str) -> Result<u32> {
        let pid = self.daemons.get(node).copied();
        pid.with_context(|| format!("no culvertd runs on {node}"))
    }

    /// The path of one of culvert's own programs.
    ///
    /// # Errors
    /// When it is not built.
    pub fn program(&self, name: &str) -> Result<String> {
        culvert::program(name)
    }

    /// Begins a call of the plugin on `node` for a container whose namespace is `place`.
    #[must_use]
    pub fn call(&self, verb: &str, node: &str, place: &str) -> Call {
        Call::new(&self.site, (verb, node, place))
    }

    /// Makes a network namespace for a place that is no pod (yet).
    ///
    /// # Errors
    /// When the name cannot be or is taken.
    pub fn add_place(&self, place: &str) -> Result<()> {
        check_name(place)?;
        self.site.add_namespace(place)
    }

    /// Deletes the namespace of a place, as a runtime that calls no DEL does.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_place(&self, place: &str) -> Result<()> {
        self.site.delete_namespace(place)
    }

    /// Names of the nodes whose daemon was started and not stopped.
    #[must_use]
    pub fn daemons(&self) -> Vec<String> {
        self.daemons.keys().cloned().collect()
    }

    /// Runs a command in a place's namespace to its end or for `limit` at most.
    ///
    /// # Errors
    /// When it cannot be started or takes too long (it is killed then). A
    /// command that fails is no error here, see [`Output::success`].
    pub fn exec(&self, place: &str, argv: &[&str], limit: Duration) -> Result<Output> {
        match self.guest_at(place) {
            Some((guest, namespace)) => guest.exec(namespace, argv, limit),
            None => self.site.exec(place, argv, &[], ("", limit)),
        }
    }

    /// Runs a short command in a place's namespace and demands that it succeeds.
    ///
    /// # Errors
    /// When it fails or takes more than 20 s.
    pub fn run(&self, place: &str, argv: &[&str]) -> Result<Output> {
        self.exec(place, argv, Duration::from_secs(20))?.success()
    }

    /// The last lines of every daemon's log and every guest's console, for a
    /// failure's report.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let culvert = self
            .plan
            .nodes()
            .filter(|(_, node)| node.kind == NodeKind::Culvert);
        let tails = culvert.map(|(_, node)| {
            let name = format!("culvertd-{}", node.name);
            format!("--- {name}\n{}\n", culvert::tail(&self.log(&name), lines))
        });
        let consoles = self
            .guests
            .iter()
            .map(|(name, guest)| format!("--- console of {name}\n{}\n", guest.console_tail(lines)));
        tails.chain(consoles).collect()
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir().join("logs").join(format!("{name}.log"))
    }

    /// The processes that the lab has started and that still run.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessId> {
        self.site.processes()
    }

    /// Leaves the lab up when this process ends, for someone to look at.
    ///
    /// # Errors
    /// When the lab's directory cannot be written.
    pub fn keep(self) -> Result<()> {
        self.site.keep()
    }

    /// Takes the lab down and says what did not go well, which a drop only prints.
    ///
    /// # Errors
    /// What could not be cleared or did not end by itself.
    pub fn take_down(self) -> Result<()> {
        self.site.clear()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        site::leave_to_signal();
        if std::thread::panicking() {
            eprint!("{}", self.log_tails(20));
        }
        if let Err(error) = self.site.clear() {
            eprintln!("{error:#}");
        }
    }
}
