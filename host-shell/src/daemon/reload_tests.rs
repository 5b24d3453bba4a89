//! Tests of what a changed configuration means.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::daemon::cluster::tests::link;
use crate::daemon::site::PeerIds;

const NETWORK: &str = "[network]\nname = \"pods\"\nprefix = \"10.244.0.0/16\"\nvni = 1\n\
                       udp_port = 8472\n";

fn node(name: &str, underlay: &str, pods: &str) -> String {
    format!("[[node]]\nname = \"{name}\"\nunderlay = \"{underlay}\"\npods = \"{pods}\"\n")
}

/// Node n1 of a cluster with this file.
fn load(dir: &TempDir, cluster: &str) -> Config {
    fs::write(dir.path().join("cluster.toml"), cluster).unwrap();
    let own = "node = \"n1\"\ncluster = \"cluster.toml\"\n";
    let path = dir.path().join("culvert.toml");
    fs::write(&path, own).unwrap();
    Config::load(&path).unwrap()
}

fn site(config: Config, mtu: u32, before: &PeerIds) -> Site {
    Site::new(config, link(24, mtu), before).unwrap()
}

fn cluster() -> String {
    NETWORK.to_owned()
        + &node("n1", "192.168.77.1", "10.244.1.0/24")
        + &node("n2", "192.168.77.2", "10.244.2.0/24")
        + &node("n3", "192.168.77.3", "10.244.3.0/24")
}

#[test]
fn what_pods_sockets_and_devices_were_made_by_takes_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now = load(&dir, &cluster());
    for (from, to, named) in [
        ("192.168.77.1", "192.168.77.9", "underlay of this node n1"),
        ("10.244.1.0/24", "10.244.9.0/24", "pods of this node n1"),
        ("\"pods\"", "\"others\"", "name is others and was pods"),
        ("10.244.0.0/16", "10.244.0.0/15", "prefix"),
        ("vni = 1", "vni = 2", "vni is 2 and was 1"),
        ("8472", "4789", "udp_port is 4789 and was 8472"),
        (
            "vni = 1",
            "vni = 1\ngateway = \"169.254.7.7\"",
            "169.254.7.7",
        ),
        (
            "vni = 1",
            "vni = 1\ngateway_mac = \"02:00:00:00:00:01\"",
            "02:00:00:00:00:01",
        ),
        ("vni = 1", "vni = 1\nproxy = \"network\"", "proxy"),
        (
            "vni = 1",
            "vni = 1\nudp_checksum = false",
            "udp_checksum is false",
        ),
        ("vni = 1", "vni = 1\nouter_df = false", "outer_df is false"),
        ("vni = 1", "vni = 1\nencap = \"ipip\"", "encap and accept"),
        (
            "vni = 1",
            "vni = 1\naccept = [\"ipip\"]",
            "encap and accept",
        ),
    ] {
        let text = cluster();
        assert!(text.contains(from));
        let new = load(&dir, &text.replacen(from, to, 1));
        let found = fixed(&now, &new);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
        assert!(found[0].contains(named), "{found:?}");
        assert!(
            found[0].contains("cluster.toml") && found[0].contains("restart"),
            "{found:?}"
        );
    }
    let own = dir.path().join("culvert.toml");
    let text = fs::read_to_string(&own).unwrap();
    for line in [
        "log = \"debug\"",
        "run_dir = \"/run/other\"",
        "[host]\ndevice = \"other0\"",
    ] {
        fs::write(&own, format!("{text}{line}\n")).unwrap();
        fs::write(dir.path().join("cluster.toml"), cluster()).unwrap();
        let found = fixed(&now, &Config::load(&own).unwrap());
        assert!(
            found.len() == 1 && found[0].contains("culvert.toml"),
            "{line}: {found:?}"
        );
    }
}

#[test]
fn all_else_can_change_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let now = load(&dir, &cluster());
    let text = cluster().replace("10.244.2.0/24", "10.244.7.0/24")
        + &node("n4", "192.168.77.4", "10.244.4.0/24");
    let text = text.replace(&node("n3", "192.168.77.3", "10.244.3.0/24"), "");
    let options = "vni = 1\nencap = \"cross-subnet\"\nflood = true\nclamp_mss = true";
    let new = load(&dir, &text.replacen("vni = 1", options, 1));
    assert_eq!(fixed(&now, &new), [""; 0]);
    let before = site(now, 1500, &PeerIds::default());
    let after = site(new, 1400, &before.peers);
    let told = changes(&before, &after);
    let has = |words: &str| told.iter().any(|line| line.contains(words));
    for words in [
        "node n2: 192.168.77.2 pods 10.244.2.0/24",
        "→ 192.168.77.2 pods 10.244.7.0/24",
        "node n3 is gone",
        "node n4 is new: 192.168.77.4 pods 10.244.4.0/24",
        "encap: vxlan → cross-subnet, vxlan",
        "accept: vxlan → vxlan, direct",
        "flood: false → true",
        "clamp_mss: false → true",
        "underlay: eth0 mtu 1500 prefix /24 → eth0 mtu 1400",
        "mtu of new pods: 1450 → 1350",
    ] {
        assert!(has(words), "no {words} in {told:#?}");
    }
    assert_eq!(told.len(), 9, "{told:#?}");
    assert_eq!(changes(&before, &before), [""; 0]);
}

#[test]
fn nodes_keep_their_ids_and_nobody_gets_one_that_was_just_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let ids = |site: &Site| -> Vec<(String, u16)> {
        let nodes = site.nodes().into_iter();
        nodes.map(|(id, node)| (node.name.clone(), id)).collect()
    };
    let named = |all: &[(&str, u16)]| -> Vec<(String, u16)> {
        let all = all.iter();
        all.map(|(name, id)| ((*name).to_owned(), *id)).collect()
    };
    let first = site(load(&dir, &cluster()), 1500, &PeerIds::default());
    assert_eq!(ids(&first), named(&[("n2", 0), ("n3", 1)]));
    // n2 goes, n4 comes, and stands before all others in the file.
    let text = NETWORK.to_owned()
        + &node("n4", "192.168.77.4", "10.244.4.0/24")
        + &node("n3", "192.168.77.3", "10.244.3.0/24")
        + &node("n1", "192.168.77.1", "10.244.1.0/24");
    let second = site(load(&dir, &text), 1500, &first.peers);
    assert_eq!(ids(&second), named(&[("n3", 1), ("n4", 2)]));
    // Another address makes it another peer.
    let moved = text.replace("192.168.77.4", "192.168.77.5");
    let third = site(load(&dir, &moved), 1500, &second.peers);
    assert_eq!(ids(&third), named(&[("n4", 0), ("n3", 1)]));
}
