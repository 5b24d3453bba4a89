//! Two nodes, each a worker with the packet core and its drivers, joined by a veth:
//! pods' kernels speak to each other through every tunnel.

mod capture;
mod node;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use culvert_core::channel::{Encap, Offloads};
use culvert_core::offload::Accepts;
use culvert_core::{Counter, DropReason};
use culvert_host::sys::tap::{TapOffloads, TapOptions};

use crate::lab::{Namespace, eventually, pair, routed};
use capture::Capture;
use node::{Node, Plan};

const V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const V6: [&str; 2] = ["fd77::1", "fd77::2"];
/// The pods' addresses, of node 1 and node 2.
const PODS: [[&str; 2]; 2] = [
    ["10.244.1.2", "10.244.2.2"],
    ["fd00:244:1::2", "fd00:244:2::2"],
];

fn all_plans() -> impl Iterator<Item = Plan> {
    let encaps = [Encap::Vxlan, Encap::Ipip].into_iter();
    encaps.flat_map(|encap| [V4, V6].map(|addresses| Plan::new(encap, addresses)))
}

/// As [`all_plans`], each by sockets and by a TAP.
fn all_plans_by_both() -> impl Iterator<Item = Plan> {
    all_plans().flat_map(|plan| [false, true].map(|wire| Plan { wire, ..plan }))
}

/// Two nodes over a veth; the namespaces are those of their underlays.
struct Site {
    nodes: [Node; 2],
    spaces: [Namespace; 2],
}

impl Site {
    /// Has the underlay's devices cut and sum themselves, so that captures show what
    /// would be on a wire.
    fn switch_offloads_off(&self) {
        for space in &self.spaces {
            space.sh("ethtool -K u0 tx off gso off");
        }
    }

    fn new(plan: Plan) -> Site {
        let (a, b) = pair();
        Site::on(plan, [a, b])
    }

    fn on(plan: Plan, spaces: [Namespace; 2]) -> Site {
        let nodes = [1, 2].map(|number| Node::new(plan, number, &spaces[number - 1]));
        Site { nodes, spaces }
    }

    /// As [`tcp`], from the pod of one node to that of the other.
    fn tcp(&self, from: usize, to: &str, octets: usize) {
        tcp(
            [from, 1 - from].map(|node| &self.nodes[node].pod),
            to,
            octets,
        );
    }

    fn assert_nothing_lost(&self) {
        assert_eq!(self.nodes.each_ref().map(Node::lost), [0, 0]);
    }
}

/// Sends so many octets from one pod to the other by TCP and compares them.
fn tcp([from, listening]: [&Namespace; 2], to: &str, octets: usize) {
    let address: IpAddr = to.parse().unwrap();
    let listener = listening.run(|| TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    let patience = Duration::from_secs(10);
    let data: Vec<u8> = (0..=250).cycle().take(octets).collect();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(patience)).unwrap();
            let mut received = Vec::with_capacity(octets);
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let connected = from.run(|| TcpStream::connect_timeout(&target, patience));
        let mut stream = connected.unwrap();
        stream.set_write_timeout(Some(patience)).unwrap();
        stream.write_all(&data).unwrap();
        drop(stream);
        assert!(reader.join().unwrap() == data, "{octets} octets to {to}");
    });
}

#[test]
fn pods_ping_each_other_through_every_tunnel() {
    for plan in all_plans_by_both() {
        let site = Site::new(plan);
        let overhead = plan.overhead();
        for (node, other) in [(0, 1), (1, 0)] {
            let [v4, v6] = PODS.map(|pods| pods[other]);
            site.nodes[node].ping(10, v4);
            site.nodes[node].ping(10, v6);
            // As large as the tunnel takes, and larger: in fragments.
            let most = 1500 - overhead;
            site.nodes[node].ping(3, &format!("-M do -s {} {v4}", most - 28));
            site.nodes[node].ping(3, &format!("-M do -s {} {v6}", most - 48));
            site.nodes[node].ping(3, &format!("-s 4000 {v4}"));
            site.nodes[node].ping(3, &format!("-s 4000 {v6}"));
        }
        site.assert_nothing_lost();
    }
}

#[test]
fn tcp_goes_through_every_tunnel_both_ways() {
    for plan in all_plans_by_both() {
        let site = Site::new(plan);
        for [first, second] in PODS {
            site.tcp(0, second, 1 << 21);
            site.tcp(1, first, 1 << 21);
        }
        site.assert_nothing_lost();
    }
}

/// The sending core leaves the checksums undone that the pod's kernel left undone,
/// as kernels do for peers on the same machine; the receiving one must see it.
#[test]
fn what_a_peer_on_the_same_machine_left_undone_is_recognised() {
    for plan in all_plans() {
        let underlay = Offloads::CHECKSUM.with(Offloads::TUNNEL_CHECKSUM);
        // The pods' kernels leave nothing to be cut, whose checksums would be finished.
        let tap = TapOptions {
            offloads: TapOffloads::CHECKSUM,
        };
        let site = Site::new(Plan {
            underlay,
            tap,
            ..plan
        });
        let capture = Capture::start(&site.spaces[0], "u0");
        for [first, second] in PODS {
            site.tcp(0, second, 1 << 16);
            site.tcp(1, first, 1 << 16);
        }
        let options = ["-o", "tcp.check_checksum:TRUE"];
        let all = capture.fields(&options, "tcp", &["tcp.checksum.status"]);
        let bad = all.iter().filter(|fields| fields[0] == "0").count();
        assert!(bad * 10 > all.len() * 9, "{plan:?}: {bad} of {}", all.len());
        site.assert_nothing_lost();
    }
}

/// Super-frames of the pods' kernels are cut before they leave, by the core or the kernel.
#[test]
fn super_frames_of_pods_are_cut_at_the_underlay() {
    for plan in all_plans_by_both() {
        let offloads = TapOffloads::TCP;
        let tap = TapOptions { offloads };
        let site = Site::new(Plan { tap, ..plan });
        // The kernel cuts what stands for several before the capture sees it.
        site.switch_offloads_off();
        let capture = Capture::start(&site.spaces[0], "u0");
        for [first, second] in PODS {
            site.tcp(0, second, 1 << 20);
            site.tcp(1, first, 1 << 20);
        }
        let all = capture.fields(&[], "tcp", &["frame.len"]);
        let largest = all.iter().map(|fields| fields[0].parse::<u32>().unwrap());
        assert_eq!(largest.max(), Some(1514), "{plan:?}");
        // The core counts packets, not super-frames: 4 MiB of 1,380 to 1,448 octets.
        let sent = site
            .nodes
            .each_ref()
            .map(|node| node.counter(Counter::ForwardUnderlay));
        assert!(
            sent[0] > (2 << 20) / 1448 && sent[1] > (2 << 20) / 1448,
            "{sent:?}"
        );
        site.assert_nothing_lost();
    }
}

#[test]
fn a_smaller_mtu_on_the_way_is_learned_and_told_to_the_pods() {
    let plans = [Encap::Vxlan, Encap::Ipip].into_iter().flat_map(|encap| {
        let v4 = Plan::new(encap, ["10.77.1.2", "10.77.2.2"]);
        let v6 = Plan::new(encap, ["fd77:1::2", "fd77:2::2"]);
        [v4, v6].into_iter()
    });
    for plan in plans.flat_map(|plan| [false, true].map(|wire| Plan { wire, ..plan })) {
        let [a, router, b] = [(); 3].map(|()| Namespace::new());
        routed(&a, &router, &b, 1380);
        let tap = TapOptions {
            offloads: TapOffloads::TCP,
        };
        let site = Site::on(Plan { tap, ..plan }, [a, b]);
        for [_, second] in PODS {
            site.tcp(0, second, 1 << 18);
        }
        let too_big = site.nodes[0].counter(Counter::Drop(DropReason::TooBig));
        assert!(too_big > 0, "{plan:?}");
        drop(router);
    }
}

/// Where routers may fragment tunnel packets nobody is told of their MTU, and the
/// other node's kernel puts the fragments together.
#[test]
fn tunnel_packets_that_may_be_fragmented_are_and_get_there() {
    for encap in [Encap::Vxlan, Encap::Ipip] {
        let [a, router, b] = [(); 3].map(|()| Namespace::new());
        routed(&a, &router, &b, 1380);
        let plan = Plan {
            may_fragment: true,
            tap: TapOptions {
                offloads: TapOffloads::TCP,
            },
            ..Plan::new(encap, ["10.77.1.2", "10.77.2.2"])
        };
        let site = Site::on(plan, [a, b]);
        let capture = Capture::start(&site.spaces[1], "u0");
        site.tcp(0, PODS[0][1], 1 << 18);
        let fragments = capture.fields(&[], "ip.flags.mf == 1", &["ip.id"]);
        assert!(fragments.len() > 3, "{encap}: {}", fragments.len());
        assert_eq!(site.nodes[0].counter(Counter::Drop(DropReason::TooBig)), 0);
        assert_eq!(site.nodes[0].peer_errors(), 0);
        drop(router);
    }
}

/// A pod whose device takes no super-frames gets their packets.
#[test]
fn super_frames_are_cut_for_a_tap_that_takes_none() {
    let tap = TapOptions {
        offloads: TapOffloads::TCP,
    };
    let plan = Plan {
        tap,
        ..Plan::new(Encap::Vxlan, V4)
    };
    let (a, b) = pair();
    let node = Node::new(plan, 1, &a);
    for (last, accepts, whole) in [(3, Accepts::ALL, true), (4, Accepts::default(), false)] {
        let other = Namespace::new();
        node.attach_pod(plan, (1, last), &other, accepts);
        let capture = Capture::start(&other, "eth0");
        for to in [format!("10.244.1.{last}"), format!("fd00:244:1::{last}")] {
            tcp([&node.pod, &other], &to, 1 << 20);
        }
        let all = capture.fields(&[], "tcp", &["frame.len"]);
        let seen = all.iter().map(|fields| fields[0].parse::<u32>().unwrap());
        let seen = seen.max().unwrap();
        assert_eq!(seen > 1464, whole, "{accepts:?}: {seen}");
    }
    assert_eq!(node.lost(), 0);
    drop(b);
}

/// A pod's program that never reads fills that pod's socket, and nothing else.
#[test]
fn a_pod_that_does_not_read_holds_up_nobody() {
    for plan in all_plans_by_both() {
        let site = Site::new(plan);
        let [near, far] = &site.nodes;
        let other = Namespace::new();
        near.attach_pod(plan, (1, 3), &other, Accepts::ALL);
        let deaf = near.pod.run(|| UdpSocket::bind("10.244.1.2:9")).unwrap();
        let source = far.pod.run(|| UdpSocket::bind("10.244.2.2:0")).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..16 {
                        source.send_to(&[0; 1200], "10.244.1.2:9").unwrap();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let pings = catch_unwind(AssertUnwindSafe(|| {
                far.exec("ping -i 0.05 -c 40 -W 5 10.244.1.3")
            }));
            stop.store(true, Ordering::Relaxed);
            let pings = pings.unwrap();
            let said = String::from_utf8_lossy(&pings.stdout).into_owned();
            assert!(said.contains(" 0% packet loss"), "{plan:?}: {said}");
        });
        // It got what its buffer holds.
        deaf.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1500];
        let waiting = std::iter::from_fn(|| deaf.recv(&mut buffer).ok()).count();
        assert!((1..5000).contains(&waiting), "{waiting}");
        site.assert_nothing_lost();
    }
}

/// What tshark says of the packets on the wire.
#[test]
fn outer_headers_are_right() {
    let both = |plan: Plan| {
        [false, true].map(|switched| Plan {
            zero_udp_checksum: switched,
            may_fragment: switched,
            ..plan
        })
    };
    for plan in all_plans_by_both().flat_map(both) {
        let site = Site::new(plan);
        site.switch_offloads_off();
        let capture = Capture::start(&site.spaces[0], "u0");
        // DSCP EF, ECN capable.
        site.nodes[0].ping(3, &format!("-Q 0xba {}", PODS[0][1]));
        site.nodes[0].ping(3, &format!("-Q 0xba {}", PODS[1][1]));
        let v4 = plan.addresses == V4;
        let ip = match v4 {
            true => ["ip.ttl", "ip.dsfield", "ip.flags.df", "ip.proto"],
            false => ["ipv6.hlim", "ipv6.tclass", "ipv6.version", "ipv6.nxt"],
        };
        let udp = [
            "udp.checksum.status",
            "udp.checksum",
            "vxlan.vni",
            "udp.srcport",
        ];
        let options = ["-o", "udp.check_checksum:TRUE"];
        let fields: Vec<&str> = ip.into_iter().chain(udp).collect();
        for [inner, protocol] in [
            ["icmp", "4"],
            ["icmpv6.type == 128 || icmpv6.type == 129", "41"],
        ] {
            let all = capture.fields(&options, inner, &fields);
            assert!(all.len() >= 6, "{plan:?}");
            for found in all {
                let found: Vec<&str> = found.iter().map(String::as_str).collect();
                let expected: [&[&str]; 3] = match v4 {
                    true if plan.may_fragment => [&["64"], &["0xba"], &["0", "False"]],
                    true => [&["64"], &["0xba"], &["1", "True"]],
                    false => [&["64"], &["0xba", "0x000000ba"], &["6"]],
                };
                let right = expected
                    .iter()
                    .zip(&found)
                    .all(|(any, one)| any.contains(one));
                assert!(right, "{plan:?} {found:?}");
                let vxlan = plan.encap == Encap::Vxlan;
                assert_eq!(found[3], if vxlan { "17" } else { protocol });
                match (vxlan, plan.zero_udp_checksum) {
                    (false, _) => assert_eq!(found[4..], ["", "", "", ""]),
                    (true, true) => assert_eq!(found[5..7], ["0x0000", "1"]),
                    // Good.
                    (true, false) => {
                        assert_eq!((found[4], found[6]), ("1", "1"));
                        assert_ne!(found[5], "0x0000");
                    }
                }
                if vxlan {
                    assert!(found[7].parse::<u16>().unwrap() >= 49152);
                }
            }
        }
    }
}

/// Zero checksums over IPv6 are taken in where they are configured, and only there.
#[test]
fn a_zero_checksum_over_ipv6_needs_both_ends() {
    let plan = Plan::new(Encap::Vxlan, V6);
    let zero = Plan {
        zero_udp_checksum: true,
        ..plan
    };
    let (a, b) = pair();
    let nodes = [Node::new(zero, 1, &a), Node::new(plan, 2, &b)];
    let sent = nodes[0].exec(&format!("ping -c 3 -i 0.05 -W 1 {}", PODS[0][1]));
    assert!(!sent.status.success(), "{sent:?}");
    assert_eq!(nodes[1].counter(Counter::ForwardEndpoint), 0);
}

#[test]
fn a_node_that_is_gone_is_counted_and_the_others_go_on() {
    for plan in all_plans() {
        let site = Site::new(plan);
        let Site {
            nodes: [first, second],
            spaces,
        } = site;
        first.ping(2, PODS[0][1]);
        drop(second);
        // Its sockets close with its thread.
        eventually(|| {
            let sent = first.exec(&format!("ping -c 5 -i 0.05 -W 1 {}", PODS[0][1]));
            (!sent.status.success() && first.peer_errors() > 0).then_some(())
        })
        .unwrap_or_else(|| panic!("{plan:?}: no error came in"));
        let second = Node::new(plan, 2, &spaces[1]);
        first.ping(5, PODS[1][1]);
        drop(second);
    }
}
