//! Tests of both files: what is accepted, and what each mistake is told.

use super::*;
use crate::mac::Mac;

const NETWORK: &str =
    "[network]\nname = \"pods\"\nprefix = \"10.244.0.0/16\"\nvni = 1\nudp_port = 8472\n";
const N1: &str = "[[node]]\nname = \"n1\"\nunderlay = \"192.168.77.1\"\npods = \"10.244.1.0/24\"\n";
const N3: &str = "[[node]]\nname = \"n3\"\nunderlay = \"192.168.77.3\"\npods = \"10.244.3.0/24\"\nvtep_mac = \"aa:bb:cc:dd:ee:ff\"\n";
const OWN: &str = "node = \"n1\"\ncluster = \"cluster.toml\"\n";

fn load(own: &str, cluster: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("culvert.toml"), own).unwrap();
    fs::write(dir.path().join("cluster.toml"), cluster).unwrap();
    Config::load(&dir.path().join("culvert.toml"))
}

fn good() -> String {
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
fn a_good_configuration_with_defaults() {
    let config = load(OWN, &good()).unwrap();
    assert_eq!(config.run_dir, Path::new("/run/culvert"));
    assert_eq!(config.state_dir, Path::new("/var/lib/culvert"));
    assert_eq!(
        (config.log.as_str(), config.device.as_str()),
        ("info", "culvert0")
    );
    assert_eq!(config.node.pods.to_string(), "10.244.1.0/24");
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
    assert_eq!(config.device, "pods0");
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
            "network: prefix fd00::/64 is IPv6, and the data path is IPv4 only so far",
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
        ("10.244.1.0/24", "fd00::/80", "data path is IPv4 only"),
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
        ("192.168.77.1", "fe80::1", "underlay fe80::1 is IPv6"),
        (
            "vni = 1",
            "vni = 1\ngateway = \"10.244.0.1\"",
            "network: gateway 10.244.0.1 lies inside",
        ),
        (
            "vni = 1",
            "vni = 1\ngateway = \"fe80::1\"",
            "gateway fe80::1 is IPv6",
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
