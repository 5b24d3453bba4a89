//! Tests of both files: what is accepted, and what each mistake is told.

use culvert_core::channel::{Encap, Proxy};
use ipnet::IpNet;

use super::*;
use crate::mac::Mac;

const NETWORK: &str =
    "[network]\nname = \"pods\"\nprefix = \"10.244.0.0/16\"\nvni = 1\nudp_port = 8472\n";
const N1: &str = "[[node]]\nname = \"n1\"\nunderlay = \"192.168.77.1\"\npods = \"10.244.1.0/24\"\n";
const N3: &str = "[[node]]\nname = \"n3\"\nunderlay = \"192.168.77.3\"\npods = \"10.244.3.0/24\"\nvtep_mac = \"aa:bb:cc:dd:ee:ff\"\n";
pub(super) const OWN: &str = "node = \"n1\"\ncluster = \"cluster.toml\"\n";

pub(super) fn load(own: &str, cluster: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("culvert.toml"), own).unwrap();
    fs::write(dir.path().join("cluster.toml"), cluster).unwrap();
    Config::load(&dir.path().join("culvert.toml"))
}

pub(super) fn good() -> String {
    [NETWORK, N1, N3].concat()
}

/// Loads the good files with one text replaced in the cluster file; there must be an error.
fn broken(from: &str, to: &str) -> String {
    assert!(good().contains(from), "{from}");
    load(OWN, &good().replacen(from, to, 1))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_node_can_have_a_tunnel_of_its_own_and_be_passed_through() {
    let plain = load(OWN, &good()).unwrap();
    assert!(
        plain
            .cluster
            .nodes
            .iter()
            .all(|n| n.tunnel.is_none() && !n.transit)
    );
    let more = "tunnel = \"ipip\"\ntransit = true\n";
    let config = load(OWN, &[good().as_str(), more].concat()).unwrap();
    let n3 = config.peers().next().unwrap();
    assert_eq!((n3.tunnel, n3.transit), (Some(Encap::Ipip), true));
    // What a node is sent is taken from it, too.
    assert_eq!(config.cluster.network.accept, [Encap::Vxlan, Encap::Ipip]);
    let encaps: Vec<_> = config.cluster.encaps().collect();
    assert_eq!(encaps, [Encap::Ipip, Encap::Vxlan]);
    // A node behind VXLAN needs its numbers, whatever the others speak.
    let ipip = "[network]\nname = \"pods\"\nprefix = \"10.244.0.0/16\"\nencap = \"ipip\"\n";
    let vxlan = [ipip, N1, N3, "tunnel = \"vxlan\"\n"].concat();
    let error = load(OWN, &vxlan).unwrap_err().to_string();
    assert!(error.contains("vni is missing"), "{error}");
}

#[test]
fn a_good_configuration_with_defaults() {
    let config = load(OWN, &good()).unwrap();
    assert_eq!(config.run_dir, Path::new("/run/culvert"));
    assert_eq!(config.state_dir, Path::new("/var/lib/culvert"));
    assert_eq!(
        (config.log.as_str(), config.device.as_deref()),
        ("info", Some("culvert0"))
    );
    assert_eq!(config.node.pods, ["10.244.1.0/24".parse().unwrap()]);
    let peers: Vec<_> = config.peers().collect();
    assert_eq!(peers.len(), 1);
    assert_eq!(
        peers[0].vtep_mac,
        Some(Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]))
    );
    let network = config.cluster.network;
    assert_eq!((network.vni, network.udp_port), (1, 8472));
    assert_eq!(network.gateway.to_string(), "169.254.1.1");
    assert_eq!(network.gateway_mac, Mac([0xee; 6]));
    assert_eq!(network.mode, Mode::One(Encap::Vxlan));
    assert_eq!(network.accept, [Encap::Vxlan]);
    assert_eq!(network.proxy, Proxy::LinkLocal);
    assert!(!network.flood && !network.clamp_mss);
    assert!(network.udp_checksum && network.outer_df);
    // IPv4 pods have no IPv6 gateway.
    let gateways: Vec<_> = network.gateways().map(|g| g.to_string()).collect();
    assert_eq!(gateways, ["169.254.1.1"]);
}

/// The good files with IPv6 beside IPv4, on IPv6 underlay addresses.
fn dual() -> String {
    good()
        .replace(
            "\"10.244.0.0/16\"",
            "[\"fd00:244::/48\", \"10.244.0.0/16\"]",
        )
        .replace(
            "\"10.244.1.0/24\"",
            "[\"fd00:244:0:1::/64\", \"10.244.1.0/24\"]",
        )
        .replace("192.168.77.1", "fd77::1")
        .replace("192.168.77.3", "fd77::3")
}

#[test]
fn both_ip_versions_live_together() {
    let config = load(OWN, &dual()).unwrap();
    let text = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        text(&config.node.pods),
        ["10.244.1.0/24", "fd00:244:0:1::/64"]
    );
    let addresses: Vec<_> = config.node.addresses().map(|a| a.to_string()).collect();
    assert_eq!(addresses, ["10.244.1.0", "fd00:244:0:1::"]);
    // A node needs no block of each.
    assert_eq!(text(&config.cluster.nodes[1].pods), ["10.244.3.0/24"]);
    let network = &config.cluster.network;
    let gateways: Vec<_> = network.gateways().map(|g| g.to_string()).collect();
    assert_eq!(gateways, ["169.254.1.1", "fe80::1"]);
    let prefix = network.prefix_of("fd00:244::7".parse().unwrap()).unwrap();
    assert_eq!(prefix.to_string(), "fd00:244::/48");
    assert_eq!(network.prefix_of("fd00:245::".parse().unwrap()), None);
}

#[test]
fn encapsulations_and_what_they_accept() {
    use Encap::{Direct, Ipip, Vxlan};
    let with = |lines: &str| {
        let text = dual().replace("vni = 1\n", &format!("vni = 1\n{lines}\n"));
        load(OWN, &text).unwrap().cluster.network
    };
    for (lines, mode, accept) in [
        ("encap = \"vxlan\"", Mode::One(Vxlan), vec![Vxlan]),
        ("encap = \"ipip\"", Mode::One(Ipip), vec![Ipip]),
        ("encap = \"direct\"", Mode::One(Direct), vec![Direct]),
        (
            "encap = \"cross-subnet\"",
            Mode::CrossSubnet(Vxlan),
            vec![Vxlan, Direct],
        ),
        (
            "encap = \"cross-subnet\"\ntunnel = \"ipip\"",
            Mode::CrossSubnet(Ipip),
            vec![Ipip, Direct],
        ),
        (
            "encap = \"ipip\"\naccept = [\"vxlan\", \"ipip\"]",
            Mode::One(Ipip),
            vec![Ipip, Vxlan],
        ),
    ] {
        let network = with(lines);
        assert_eq!((network.mode, network.accept), (mode, accept), "{lines}");
    }
    let network = with(
        "proxy = \"network\"\nflood = true\nclamp_mss = true\nudp_checksum = false\nouter_df = false\ngateway6 = \"fe80::53\"",
    );
    assert_eq!(network.proxy, Proxy::Network);
    assert!(network.flood && network.clamp_mss);
    assert!(!network.udp_checksum && !network.outer_df);
    assert_eq!(network.gateway6.to_string(), "fe80::53");
}

#[test]
fn without_vxlan_its_numbers_are_not_needed() {
    let bare = good().replace("vni = 1\nudp_port = 8472\n", "");
    let error = load(OWN, &bare).unwrap_err().to_string();
    for part in [
        "network: vni is missing; VXLAN needs it",
        "network: udp_port is missing",
    ] {
        assert!(error.contains(part), "{part} missing in: {error}");
    }
    for encap in ["direct", "ipip"] {
        let text = bare.replace("[network]\n", &format!("[network]\nencap = \"{encap}\"\n"));
        let network = load(OWN, &text).unwrap().cluster.network;
        assert_eq!((network.vni, network.udp_port), (1, 4789), "{encap}");
    }
    let text = bare.replace(
        "[network]\n",
        "[network]\nencap = \"ipip\"\naccept = [\"vxlan\"]\n",
    );
    assert!(load(OWN, &text).is_err());
}

#[test]
fn wrong_values_of_dual_stack_files_are_named() {
    for (from, to, part) in [
        (
            "\"fd00:244::/48\"",
            "\"fd00:244::1/48\"",
            "write fd00:244::/48",
        ),
        (
            "\"fd00:244::/48\"",
            "\"::/0\"",
            "overlaps ::/8, which is not for hosts",
        ),
        ("\"fd00:244::/48\"", "\"fe80::/10\"", "overlaps fe80::/10"),
        (
            "\"fd00:244::/48\"",
            "\"10.0.0.0/8\"",
            "prefix 10.244.0.0/16 overlaps prefix 10.0.0.0/8; remove one",
        ),
        (
            "[\"fd00:244::/48\", \"10.244.0.0/16\"]",
            "[]",
            "prefix is an empty list",
        ),
        (
            "[\"fd00:244:0:1::/64\", \"10.244.1.0/24\"]",
            "[]",
            "pods is an empty list",
        ),
        (
            "[\"fd00:244:0:1::/64\", \"10.244.1.0/24\"]",
            "[\"10.244.4.0/24\", \"10.244.1.0/24\"]",
            "pods has 10.244.1.0/24 and 10.244.4.0/24; a node has one block of each IP version",
        ),
        (
            "\"fd00:244:0:1::/64\"",
            "\"fd00:245:0:1::/64\"",
            "outside of the network's prefix fd00:244::/48",
        ),
        (
            "\"fd00:244:0:1::/64\"",
            "\"fd00:244:0:1::/127\"",
            "must be /126 or larger",
        ),
        (
            "\"10.244.3.0/24\"",
            "\"fd00:244:0:1:8::/80\"",
            "pods fd00:244:0:1:8::/80 overlaps fd00:244:0:1::/64 of node \"n1\"",
        ),
        (
            "fd77::3",
            "192.168.77.3",
            "underlay 192.168.77.3 is of another IP version than fd77::1 of node \"n1\"",
        ),
        ("fd77::3", "fe80::3", "underlay fe80::3 is link-local"),
        (
            "fd77::3",
            "fd00:244::3",
            "lies inside the pods' prefix fd00:244::/48",
        ),
        ("fd77::3", "ff02::1", "multicast"),
        ("fd77::3", "::ffff:192.168.77.3", "write it as IPv4"),
        (
            "vni = 1",
            "vni = 1\ngateway6 = \"10.0.0.1\"",
            "gateway6 10.0.0.1 is IPv4",
        ),
        (
            "vni = 1",
            "vni = 1\ngateway6 = \"fd00:244::1\"",
            "gateway6 fd00:244::1 lies inside the pods' prefix",
        ),
        (
            "vni = 1",
            "vni = 1\ntunnel = \"ipip\"",
            "tunnel is for encap = \"cross-subnet\" only",
        ),
    ] {
        assert!(dual().contains(from), "{from}");
        let error = load(OWN, &dual().replacen(from, to, 1)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(part), "{to}: {part} missing in: {error}");
    }
    for line in [
        "encap = \"gre\"",
        "tunnel = \"direct\"",
        "proxy = \"all\"",
        "accept = \"ipip\"",
    ] {
        let text = dual().replace("vni = 1", &format!("vni = 1\n{line}"));
        let error = load(OWN, &text).unwrap_err().to_string();
        assert!(error.contains("line 5"), "{line}: {error}");
    }
    let v4 = dual().replace("vni = 1", "vni = 1\nencap = \"direct\"");
    assert!(load(OWN, &v4).is_ok());
    let v4 = v4
        .replace("fd77::1", "192.168.77.1")
        .replace("fd77::3", "192.168.77.3");
    let error = load(OWN, &v4).unwrap_err().to_string();
    assert!(
        error.contains("cannot be routed to the IPv4 address 192.168.77.1"),
        "{error}"
    );
}

#[test]
fn relative_paths_start_at_the_file() {
    let own = format!(
        "{OWN}run_dir = \"run\"\nstate_dir = \"../state\"\nlog = \"culvert=debug,warn\"\n[host]\ndevice = \"pods0\"\n"
    );
    let config = load(&own, &good()).unwrap();
    let directory = config.cluster_path.parent().unwrap();
    assert_eq!(config.run_dir, directory.join("run"));
    assert_eq!(config.state_dir, directory.join("../state"));
    assert_eq!(config.device.as_deref(), Some("pods0"));
}

#[test]
fn unknown_keys_are_named_with_file_and_line() {
    let error = load(&format!("{OWN}runn_dir = \"/x\"\n"), &good())
        .unwrap_err()
        .to_string();
    for part in ["culvert.toml: ", "line 3", "runn_dir"] {
        assert!(error.contains(part), "{part} missing in: {error}");
    }
    let error = broken("vni = 1", "vni = 1\nmtu = 3");
    assert!(
        error.contains("cluster.toml: ") && error.contains("mtu"),
        "{error}"
    );
    assert!(load(&format!("{OWN}[host]\nname = \"x\"\n"), &good()).is_err());
}

#[test]
fn values_of_a_wrong_form_are_shown_with_their_line() {
    for (from, to) in [
        ("\"10.244.0.0/16\"", "\"10.244.0.0\""),
        ("\"192.168.77.1\"", "\"192.168.77\""),
        ("\"aa:bb:cc:dd:ee:ff\"", "\"aa:bb\""),
        ("vni = 1", "vni = \"1\""),
        ("vni = 1", "vni = 99999999999999999999"),
        ("name = \"pods\"\n", ""),
        ("[network]", "[network"),
    ] {
        let error = broken(from, to);
        assert!(
            error.contains("cluster.toml: ") && error.contains("line "),
            "{to}: {error}"
        );
    }
}

#[test]
fn wrong_values_are_named() {
    for (from, to, part) in [
        (
            "vni = 1",
            "vni = 0",
            "network: vni 0 is not from 1 to 16777215",
        ),
        ("vni = 1", "vni = 16777216", "vni 16777216"),
        ("vni = 1", "vni = -1", "vni -1"),
        ("8472", "65536", "udp_port 65536"),
        ("8472", "0", "udp_port 0"),
        ("10.244.0.0/16", "10.244.9.0/16", "write 10.244.0.0/16"),
        ("10.244.0.0/16", "0.0.0.0/0", "overlaps 0.0.0.0/8"),
        ("10.244.0.0/16", "224.0.0.0/4", "overlaps 224.0.0.0/3"),
        (
            "10.244.0.0/16",
            "fd00::/64",
            "pods 10.244.1.0/24 lies outside of the network, which has no prefix of its IP version",
        ),
        (
            "10.244.1.0/24",
            "10.244.1.1/24",
            "node \"n1\": pods 10.244.1.1/24 has bits behind",
        ),
        (
            "10.244.1.0/24",
            "10.245.1.0/24",
            "outside of the network's prefix 10.244.0.0/16",
        ),
        (
            "10.244.1.0/24",
            "10.0.0.0/8",
            "outside of the network's prefix",
        ),
        ("10.244.1.0/24", "10.244.1.0/31", "too small"),
        ("10.244.1.0/24", "fd00::/80", "no prefix of its IP version"),
        (
            "10.244.3.0/24",
            "10.244.1.128/25",
            "node \"n3\": pods 10.244.1.128/25 overlaps 10.244.1.0/24 of node \"n1\"",
        ),
        (
            "10.244.3.0/24",
            "10.244.0.0/16",
            "overlaps 10.244.1.0/24 of node \"n1\"",
        ),
        (
            "192.168.77.3",
            "192.168.77.1",
            "same underlay as node \"n1\" (number 1): 192.168.77.1",
        ),
        ("name = \"n3\"", "name = \"n1\"", "same name as node \"n1\""),
        (
            "aa:bb:cc:dd:ee:ff",
            "0a:63:c0:a8:4d:01",
            "same vtep_mac as node \"n1\"",
        ),
        (
            "aa:bb:cc:dd:ee:ff",
            "01:bb:cc:dd:ee:ff",
            "vtep_mac 01:bb:cc:dd:ee:ff is a multicast",
        ),
        (
            "192.168.77.1",
            "10.244.77.1",
            "lies inside the pods' prefix",
        ),
        ("192.168.77.1", "224.0.0.5", "multicast"),
        ("192.168.77.1", "0.0.0.0", "unspecified"),
        ("192.168.77.1", "127.0.0.1", "loopback"),
        ("192.168.77.1", "255.255.255.255", "broadcast"),
        ("192.168.77.1", "169.254.1.1", "gateway's address"),
        (
            "192.168.77.1",
            "fe80::1",
            "underlay fe80::1 is the gateway's",
        ),
        (
            "vni = 1",
            "vni = 1\ngateway = \"10.244.0.1\"",
            "network: gateway 10.244.0.1 lies inside",
        ),
        (
            "vni = 1",
            "vni = 1\ngateway = \"fe80::1\"",
            "gateway fe80::1 is IPv6; write it as gateway6",
        ),
        (
            "vni = 1",
            "vni = 1\ngateway_mac = \"ff:ff:ff:ff:ff:ff\"",
            "gateway_mac ff:ff:ff:ff:ff:ff is a multicast",
        ),
        (
            "name = \"pods\"",
            "name = \"\"",
            "network: name \"\" is empty",
        ),
        (
            "name = \"n3\"",
            "name = \"n 3\"",
            "node \"n 3\": name must have only",
        ),
    ] {
        let error = broken(from, to);
        assert!(error.contains(part), "{to}: {part} missing in: {error}");
        assert!(error.contains("cluster.toml: "), "{error}");
    }
}

#[test]
fn all_problems_of_a_file_come_together() {
    let cluster =
        good()
            .replacen("vni = 1", "vni = 0", 1)
            .replacen("192.168.77.3", "192.168.77.1", 1);
    let error = load(OWN, &cluster).unwrap_err();
    let ConfigError::Invalid { problems, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 2, "{error}");
    assert_eq!(error.to_string().lines().count(), 2);

    let own = format!(
        "{OWN}log = \"a=b=c\"\nrun_dir = \"/{}\"\n[host]\ndevice = \"a/b\"\n",
        "x".repeat(100)
    );
    let error = load(&own, &good()).unwrap_err();
    let ConfigError::Invalid { problems, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 3, "{error}");
}

#[test]
fn a_missing_own_node_lists_those_that_are_there() {
    let error = load(&OWN.replace("n1", "n9"), &good())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"n9\"") && error.contains("n1, n3"),
        "{error}"
    );
    assert!(
        load(OWN, NETWORK)
            .unwrap_err()
            .to_string()
            .contains("no [[node]]")
    );
}

#[test]
fn a_foreign_node_cannot_be_this_one() {
    let error = load(&OWN.replace("n1", "n3"), &good())
        .unwrap_err()
        .to_string();
    assert!(error.contains("foreign nodes only"), "{error}");
}

#[test]
fn device_names_keep_the_kernels_rules() {
    for device in ["", "1234567890123456", "a b", "tap%d", "lo", ".."] {
        let error = load(&format!("{OWN}[host]\ndevice = {device:?}\n"), &good()).unwrap_err();
        assert!(error.to_string().contains("host.device"), "{error}");
    }
}

#[test]
fn missing_files_are_named() {
    let error = Config::load(Path::new("/nonexistent/culvert.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("/nonexistent/culvert.toml: cannot be read"),
        "{error}"
    );
    let error = load(&OWN.replace("cluster.toml", "other.toml"), &good())
        .unwrap_err()
        .to_string();
    assert!(error.contains("other.toml: cannot be read"), "{error}");
}

#[test]
fn the_underlay_s_driver_is_chosen_by_itself_or_by_name() {
    let section = |text: &str| load(&[OWN, "[underlay]\n", text].concat(), &good());
    let plain = load(OWN, &good()).unwrap().underlay;
    assert_eq!(plain.driver, UnderlayDriver::Socket);
    assert_eq!(plain.device, "culvert-ul");
    for (text, driver) in [
        ("", UnderlayDriver::Socket),
        ("driver = \"auto\"\n", UnderlayDriver::Auto),
        ("driver = \"socket\"\n", UnderlayDriver::Socket),
        ("driver = \"tap\"\n", UnderlayDriver::Tap),
    ] {
        assert_eq!(section(text).unwrap().underlay.driver, driver, "{text}");
    }
    let named = section("device = \"ul0\"\n").unwrap().underlay;
    assert_eq!(named.device, "ul0");
    for (text, said) in [
        ("driver = \"xdp\"\n", "xdp"),
        ("drive = \"tap\"\n", "drive"),
        ("device = \"lo\"\n", "loopback"),
        ("device = \"a/b\"\n", "underlay.device \"a/b\""),
        ("device = \"culvert0\"\n", "the host's device too"),
    ] {
        let error = section(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
