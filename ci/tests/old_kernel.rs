//! culvert on the kernel of Debian 12 (6.1), which has no UDP super-frames on TAPs and no
//! tunnels behind them: two nodes of a guest, each with daemon, plugin and a pod.

use std::path::Path;
use std::time::Duration;

use culvert_lab::{Checksums, Guest, Lab, NodeKind};

mod common;

const LIMIT: Duration = Duration::from_secs(120);

/// What a script in the guest printed; it ends with the first command that fails.
fn said(guest: &Guest, script: &str) -> String {
    let output = guest.shell(&format!("set -e\n{script}"), LIMIT).unwrap();
    output.success().unwrap().stdout
}

/// Two namespaces that a veth joins, and the files of a node in each.
const NODES: &str = r#"
mkdir -p /run/netns
for n in 1 2; do
    ip netns add n$n
    ip netns add p$n
    ip -n n$n link set lo up
done
ip -n n1 link add eth0 type veth peer name eth0 netns n2
for n in 1 2; do
    ip -n n$n addr add 192.168.7.$n/24 dev eth0
    ip -n n$n link set eth0 up
    mkdir -p /run/n$n/run /run/n$n/state
    cat >/run/n$n/culvert.toml <<END
node = "n$n"
cluster = "/run/cluster.toml"
run_dir = "/run/n$n/run"
state_dir = "/run/n$n/state"
[underlay]
driver = "auto"
END
done
cat >/run/cluster.toml <<END
[network]
name = "pods"
prefix = "10.244.0.0/16"
vni = 1
udp_port = 8472
[[node]]
name = "n1"
underlay = "192.168.7.1"
pods = "10.244.1.0/24"
[[node]]
name = "n2"
underlay = "192.168.7.2"
pods = "10.244.2.0/24"
END
"#;

/// Starts both daemons and adds a pod to each.
const START: &str = r#"
for n in 1 2; do
    ip netns exec n$n culvertd --config /run/n$n/culvert.toml >/run/n$n/log 2>&1 3>&- &
    until ip netns exec n$n culvert --socket /run/n$n/run/culvertd.sock status >/dev/null 2>&1; do
        kill -0 $! || { cat /run/n$n/log >&2; exit 1; }
        sleep 0.1
    done
    echo '{"cniVersion":"1.0.0","name":"culvert","type":"culvert-cni",
           "runDir":"/run/n'$n'/run","stateDir":"/run/n'$n'/state"}' |
        CNI_COMMAND=ADD CNI_CONTAINERID=p$n CNI_NETNS=/run/netns/p$n CNI_IFNAME=eth0 \
        CNI_PATH=/usr/local/bin ip netns exec n$n culvert-cni
done
"#;

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_talk_over_sockets_on_debians_kernel() {
    let dir = std::env::var("CULVERT_BIN_DIR").expect("CULVERT_BIN_DIR");
    let names = ["culvertd", "culvert-cni", "culvert"];
    let programs = names.map(|name| Path::new(&dir).join(name)).into();
    let plan = common::plan(&[("g1", NodeKind::Guest(Checksums::Finished), 1)]);
    let lab = Lab::with_programs(plan, programs).unwrap();
    let guest = lab.guest("g1").unwrap();
    assert!(said(guest, "uname -r").starts_with("6.1."));
    said(guest, NODES);
    said(guest, START);
    let culvert = |what: &str| {
        said(
            guest,
            &format!("ip netns exec n1 culvert --socket /run/n1/run/culvertd.sock {what}"),
        )
    };
    let status = culvert("status");
    let shown = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.map(|line| line[name.len()..].trim())
    };
    let by = shown("underlay by").unwrap();
    let why = "sockets: this kernel offers TAPs no tunnel packets";
    assert!(by.starts_with(why), "{status}");
    assert_eq!(shown("problems"), Some("none"), "{status}");
    let peer = said(
        guest,
        "ip -n p2 -4 -o addr show eth0 | awk '{ split($4, a, \"/\"); print a[1] }'",
    );
    let peer = peer.trim();
    assert!(peer.starts_with("10.244.2."), "{peer}");
    said(
        guest,
        &format!("ip netns exec p1 ping -c 3 -i 0.2 -s 1400 -M do {peer}"),
    );
    // Super-frames of TCP, and of UDP where pods make any, both ways.
    for how in ["-n 20M", "-n 20M -R", "-u -b 20M -l 1300 -n 2M"] {
        let script = format!(
            "ip netns exec p2 iperf3 -s -1 >/dev/null 2>&1 3>&- &
             until ip netns exec p2 netstat -ltn | grep -q :5201; do sleep 0.1; done
             ip netns exec p1 iperf3 -c {peer} {how}; wait $!"
        );
        let said = said(guest, &script);
        assert!(said.contains("receiver"), "{how}: {said}");
    }
    let counters = culvert("counters --all");
    for name in ["tap-tx-failed", "underlay-tx-failed", "segment-failed"] {
        let line = counters.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        assert_eq!(value, Some("0"), "{name}: {counters}");
    }
}
