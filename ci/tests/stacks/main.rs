//! Labs of culvert nodes with both IP versions and every encapsulation. They need
//! culvert's own programs, so `ci/test` runs them after the build.

mod world;

use world::{Family, Setup, World};

/// Everything that pods and nodes of two nodes say to each other, in each IP version.
fn all_talk(world: &World) {
    for (from, to) in [("p1", "p2"), ("p2", "p1"), ("p1", "q1")] {
        for address in world.addresses(to) {
            world.pings(from, &address);
        }
    }
    for (node, pod) in [("n1", "p1"), ("n1", "p2"), ("n2", "p1")] {
        for address in world.addresses(pod) {
            world.pings(node, &address);
        }
    }
    // Nodes by their addresses in the pods' network and on the underlay.
    for number in [1, 2] {
        for address in world.node_addresses(number) {
            world.pings("p1", &address);
            world.pings("p2", &address);
        }
    }
}

/// Largest packets pass both ways, whatever is in them, and nothing was fragmented.
fn largest_packets_pass(world: &World, mtu: u32) {
    for pod in ["p1", "p2"] {
        assert_eq!(world.mtu_of(pod), mtu);
    }
    for address in world.addresses("p2") {
        let headers = if address.contains(':') { 48 } else { 28 };
        world.pings_with("p1", &address, mtu - headers);
        world.tcp("p1", "p2", &address);
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn dual_stack_pods_talk_over_vxlan() {
    let world = World::new(&Setup::default());
    all_talk(&world);
    largest_packets_pass(&world, 1450);
    let endpoints = world.ask("n1", "endpoints");
    let addresses = serde_json::json!(["10.244.1.1", "fd00:244:0:1::1"]);
    assert_eq!(endpoints[0]["addresses"], addresses, "{endpoints}");
    let table = world.lab.culvert("n1", &["endpoints"]).unwrap().stdout;
    assert!(table.contains("10.244.1.1,fd00:244:0:1::1"), "{table}");
    let routes = world.ask("n1", "routes");
    for (prefix, next_hop) in [
        ("fd00:244:0:2::/64", "peer n2 vxlan"),
        ("10.244.2.0/24", "peer n2 vxlan"),
        ("fd00:244:0:1::/64", "blackhole"),
        ("fd00:244:0:1::/128", "host"),
    ] {
        assert_eq!(world.next_hop(&routes, prefix), next_hop);
    }
}

/// Lines of `[network]`, the underlay's IP version, and what is left for pods.
const TUNNELS: [(&str, Family, u32); 6] = [
    ("encap = \"vxlan\"", Family::V4, 1450),
    ("encap = \"vxlan\"", Family::V6, 1430),
    ("encap = \"vxlan\"\nudp_checksum = false", Family::V4, 1450),
    ("encap = \"vxlan\"\nudp_checksum = false", Family::V6, 1430),
    ("encap = \"ipip\"", Family::V4, 1480),
    ("encap = \"ipip\"", Family::V6, 1460),
];

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn every_tunnel_carries_both_ip_versions() {
    for (network, underlay, mtu) in TUNNELS {
        let setup = Setup {
            network,
            underlay,
            ..Setup::default()
        };
        let world = World::new(&setup);
        all_talk(&world);
        largest_packets_pass(&world, mtu);
        assert!(world.counter("n1", "forward-underlay") > 0);
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_node_changes_its_configuration_and_keeps_its_pods() {
    let direct = Setup {
        network: "encap = \"direct\"\naccept = [\"vxlan\"]",
        families: [Family::V4, Family::V4],
        ..Setup::default()
    };
    let mut world = World::new(&direct);
    all_talk(&world);
    // Both nodes accept both, so the first one that changes is understood.
    let changed = Setup {
        network: "accept = [\"direct\"]",
        families: [Family::Dual, Family::Dual],
        ..Setup::default()
    };
    let last = Setup {
        network: "",
        ..changed
    };
    for (setup, forwarding) in [(&changed, "1"), (&last, "0")] {
        for node in ["n1", "n2"] {
            world.stop(node);
            world.configure(node, setup);
            world.start(node);
            world.pings("p1", "10.244.2.1");
            world.pings("p2", "10.244.1.1");
            assert_eq!(world.culvert_routes(node).trim(), "");
            let file = ["cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"];
            let now = world.lab.run(node, &file).unwrap().stdout;
            assert_eq!(now.trim(), forwarding);
        }
    }
    // New pods have what the node has now, and everybody still answers.
    world.lab.add_place("x1").unwrap();
    world.add("n1", "x1");
    assert_eq!(world.addresses("x1"), ["10.244.1.3", "fd00:244:0:1::1"]);
    world.lab.add_place("x2").unwrap();
    world.add("n2", "x2");
    for (from, to) in [("x1", "x2"), ("x2", "p1"), ("n2", "x1"), ("p1", "x2")] {
        let shared = world.addresses(from_pod(from)).len();
        for address in world.addresses(to).iter().take(shared) {
            world.pings(from, address);
        }
    }
    // And back: what the host's device had of IPv6 is gone.
    world.stop("n1");
    world.configure("n1", &direct);
    world.start("n1");
    world.pings("n1", "10.244.1.1");
    let addresses = world.lab.run("n1", &["ip", "addr", "show", "culvert0"]);
    let addresses = addresses.unwrap().stdout;
    assert!(!addresses.contains("fd00:244"), "{addresses}");
    let routes = world.lab.run("n1", &["ip", "-6", "route"]).unwrap().stdout;
    assert!(!routes.contains("fd00:244"), "{routes}");
}

/// A place whose addresses are those of a pod that stands for it.
fn from_pod(place: &str) -> &str {
    match place {
        "n2" => "x2",
        pod => pod,
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_have_one_ip_version_where_the_node_has() {
    let setup = Setup {
        families: [Family::V6, Family::Dual],
        ..Setup::default()
    };
    let world = World::new(&setup);
    assert_eq!(world.addresses("p1"), ["fd00:244:0:1::1"]);
    assert_eq!(world.addresses("p2"), ["10.244.2.1", "fd00:244:0:2::1"]);
    world.pings("p1", "fd00:244:0:2::1");
    world.pings("n2", "fd00:244:0:1::1");
    let result = world.result("p1");
    assert_eq!(result["ips"][0]["gateway"], "fe80::1");
    assert_eq!(result["routes"].as_array().unwrap().len(), 1);
    assert_eq!(result["routes"][0]["dst"], "::/0");
    let text = world
        .lab
        .run("p1", &["ip", "-4", "addr", "show", "eth0"])
        .unwrap();
    assert_eq!(text.stdout.trim(), "");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_result_names_both_and_check_compares_both() {
    let world = World::new(&Setup::default());
    let result = world.result("p1");
    let ips = result["ips"].as_array().unwrap();
    let pairs: Vec<_> = ips
        .iter()
        .map(|ip| {
            (
                ip["address"].as_str().unwrap(),
                ip["gateway"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        pairs,
        [
            ("10.244.1.1/32", "169.254.1.1"),
            ("fd00:244:0:1::1/128", "fe80::1")
        ]
    );
    let routes = result["routes"].as_array().unwrap();
    let dsts: Vec<_> = routes.iter().map(|r| r["dst"].as_str().unwrap()).collect();
    assert_eq!(dsts, ["0.0.0.0/0", "::/0"]);

    let check = || {
        let call = world.lab.call("CHECK", "n1", "p1");
        call.key("prevResult", result.clone()).answer().unwrap()
    };
    assert!(check().success);
    for (spoil, mend, part) in [
        (
            "addr del fd00:244:0:1::1/128 dev eth0",
            "addr add fd00:244:0:1::1/128 dev eth0 nodad",
            "lacks the address fd00:244:0:1::1",
        ),
        (
            "-6 route del default",
            "-6 route add default via fe80::1 dev eth0",
            "lacks the route ::/0 via fe80::1",
        ),
        (
            "addr del 10.244.1.1/32 dev eth0",
            "addr add 10.244.1.1/32 dev eth0
             ip route add 169.254.1.1/32 dev eth0
             ip route add default via 169.254.1.1 dev eth0",
            "lacks the address 10.244.1.1",
        ),
    ] {
        world.ip("p1", spoil);
        let answer = check();
        assert!(answer.message().contains(part), "{}", answer.message());
        world.ip("p1", mend);
        assert!(check().success, "{}", check().message());
    }
    let mut lacking = result.clone();
    lacking["ips"].as_array_mut().unwrap().pop();
    let call = world
        .lab
        .call("CHECK", "n1", "p1")
        .key("prevResult", lacking);
    let message = call.answer().unwrap().message();
    assert!(
        message.contains("prevResult lacks the address fd00:244:0:1::1"),
        "{message}"
    );
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn containers_that_start_without_ipv6_get_it() {
    let world = World::new(&Setup::default());
    for (pod, script) in [
        (
            "x1",
            "echo 1 > conf/default/disable_ipv6; echo 1 > conf/all/disable_ipv6",
        ),
        (
            "x2",
            "echo 2 > conf/default/accept_ra; echo 1 > conf/default/forwarding",
        ),
    ] {
        world.lab.add_place(pod).unwrap();
        world.sh(pod, &format!("cd /proc/sys/net/ipv6; {script}"));
        world.add("n1", pod);
        for address in world.addresses("p2") {
            world.pings(pod, &address);
        }
        let addresses = world
            .lab
            .run(pod, &["ip", "-6", "addr", "show", "eth0"])
            .unwrap();
        assert_eq!(
            addresses.stdout.matches("inet6").count(),
            2,
            "{}",
            addresses.stdout
        );
        assert!(
            !addresses.stdout.contains("tentative"),
            "{}",
            addresses.stdout
        );
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_of_a_whole_network_link_find_each_other() {
    let setup = Setup {
        network: "proxy = \"network\"",
        ..Setup::default()
    };
    let world = World::new(&setup);
    let ips = world.result("p1")["ips"].clone();
    assert_eq!(ips[0]["address"], "10.244.1.1/16");
    assert_eq!(ips[1]["address"], "fd00:244:0:1::1/48");
    all_talk(&world);
    // The other pod itself was asked for, not the gateway.
    let neighbors = world.lab.run("p1", &["ip", "neigh"]).unwrap().stdout;
    for address in world.addresses("p2") {
        assert!(neighbors.contains(&address), "{neighbors}");
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn without_tunnels_the_kernel_routes_and_the_wire_has_the_pods_own_packets() {
    let setup = Setup {
        network: "encap = \"direct\"",
        underlay: Family::V6,
        ..Setup::default()
    };
    let world = World::new(&setup);
    all_talk(&world);
    largest_packets_pass(&world, 1500);
    let routes = world.ask("n1", "routes");
    assert_eq!(
        world.next_hop(&routes, "fd00:244:0:2::/64"),
        "peer n2 direct"
    );
    let routes = world.culvert_routes("n1");
    assert!(
        routes.contains("10.244.2.0/24 via inet6 fd77::2 src 10.244.1.0"),
        "{routes}"
    );
    assert!(
        routes.contains("fd00:244:0:2::/64 via fd77::2 src fd00:244:0:1::"),
        "{routes}"
    );

    let before = world.counter("n1", "forward-underlay");
    world.pings("p1", &world.addresses("p2")[0]);
    assert_eq!(world.counter("n1", "forward-underlay"), before);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn direct_routes_are_healed_at_start_and_gone_at_the_end() {
    let setup = Setup {
        network: "encap = \"direct\"",
        families: [Family::V4, Family::V4],
        ..Setup::default()
    };
    let mut world = World::new(&setup);
    all_talk(&world);
    let forwarding = "/proc/sys/net/ipv4/conf/eth0/forwarding";
    let read = |world: &World| world.lab.run("n1", &["cat", forwarding]).unwrap().stdout;
    assert_eq!(read(&world).trim(), "1");

    // What is lost is told, and comes back with a restart; so does what is stale.
    world.ip("n1", "route del 10.244.2.0/24");
    let status = world.ask("n1", "status");
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("10.244.2.0/24 via 192.168.77.2 dev eth0"),
        "{problems}"
    );
    world.ip(
        "n1",
        "route add 10.244.9.0/24 via 192.168.77.9 dev eth0 proto 197",
    );
    world.ip("n1", "route add 10.99.0.0/24 via 192.168.77.9 dev eth0");
    world.kill("n1");
    world.start("n1");
    all_talk(&world);
    let routes = world.lab.run("n1", &["ip", "route"]).unwrap().stdout;
    assert!(!routes.contains("10.244.9.0/24"), "{routes}");

    // With pods everything stays for the next daemon; without them nothing does.
    world.stop("n1");
    assert!(world.culvert_routes("n1").contains("10.244.2.0/24"));
    world.start("n1");
    world.delete("n1", "p1");
    world.delete("n1", "q1");
    world.stop("n1");
    assert_eq!(world.culvert_routes("n1").trim(), "");
    assert_eq!(read(&world).trim(), "0");
    let routes = world.lab.run("n1", &["ip", "route"]).unwrap().stdout;
    assert!(routes.contains("10.99.0.0/24"), "{routes}");
    let links = world.lab.run("n1", &["ip", "-o", "link"]).unwrap().stdout;
    assert!(!links.contains("culvert0"), "{links}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_tunnel_is_taken_across_subnets_only() {
    let setup = Setup {
        network: "encap = \"cross-subnet\"",
        families: [Family::V4, Family::V4],
        far: true,
        ..Setup::default()
    };
    let world = World::new(&setup);
    assert_eq!(world.mtu_of("p1"), 1450);
    all_talk(&world);
    let routes = world.ask("n1", "routes");
    assert_eq!(world.next_hop(&routes, "10.244.2.0/24"), "peer n2 direct");
    assert_eq!(world.next_hop(&routes, "10.244.3.0/24"), "peer n3 vxlan");
    for (from, to) in [
        ("p1", "p3"),
        ("p3", "p1"),
        ("p2", "p3"),
        ("n3", "p1"),
        ("n1", "p3"),
    ] {
        world.pings(from, &world.addresses(to)[0]);
    }
    let status = world.ask("n1", "status");
    assert_eq!(status["encapsulation"], "cross-subnet, vxlan");
    let peers = world.ask("n1", "peers");
    for (number, sent_by, mtu) in [(0, "direct", 1500), (1, "vxlan", 1450)] {
        let peer = &peers[number];
        assert_eq!(peer["sent_by"], serde_json::json!([sent_by]));
        assert_eq!(peer["mtu"], mtu);
        assert_eq!(
            peer["encapsulations"],
            serde_json::json!(["vxlan", "direct"])
        );
    }
    for (from, number) in [("p1", 3), ("p3", 1)] {
        for address in world.node_addresses(number) {
            world.pings(from, &address);
        }
    }
    let before = world.counter("n1", "forward-underlay");
    world.pings("p1", &world.addresses("p2")[0]);
    assert_eq!(world.counter("n1", "forward-underlay"), before);
    world.pings("p1", &world.addresses("p3")[0]);
    assert!(world.counter("n1", "forward-underlay") > before);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_cannot_be_is_explained_and_leaves_nothing() {
    for (network, prepare, part) in [
        (
            "encap = \"direct\"",
            "ip addr del 192.168.77.1/24 dev eth0; ip addr add 192.168.77.1/32 dev eth0",
            "set encap = \"cross-subnet\"",
        ),
        ("", "ip link set eth0 mtu 1300", "IPv6 needs 1280"),
        (
            "encap = \"direct\"",
            "ip route add 10.244.2.0/24 dev eth0",
            "10.244.2.0/24 dev eth0 is in the way",
        ),
    ] {
        let families = match network {
            "" => [Family::Dual, Family::Dual],
            _ => [Family::V4, Family::V4],
        };
        let setup = Setup {
            network,
            families,
            ..Setup::default()
        };
        let world = World::without_daemons(&setup);
        world.sh("n1", prepare);
        let said = world.fails_to_start("n1");
        assert!(said.contains(part), "{said}");
        let links = world.lab.run("n1", &["ip", "-o", "link"]).unwrap().stdout;
        assert!(!links.contains("culvert0"), "{links}");
        assert_eq!(world.culvert_routes("n1").trim(), "");
        let forwarding = ["cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"];
        assert_eq!(world.lab.run("n1", &forwarding).unwrap().stdout.trim(), "0");
    }
}
