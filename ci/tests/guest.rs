//! Nodes that are machines of their own: they boot, take commands, go with their
//! lab, and their kernel's tunnels reach each other and this machine's kernel.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use culvert_lab::capture::{Fields, decode};
use culvert_lab::{Checksums, Encapsulation, Guest, Kept, Lab, NodeKind, ProcessId, sweep};

mod common;

const FINISHED: NodeKind = NodeKind::Guest(Checksums::Finished);
const UNFINISHED: NodeKind = NodeKind::Guest(Checksums::Unfinished);
const LIMIT: Duration = Duration::from_secs(30);

/// What a script in a guest printed.
fn said(guest: &Guest, script: &str) -> String {
    let output = guest.shell(script, LIMIT).unwrap().success().unwrap();
    output.stdout
}

/// g1, which finishes its packets, and g2, which does not, with a pod on each.
fn two_guests() -> Lab {
    let kinds = [("g1", FINISHED, 1), ("g2", UNFINISHED, 2)];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    lab.add_pod("g1", "p1").unwrap();
    lab.add_pod("g2", "p2").unwrap();
    lab
}

/// Sends 300 kB over TCP from a guest's pod to another's and compares them.
fn transfer(lab: &Lab, (from, source): (&str, &str), (to, sink): (&str, &str), address: &str) {
    let (from, to) = (lab.guest(from).unwrap(), lab.guest(to).unwrap());
    let serve = format!(
        "cd /tmp; rm -f got done open; mkfifo open # nc(1) ends with its input
         (ip netns exec {sink} nc -l -p 9000 <>open >got; touch done) &
         until ip netns exec {sink} netstat -ltn | grep -q :9000; do sleep 0.05; done"
    );
    said(to, &serve);
    let send = format!(
        "cd /tmp; head -c 300000 /dev/urandom >sent
         ip netns exec {source} nc {address} 9000 <sent; sha256sum <sent"
    );
    let sent = said(from, &send);
    let got = said(
        to,
        "cd /tmp; until [ -e done ]; do sleep 0.05; done; sha256sum <got",
    );
    assert_eq!(sent, got, "{source} to {address}");
}

#[test]
fn pods_of_guests_and_kernel_nodes_reach_each_other() {
    let kinds = [("g1", FINISHED, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    for (node, pod) in [("g1", "p1"), ("n2", "p2"), ("g1", "p3")] {
        lab.add_pod(node, pod).unwrap();
    }
    for from in lab.pods() {
        for to in lab.pods() {
            let ping = lab.ping(&from.name, to.address, 3).unwrap();
            assert_eq!(ping.received, 3, "{} to {}", from.name, to.name);
        }
    }
    // iperf3 runs in guests too, and full segments with this machine's unfinished
    // checksums arrive.
    let address = lab.pod("p1").unwrap().address.to_string();
    said(lab.guest("g1").unwrap(), "ip netns exec p1 iperf3 -s -D");
    let report = lab
        .exec("p2", &["iperf3", "-J", "-c", &address, "-n", "2M"], LIMIT)
        .and_then(culvert_lab::Output::success)
        .unwrap();
    assert!(
        report.stdout.contains("\"bytes\":\t2097152"),
        "{}",
        report.stdout
    );
    // A pod that goes is gone, and its name free.
    lab.delete_pod("p3").unwrap();
    assert_eq!(
        said(lab.guest("g1").unwrap(), "ip netns list | cut -d ' ' -f 1"),
        "p1\n"
    );
    lab.add_pod("g1", "p3").unwrap();
    // From p3: the node may still know its address by the MAC that is gone.
    let ping = lab.ping("p3", lab.pod("p2").unwrap().address, 3).unwrap();
    assert_eq!(ping.received, 3);
}

/// A way between two guests and what it looks like on the wire.
struct Case {
    way: Encapsulation,
    /// Filter of the outer header.
    filter: &'static str,
    /// What tshark calls the layers.
    layers: &'static str,
    v6: bool,
}

const NO_LIMIT: Encapsulation = Encapsulation::Ip6Tunnel { limit: None };
const A_LIMIT: Encapsulation = Encapsulation::Ip6Tunnel { limit: Some(4) };

const CASES: [Case; 9] = [
    case(
        Encapsulation::Direct,
        "ip proto 6",
        "eth:ethertype:ip:tcp",
        false,
    ),
    case(
        Encapsulation::Direct,
        "ip6 proto 6",
        "eth:ethertype:ipv6:tcp",
        true,
    ),
    case(
        Encapsulation::Vxlan,
        "udp port 8472",
        "eth:ethertype:ip:udp:vxlan:eth:ethertype:ip:tcp",
        false,
    ),
    case(
        Encapsulation::Ipip,
        "ip proto 4",
        "eth:ethertype:ip:ip:tcp",
        false,
    ),
    case(
        Encapsulation::Sit,
        "ip proto 41",
        "eth:ethertype:ip:ipv6:tcp",
        true,
    ),
    case(NO_LIMIT, "ip6 proto 4", "eth:ethertype:ipv6:ip:tcp", false),
    case(
        NO_LIMIT,
        "ip6 proto 41",
        "eth:ethertype:ipv6:ipv6:tcp",
        true,
    ),
    case(
        A_LIMIT,
        "ip6 proto 60",
        "eth:ethertype:ipv6:ipv6.dstopts:ip:tcp",
        false,
    ),
    case(
        A_LIMIT,
        "ip6 proto 60",
        "eth:ethertype:ipv6:ipv6.dstopts:ipv6:tcp",
        true,
    ),
];

const fn case(way: Encapsulation, filter: &'static str, layers: &'static str, v6: bool) -> Case {
    Case {
        way,
        filter,
        layers,
        v6,
    }
}

#[test]
fn guests_reach_each_other_by_every_encapsulation() {
    let lab = two_guests();
    for case in CASES {
        try_case(&lab, &case);
    }
}

fn try_case(
    lab: &Lab,
    Case {
        way,
        filter,
        layers,
        v6,
    }: &Case,
) {
    let what = format!("{way:?}, {layers}");
    let captures: Vec<_> = [("g1", "g2"), ("g2", "g1")]
        .map(|(own, peer)| {
            lab.encapsulate(own, peer, *way).unwrap();
            lab.capture(("underlay", &format!("to-{own}")), filter)
                .unwrap()
        })
        .into();
    let addresses = ["p1", "p2"].map(|pod| {
        let pod = lab.pod(pod).unwrap();
        let v6 = v6.then(|| pod.address6.unwrap().to_string());
        v6.unwrap_or(pod.address.to_string())
    });
    transfer(lab, ("g1", "p1"), ("g2", "p2"), &addresses[1]);
    transfer(lab, ("g2", "p2"), ("g1", "p1"), &addresses[0]);
    for (capture, own) in captures.into_iter().zip(["g1", "g2"]) {
        let names = [
            "frame.protocols",
            "eth.src",
            "tcp.checksum.status",
            "tcp.len",
        ];
        let packets = decode(&capture.finish().unwrap(), 8472, &names).unwrap();
        let tcp = packets.iter().filter(|packet| !packet[2].is_empty());
        let of = |mac: &str| -> Vec<&Fields> {
            let mine = tcp.clone().filter(|packet| packet[1][0] == mac);
            mine.collect()
        };
        let [first, second] = ["g1", "g2"].map(|node| of(&lab.node(node).unwrap().1.guest_mac()));
        assert!(
            first.len() > 20 && second.len() > 20,
            "{what}: {}",
            packets.len()
        );
        for packet in first.iter().chain(&second) {
            assert!(
                packet[0].join(",").starts_with(layers),
                "{what}: {packet:?}"
            );
        }
        let unfinished = |packets: &[&Fields]| -> Vec<Fields> {
            let whole = |packet: &Fields| {
                packet[2] == ["1"] && packet[3][0].parse::<u32>().unwrap() <= 1398
            };
            let some = packets.iter().filter(|packet| !whole(packet));
            some.map(|packet| (*packet).clone()).collect()
        };
        assert_eq!(
            unfinished(&first),
            [] as [Fields; 0],
            "{what}: from g1 at {own}"
        );
        // The device of g1 takes finished packets only.
        let left = unfinished(&second);
        let left_to_others = *way == Encapsulation::Direct && own == "g2";
        assert_eq!(
            left.is_empty(),
            !left_to_others,
            "{what}: from g2 at {own}: {left:?}"
        );
    }
}

#[test]
fn commands_come_back_whole() {
    let lab = Lab::new(common::plan(&[("g1", FINISHED, 1)])).unwrap();
    let guest = lab.guest("g1").unwrap();
    let output = guest
        .shell("echo out; echo err >&2; exit 7", LIMIT)
        .unwrap();
    assert_eq!(
        (&*output.stdout, &*output.stderr, output.status.code()),
        ("out\n", "err\n", Some(7))
    );
    let words = ["printf", "%s|", "", "it's", "$HOME *", "a\nb"];
    assert_eq!(lab.run("g1", &words).unwrap().stdout, "|it's|$HOME *|a\nb|");
    assert!(
        lab.exec("g1", &["no-such-program"], LIMIT)
            .unwrap()
            .status
            .code()
            == Some(127)
    );
    let long = said(guest, "yes 0123456789abcdef | head -n 100000");
    assert_eq!(long.len(), 1_700_000);
    let script = format!(": {}\necho end", "x".repeat(200_000));
    assert_eq!(said(guest, &script), "end\n");
    // What takes too long is killed with all that it started; the rest goes on.
    let began = Instant::now();
    let late = guest.shell("echo half; sleep 1000 | cat", Duration::from_secs(1));
    let error = format!("{:#}", late.unwrap_err());
    assert!(
        error.contains("killed after 1 s") && error.contains("half"),
        "{error}"
    );
    assert!(began.elapsed() < LIMIT);
    assert_eq!(said(guest, "pidof sleep cat || echo none"), "none\n");
    said(guest, "sleep 1000 & echo $! >/tmp/pid");
    said(guest, "kill -0 $(cat /tmp/pid)");
    // It is another kernel, in the memory that it was given.
    assert!(said(guest, "uname -r").ends_with("-cloud-amd64\n"));
    let used = said(guest, "free -m | awk '/^Mem/ { print $3 + $5 }'");
    assert!(
        used.trim().parse::<u32>().unwrap() < 80,
        "{used} MB of memory"
    );
}

#[test]
fn a_guest_that_dies_says_why_and_one_that_cannot_start_leaves_nothing() {
    let lab = Lab::new(common::plan(&[("g1", FINISHED, 1)])).unwrap();
    let guest = lab.guest("g1").unwrap();
    let dead = guest.shell("echo c >/proc/sysrq-trigger", LIMIT);
    let error = format!("{:#}", dead.unwrap_err());
    assert!(
        error.contains("Kernel panic") && error.contains("guest g1"),
        "{error}"
    );
    let error = format!("{:#}", guest.shell("true", LIMIT).unwrap_err());
    assert!(error.contains("earlier question"), "{error}");
    let processes = lab.processes();
    let tag = lab.tag().to_owned();
    lab.take_down().unwrap();
    common::assert_gone(&tag, &processes);

    let missing = PathBuf::from("/usr/bin/no-such-program");
    let plan = common::plan(&[("g1", FINISHED, 1)]);
    let error = format!("{:#}", Lab::with_programs(plan, vec![missing]).unwrap_err());
    assert!(error.contains("no-such-program"), "{error}");
}

/// Ends a program that is left when a test fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guest_whose_lab_was_killed_is_swept() {
    let held = Command::new(env!("CARGO_BIN_EXE_culvert-lab"))
        .args(["hold", "--guest"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = Killed(held);
    let mut line = String::new();
    let mut output = BufReader::new(held.0.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let (tag, pids) = line
        .trim()
        .split_once(' ')
        .expect("the lab's name and processes");
    let processes: Vec<_> = pids
        .split(' ')
        .filter_map(|pid| ProcessId::of(pid.parse().unwrap()))
        .collect();
    assert_eq!(processes.len(), 2, "{line}");
    drop(held);
    assert!(processes.iter().all(|process| process.is_alive()));
    sweep(Kept::Leave).unwrap();
    common::assert_gone(tag, &processes);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn our_programs_run_on_the_guests_kernel() {
    let dir = std::env::var("CULVERT_BIN_DIR").expect("CULVERT_BIN_DIR");
    let names = ["culvertd", "culvert-cni"];
    let programs = names.map(|name| Path::new(&dir).join(name)).into();
    let plan = common::plan(&[("g1", FINISHED, 1)]);
    let lab = Lab::with_programs(plan, programs).unwrap();
    let here = Command::new(Path::new(&dir).join("culvertd"))
        .arg("--version")
        .output()
        .unwrap();
    let version = String::from_utf8(here.stdout).unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    assert_eq!(
        lab.run("g1", &["culvertd", "--version"]).unwrap().stdout,
        version
    );
    let verbs = lab.run(
        "g1",
        &["sh", "-c", "CNI_COMMAND=VERSION culvert-cni </dev/null"],
    );
    assert!(verbs.unwrap().stdout.contains("supportedVersions"));
}
