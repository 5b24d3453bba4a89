//! Tests of what the configuration becomes: the network, and the way to each node.

use std::collections::BTreeMap;

use culvert_core::channel::{Encap, Proxy};

use super::*;
use crate::daemon::site::PeerIds;
use crate::daemon::underlay::{self, pod_mtu};
use crate::netlink::{Link, OperState, UnderlayLink};

/// n1, this node; n2 in its subnet; n3 in another. All have both IP versions.
fn config(network: &str, underlay: [&str; 3]) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = format!(
        "[network]\nname = \"pods\"\nprefix = [\"10.244.0.0/16\", \"fd00:244::/48\"]\n\
         vni = 1\nudp_port = 8472\n{network}\n"
    );
    for (number, address) in (1..).zip(underlay) {
        cluster += &format!(
            "[[node]]\nname = \"n{number}\"\nunderlay = \"{address}\"\n\
             pods = [\"10.244.{number}.0/24\", \"fd00:244:0:{number}::/64\"]\n"
        );
    }
    std::fs::write(dir.path().join("cluster.toml"), cluster).unwrap();
    let own = "node = \"n1\"\ncluster = \"cluster.toml\"\n";
    std::fs::write(dir.path().join("culvert.toml"), own).unwrap();
    Config::load(&dir.path().join("culvert.toml")).unwrap()
}

const V4: [&str; 3] = ["192.168.77.1", "192.168.77.2", "192.168.78.3"];
const V6: [&str; 3] = ["fd77::1", "fd77::2", "fd78::3"];

/// The underlay's device.
pub(in crate::daemon) fn link(prefix_length: u8, mtu: u32) -> UnderlayLink {
    UnderlayLink {
        link: Link {
            index: 2,
            name: "eth0".to_owned(),
            mac: None,
            mtu,
            up: true,
            kind: None,
            oper_state: OperState::Up,
            alias: None,
        },
        prefix_length,
    }
}

fn site(config: &Config, underlay: &UnderlayLink) -> Site {
    Site::new(config.clone(), underlay.clone(), &PeerIds::default()).unwrap()
}

/// Prefix → peer and encapsulation, of all routes to other nodes.
fn ways(config: &Config, underlay: &UnderlayLink) -> BTreeMap<String, (u16, Encap)> {
    let operations = operations(&site(config, underlay)).unwrap();
    let routes = operations.iter().filter_map(|operation| {
        let Operation::UpsertRoute(route) = operation else {
            return None;
        };
        let NextHop::Peer { peer, encap } = route.next_hop else {
            return None;
        };
        let prefix = route.prefix;
        Some((
            format!("{}/{}", prefix.address(), prefix.length()),
            (peer.0, encap),
        ))
    });
    routes.collect()
}

#[test]
fn the_network_is_as_the_file_says() {
    let config = config(
        "proxy = \"network\"\nflood = true\nudp_checksum = false\nouter_df = false\naccept = [\"ipip\"]",
        V4,
    );
    let all = operations(&site(&config, &link(24, 1500))).unwrap();
    let network = all.iter().find_map(|operation| match operation {
        Operation::UpsertNetwork(network) => Some(network.clone()),
        _ => None,
    });
    let network = network.unwrap();
    let text = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&network.gateways), ["169.254.1.1", "fe80::1"]);
    assert_eq!(
        text(&network.node_addresses),
        ["10.244.1.0", "fd00:244:0:1::"]
    );
    assert_eq!(network.prefixes.len(), 2);
    assert_eq!(network.proxy, Proxy::Network);
    let options = [
        NetworkOptions::FLOOD,
        NetworkOptions::ZERO_UDP_CHECKSUM,
        NetworkOptions::OUTER_MAY_FRAGMENT,
    ];
    let options = options.into_iter().reduce(NetworkOptions::with).unwrap();
    assert_eq!(network.options, options);
    let peers = all.iter().filter_map(|operation| match operation {
        Operation::UpsertPeer(peer) => Some(peer.accepts),
        _ => None,
    });
    let accepted = EncapSet::of(&[Encap::Vxlan, Encap::Ipip]);
    assert_eq!(peers.collect::<Vec<_>>(), [accepted; 2]);
    let options = underlay::options(&config);
    assert_eq!((options.udp_port, options.ipip), (Some(8472), true));
    assert!(options.zero_udp_checksum && options.may_fragment);
}

#[test]
fn a_tunnel_is_for_other_subnets_and_where_no_route_can_be() {
    use Encap::{Direct, Ipip, Vxlan};
    let mode = "encap = \"cross-subnet\"";
    let v4 = ways(&config(mode, V4), &link(24, 1500));
    for (prefix, way) in [
        ("10.244.2.0/24", (0, Direct)),
        ("192.168.77.2/32", (0, Direct)),
        // There is no IPv6 route over an IPv4 address.
        ("fd00:244:0:2::/64", (0, Vxlan)),
        ("10.244.3.0/24", (1, Vxlan)),
        ("192.168.78.3/32", (1, Vxlan)),
        ("fd00:244:0:3::/64", (1, Vxlan)),
    ] {
        assert_eq!(v4[prefix], way, "{prefix}");
    }
    assert_eq!(v4.len(), 6);
    let v6 = ways(
        &config(&format!("{mode}\ntunnel = \"ipip\""), V6),
        &link(64, 1500),
    );
    for (prefix, way) in [
        ("10.244.2.0/24", (0, Direct)),
        ("fd00:244:0:2::/64", (0, Direct)),
        ("fd77::2/128", (0, Direct)),
        ("fd00:244:0:3::/64", (1, Ipip)),
    ] {
        assert_eq!(v6[prefix], way, "{prefix}");
    }
    // An address alone on its link has no neighbors.
    let alone = ways(&config(mode, V4), &link(32, 1500));
    assert!(
        alone.values().all(|(_, encap)| *encap == Vxlan),
        "{alone:?}"
    );
    let direct = ways(&config("encap = \"direct\"", V6), &link(64, 1500));
    assert!(
        direct.values().all(|(_, encap)| *encap == Direct),
        "{direct:?}"
    );
}

#[test]
fn pods_have_what_the_largest_encapsulation_leaves() {
    for (network, underlay, taken) in [
        ("encap = \"vxlan\"", V4, 50),
        ("encap = \"vxlan\"", V6, 70),
        ("encap = \"ipip\"", V4, 20),
        ("encap = \"ipip\"", V6, 40),
        ("encap = \"direct\"", V6, 0),
        ("encap = \"cross-subnet\"", V6, 70),
        ("encap = \"cross-subnet\"\ntunnel = \"ipip\"", V4, 20),
    ] {
        let config = config(network, underlay);
        let mtu = |mtu| pod_mtu(&config, &link(24, mtu));
        assert_eq!(mtu(1500).unwrap(), 1500 - taken, "{network}");
        assert_eq!(mtu(65536).unwrap(), 65535 - taken);
        assert_eq!(mtu(1280 + taken).unwrap(), 1280);
        let least = (1280 + taken).to_string();
        let error = mtu(1279 + taken).unwrap_err().to_string();
        assert!(
            error.contains("IPv6 needs 1280") && error.contains(&least),
            "{error}"
        );
        let error = mtu(0).unwrap_err().to_string();
        assert!(error.contains("does not tell its MTU"), "{error}");
    }
}

#[test]
fn an_appliance_has_the_underlay_as_raw_ethernet() {
    let mut config = config("encap = \"cross-subnet\"", V4);
    let uplink = config::Uplink {
        port: 7,
        mac: Mac([2, 0x63, 0x76, 1, 0, 7]),
        addresses: vec!["192.168.77.1/24".parse().unwrap()],
        gateways: vec!["192.168.77.254".parse().unwrap()],
        mtu: 9000,
    };
    config.offload = Some(config::Offload {
        channel: config::ChannelAddress::Unix("/run/a".into()),
        uplink: uplink.clone(),
        host: None,
        devices: Vec::new(),
        nics: Vec::new(),
        management: None,
    });
    config.device = None;
    let link = underlay::of_uplink(&uplink, config.node.underlay);
    assert_eq!((link.link.mtu, link.prefix_length), (9000, 24));
    let site = site(&config, &link);
    let operations = operations(&site).unwrap();
    let ports: Vec<_> = operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::UpsertPort(port) => Some(port),
            _ => None,
        })
        .collect();
    let [port] = ports[..] else {
        panic!("{ports:?}")
    };
    assert_eq!((port.id, port.mtu), (PortId(7), 9000));
    assert_eq!(port.mac, uplink.mac.into());
    let PortKind::Wire(wire) = &port.kind else {
        panic!("{port:?}")
    };
    assert_eq!(wire.addresses[0].prefix_length, 24);
    assert_eq!(wire.gateways[0].to_string(), "192.168.77.254");
    // Its neighbors need no tunnel, and no route of this node's kernel.
    assert_eq!(ways(&config, &link)["10.244.2.0/24"].1, Encap::Direct);
    assert_eq!(ways(&config, &link)["10.244.3.0/24"].1, Encap::Vxlan);
    assert!(site.direct_routes().is_empty() && site.host_routes().is_empty());
    assert_eq!(site.pod_mtu, 8950);
}
