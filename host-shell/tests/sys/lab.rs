//! Network namespaces with names of this process, deleted when dropped.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use culvert_host::sys::netns::NetNs;
use serde_json::Value;

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Namespace {
    pub(crate) name: String,
    ns: Option<NetNs>,
}

impl Namespace {
    /// A new namespace with its loopback up.
    pub(crate) fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cvs{}-{number}", std::process::id());
        run(&["netns", "add", &name]);
        let mut namespace = Self { name, ns: None };
        let path = format!("/run/netns/{}", namespace.name);
        namespace.ns = Some(NetNs::open(Path::new(&path)).unwrap());
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn ns(&self) -> &NetNs {
        self.ns.as_ref().unwrap()
    }

    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.ns().run(f).unwrap()
    }

    /// Runs a shell script inside.
    pub(crate) fn sh(&self, script: &str) {
        run(&["netns", "exec", &self.name, "sh", "-ec", script]);
    }

    /// Lets the IPv6 addresses of devices that are made from now on, link-local ones
    /// too, work at once.
    pub(crate) fn skip_dad(&self) {
        let path = "/proc/sys/net/ipv6/conf/default/accept_dad";
        self.run(|| std::fs::write(path, "0").unwrap());
    }

    pub(crate) fn ip(&self, args: &[&str]) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(args);
        run(&all)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-j", "-d"];
        all.extend(args);
        let text = self.ip(&all);
        serde_json::from_str(text.trim()).unwrap_or(Value::Array(Vec::new()))
    }

    /// The one interface `name` as iproute2 sees it; `Null` when there is none.
    pub(crate) fn link(&self, name: &str) -> Value {
        let links = self.json(&["link", "show"]);
        let found = links
            .as_array()
            .unwrap()
            .iter()
            .find(|link| link["ifname"] == name);
        found.cloned().unwrap_or(Value::Null)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.ns = None;
        let result = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        if !matches!(&result, Ok(status) if status.success()) {
            eprintln!("cannot delete the namespace {}: {result:?}", self.name);
        }
    }
}

/// Two namespaces, joined by a veth `u0`: 10.77.0.1 and fd77::1, 10.77.0.2 and fd77::2.
pub(crate) fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(), Namespace::new());
    join(&a, "u0", &b, "u0");
    for (node, number) in [(&a, 1), (&b, 2)] {
        node.ip(&["addr", "add", &format!("10.77.0.{number}/24"), "dev", "u0"]);
        node.ip(&[
            "addr",
            "add",
            &format!("fd77::{number}/64"),
            "dev",
            "u0",
            "nodad",
        ]);
    }
    (a, b)
}

/// Joins two namespaces by a router, whose link to the second has that MTU:
/// 10.77.1.2 and fd77:1::2, 10.77.2.2 and fd77:2::2, all on `u0`.
pub(crate) fn routed(a: &Namespace, router: &Namespace, b: &Namespace, mtu: u16) {
    for namespace in [a, router, b] {
        namespace.skip_dad();
    }
    for (node, side, number) in [(a, "left", 1), (b, "right", 2)] {
        join(node, "u0", router, side);
        let ip = |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            node.ip(&args);
        };
        router.ip(&["addr", "add", &format!("10.77.{number}.1/24"), "dev", side]);
        let v6 = format!("fd77:{number}::1/64");
        router.ip(&["addr", "add", &v6, "dev", side, "nodad"]);
        ip(&format!("addr add 10.77.{number}.2/24 dev u0"));
        ip(&format!("addr add fd77:{number}::2/64 dev u0 nodad"));
        ip(&format!("route add default via 10.77.{number}.1"));
        ip(&format!("route add default via fd77:{number}::1"));
    }
    router.ip(&["link", "set", "right", "mtu", &mtu.to_string()]);
    router.run(|| {
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
        }
    });
}

pub(crate) fn join(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) {
    a.ip(&[
        "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", &b.name,
    ]);
    a.ip(&["link", "set", a_name, "up"]);
    b.ip(&["link", "set", b_name, "up"]);
}

/// Runs `ip` with `args` and gives what it prints.
fn run(args: &[&str]) -> String {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("ip (package iproute2)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args:?} (as root?): {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Tries until `f` gives something, for two seconds at most.
pub(crate) fn eventually<T>(mut f: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        if let Some(value) = f() {
            return Some(value);
        }
        if Instant::now() > end {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
