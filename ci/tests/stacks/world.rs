//! Nodes with what each test wants of underlay, IP versions and configuration, on the
//! lab's bridge; a third node behind a router where a test asks for it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use culvert_lab::{Lab, Plan, Service, UNDERLAY};
use nix::sys::signal::Signal;
use serde_json::Value;

/// IP versions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    Dual,
}

impl Family {
    fn has_v4(self) -> bool {
        self != Family::V6
    }

    fn has_v6(self) -> bool {
        self != Family::V4
    }
}

/// What a test wants.
pub(crate) struct Setup {
    /// Further lines of `[network]`.
    pub(crate) network: &'static str,
    /// The IP version of the nodes' `underlay`.
    pub(crate) underlay: Family,
    /// The IP versions of the blocks of n1 and n2.
    pub(crate) families: [Family; 2],
    /// There is n3 in another subnet, behind a router.
    pub(crate) far: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            network: "",
            underlay: Family::V4,
            families: [Family::Dual, Family::Dual],
            far: false,
        }
    }
}

impl Setup {
    fn nodes(&self) -> Vec<(u8, Family)> {
        let mut nodes = vec![(1, self.families[0]), (2, self.families[1])];
        if self.far {
            nodes.push((3, self.families[0]));
        }
        nodes
    }

    fn underlay(&self, number: u8) -> String {
        match self.underlay.has_v4() {
            true => underlay_v4(number),
            false => underlay_v6(number),
        }
    }

    fn cluster(&self) -> String {
        let mut text = format!(
            "[network]\nname = \"pods\"\nprefix = [\"10.244.0.0/16\", \"fd00:244::/48\"]\n\
             vni = 1\nudp_port = 8472\n{}\n",
            self.network
        );
        for (number, family) in self.nodes() {
            let mut blocks = Vec::new();
            if family.has_v4() {
                blocks.push(format!("\"10.244.{number}.0/24\""));
            }
            if family.has_v6() {
                blocks.push(format!("\"fd00:244:0:{number}::/64\""));
            }
            text += &format!(
                "[[node]]\nname = \"n{number}\"\nunderlay = \"{}\"\npods = [{}]\n",
                self.underlay(number),
                blocks.join(", ")
            );
        }
        text
    }
}

fn subnet(number: u8) -> u8 {
    u8::from(number == 3)
}

fn underlay_v4(number: u8) -> String {
    format!("192.168.{}.{number}", 77 + subnet(number))
}

fn underlay_v6(number: u8) -> String {
    match subnet(number) {
        0 => format!("fd77::{number}"),
        other => format!("fd77:{other}::{number}"),
    }
}

/// The lab with its nodes and pods: p1 and q1 on n1, p2 on n2, p3 on n3.
pub(crate) struct World {
    // Before the lab: services end before their namespaces go.
    daemons: BTreeMap<String, Service>,
    results: std::cell::RefCell<BTreeMap<String, Value>>,
    underlay: Family,
    families: BTreeMap<u8, Family>,
    pub(crate) lab: Lab,
}

impl World {
    /// With daemons and pods.
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut world = Self::without_daemons(setup);
        for (number, _) in setup.nodes() {
            world.start(&format!("n{number}"));
        }
        for (node, pod) in [("n1", "p1"), ("n2", "p2"), ("n1", "q1"), ("n3", "p3")] {
            if node != "n3" || setup.far {
                world.lab.add_place(pod).unwrap();
                world.add(node, pod);
            }
        }
        world
    }

    /// Nodes with files, and nothing that runs.
    pub(crate) fn without_daemons(setup: &Setup) -> Self {
        let lab = Lab::new(Plan {
            mtu: 1500,
            networks: Vec::new(),
        });
        let world = Self {
            daemons: BTreeMap::new(),
            results: std::cell::RefCell::default(),
            underlay: setup.underlay,
            families: setup.nodes().into_iter().collect(),
            lab: lab.unwrap(),
        };
        world.sh(
            UNDERLAY,
            "ip link add br1 type bridge; ip link set br1 up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip addr add 192.168.77.254/24 dev br0; ip addr add 192.168.78.254/24 dev br1
             ip addr add fd77::fe/64 dev br0 nodad; ip addr add fd77:1::fe/64 dev br1 nodad",
        );
        for (number, _) in setup.nodes() {
            world.build_node(number, setup);
        }
        world
    }

    fn build_node(&self, number: u8, setup: &Setup) {
        let name = format!("n{number}");
        self.lab.add_place(&name).unwrap();
        let (namespace, subnet) = (self.lab.namespace(&name), subnet(number));
        let wire = format!(
            "ip link add to-{name} type veth peer name eth0 netns {namespace}
             ip link set to-{name} master br{subnet} up"
        );
        self.sh(UNDERLAY, &wire);
        let router_v6 = ["fd77::fe", "fd77:1::fe"][usize::from(subnet)];
        self.sh(
            &name,
            &format!(
                "sysctl -qw net.ipv6.conf.eth0.accept_dad=0; ip link set eth0 up
                 ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad
                 ip route add default via 192.168.{}.254
                 ip -6 route add default via {router_v6}",
                underlay_v4(number),
                underlay_v6(number),
                77 + subnet
            ),
        );
        let dir = self.lab.dir().join(&name);
        fs::create_dir_all(&dir).unwrap();
        self.configure(&name, setup);
        let config = format!(
            "node = \"{name}\"\ncluster = \"cluster.toml\"\nrun_dir = \"run\"\nstate_dir = \"state\"\n"
        );
        fs::write(dir.join("culvert.toml"), config).unwrap();
    }

    /// Gives a node a cluster file, for its next start.
    pub(crate) fn configure(&self, node: &str, setup: &Setup) {
        let path = self.lab.dir().join(node).join("cluster.toml");
        fs::write(path, setup.cluster()).unwrap();
    }

    fn daemon(&self, node: &str) -> [String; 3] {
        let config = self.lab.dir().join(node).join("culvert.toml");
        let program = self.lab.program("culvertd").unwrap();
        [program, "--config".into(), config.display().to_string()]
    }

    /// Starts a node's daemon.
    pub(crate) fn start(&mut self, node: &str) {
        let argv = self.daemon(node);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let service = self.lab.spawn(node, &argv, |said| said.contains("ready"));
        self.daemons.insert(node.to_owned(), service.unwrap());
    }

    /// Ends a node's daemon in order.
    pub(crate) fn stop(&mut self, node: &str) {
        let service = self.daemons.remove(node).unwrap();
        service.stop(Signal::SIGTERM).unwrap();
    }

    /// Ends a node's daemon at once.
    pub(crate) fn kill(&mut self, node: &str) {
        let service = self.daemons.remove(node).unwrap();
        service.stop(Signal::SIGKILL).unwrap();
    }

    /// What a daemon says that does not come up.
    pub(crate) fn fails_to_start(&self, node: &str) -> String {
        let argv = self.daemon(node);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = self.lab.exec(node, &argv, Duration::from_secs(15)).unwrap();
        assert!(!output.status.success());
        output.stderr
    }

    /// Adds a place to a node as its pod.
    pub(crate) fn add(&self, node: &str, pod: &str) {
        let answer = self.lab.call("ADD", node, pod).answer().unwrap();
        assert!(
            answer.success,
            "{pod}: {} {}",
            answer.message(),
            answer.stderr
        );
        self.results
            .borrow_mut()
            .insert(pod.to_owned(), answer.json);
    }

    /// Deletes a pod from its node.
    pub(crate) fn delete(&self, node: &str, pod: &str) {
        let answer = self.lab.call("DEL", node, pod).answer().unwrap();
        assert!(answer.success, "{pod}: {}", answer.message());
    }

    /// What ADD answered for a pod.
    pub(crate) fn result(&self, pod: &str) -> Value {
        self.results.borrow()[pod].clone()
    }

    /// A pod's addresses, as ADD gave them.
    pub(crate) fn addresses(&self, pod: &str) -> Vec<String> {
        let result = self.result(pod);
        let ips = result["ips"].as_array().unwrap();
        let text = |ip: &Value| ip["address"].as_str()?.split('/').next().map(str::to_owned);
        ips.iter().filter_map(text).collect()
    }

    /// A node's own addresses that pods of the same IP versions reach: those in the pods'
    /// network and the one on the underlay.
    pub(crate) fn node_addresses(&self, number: u8) -> Vec<String> {
        let family = self.families[&number];
        let mut all = Vec::new();
        if family.has_v4() {
            all.push(format!("10.244.{number}.0"));
        }
        if family.has_v6() {
            all.push(format!("fd00:244:0:{number}::"));
        }
        match self.underlay.has_v4() {
            true if family.has_v4() => all.push(underlay_v4(number)),
            false if family.has_v6() => all.push(underlay_v6(number)),
            _ => {}
        }
        all
    }

    /// The place's pings to `to` are all answered.
    pub(crate) fn pings(&self, from: &str, to: &str) {
        self.pings_with(from, to, 56);
    }

    /// Pings with so many bytes of data that must not be fragmented.
    pub(crate) fn pings_with(&self, from: &str, to: &str, size: u32) {
        let size = size.to_string();
        // All three at once: ping waits for the last answer twice the longest time that
        // one has taken, which on a busy machine is not enough, but an interval at least.
        let argv = [
            "ping", "-n", "-c3", "-l3", "-i0.5", "-W2", "-Mdo", "-s", &size, to,
        ];
        let output = self.lab.exec(from, &argv, Duration::from_secs(20)).unwrap();
        assert!(
            output.stdout.contains(" 3 received"),
            "{from} to {to} with {size}: {} {}\n{}\n{}",
            output.stdout,
            output.stderr,
            self.drops("n1"),
            self.drops("n2")
        );
    }

    /// A TCP connection carries 8 MB.
    pub(crate) fn tcp(&self, from: &str, to: &str, address: &str) {
        let listening = |said: &str| said.contains("listening");
        let server = ["iperf3", "-s", "-1", "--forceflush"];
        let server = self.lab.spawn(to, &server, listening).unwrap();
        let argv = ["iperf3", "-c", address, "-n", "8M"];
        let output = self.lab.exec(from, &argv, Duration::from_secs(30)).unwrap();
        assert!(
            output.status.success(),
            "{} {}",
            output.stdout,
            output.stderr
        );
        server.finish(Duration::from_secs(5)).unwrap();
    }

    fn drops(&self, node: &str) -> String {
        let counters = self.lab.culvert(node, &["counters"]);
        counters.map_or_else(|error| error.to_string(), |output| output.stdout)
    }

    /// What `culvert` says of a subject.
    pub(crate) fn ask(&self, node: &str, subject: &str) -> Value {
        let output = self.lab.culvert(node, &[subject, "-o", "json"]).unwrap();
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// The next hop of a route in the core.
    pub(crate) fn next_hop(&self, routes: &Value, prefix: &str) -> String {
        let mut routes = routes.as_array().unwrap().iter();
        let route = routes.find(|route| route["prefix"] == prefix);
        route.unwrap_or_else(|| panic!("no {prefix}"))["next_hop"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// A counter's value.
    pub(crate) fn counter(&self, node: &str, name: &str) -> u64 {
        let counters = self.ask(node, "counters");
        let mut counters = counters.as_array().unwrap().iter();
        let counter = counters.find(|counter| counter["name"] == name);
        counter.unwrap()["value"].as_u64().unwrap()
    }

    /// The MTU of a pod's interface.
    pub(crate) fn mtu_of(&self, pod: &str) -> u32 {
        let text = self
            .lab
            .run(pod, &["cat", "/sys/class/net/eth0/mtu"])
            .unwrap();
        text.stdout.trim().parse().unwrap()
    }

    /// The node's kernel routes that culvert made beside its device's.
    pub(crate) fn culvert_routes(&self, node: &str) -> String {
        let list = "ip -4 route show proto 197 dev eth0; ip -6 route show proto 197 dev eth0";
        let text = self.lab.run(node, &["sh", "-ec", list]).unwrap().stdout;
        // Lines end in a space.
        text.lines()
            .map(|line| format!("{}\n", line.trim()))
            .collect()
    }

    /// Runs `ip` in a place.
    pub(crate) fn ip(&self, place: &str, args: &str) {
        self.sh(place, &format!("ip {args}"));
    }

    /// Runs a script in a place.
    pub(crate) fn sh(&self, place: &str, script: &str) {
        self.lab.run(place, &["sh", "-ec", script]).unwrap();
    }
}
