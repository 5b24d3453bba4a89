//! Netlink requests, each checked against what iproute2 sees.

use ipnet::IpNet;
use std::net::IpAddr;

use culvert_host::netlink::{
    Netlink, NetlinkError, OperState, PROTOCOL_CULVERT, Route, RouteScope, VxlanDevice,
};
use culvert_host::sys::netns::NetNs;
use culvert_host::sys::tap::{Tap, TapOptions};

use crate::lab::{Namespace, pair};

pub(crate) fn connect(namespace: &Namespace) -> Netlink {
    Netlink::connect(Some(namespace.ns())).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_connection_works_in_its_namespace_only() {
    let namespace = Namespace::new();
    let outside = NetNs::current().unwrap();
    let _tap = namespace
        .run(|| Tap::create("cvsonlythere", TapOptions::default()))
        .unwrap();
    let there = connect(&namespace).find_link("cvsonlythere").await.unwrap();
    assert!(there.is_some());
    let here = Netlink::connect(None)
        .unwrap()
        .find_link("cvsonlythere")
        .await
        .unwrap();
    assert_eq!(here, None);
    assert_eq!(NetNs::current().unwrap(), outside);
}

/// The kernel takes one dump at a time from a socket, and callers know nothing of
/// each other.
#[tokio::test]
async fn many_ask_for_all_addresses_links_and_routes_at_once() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    let asking = (0..32).map(|_| {
        let netlink = netlink.clone();
        tokio::spawn(async move {
            netlink.addresses(None).await.unwrap();
            netlink.links().await.unwrap();
            netlink.routes_of(PROTOCOL_CULVERT).await.unwrap();
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn a_deleted_address_is_gone_and_is_no_route_s_source() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    for (address, destination, left) in [
        ("10.9.0.1/32", "10.9.1.0/24", 0),
        ("fd09::1/128", "fd09:1::/64", 1),
    ] {
        let (address, destination) = (prefix(address), prefix(destination));
        netlink.add_address("u0", address).await.unwrap();
        let route = Route {
            source: Some(address.addr()),
            ..Route::on_link(destination, "u0")
        };
        netlink.add_route(&route).await.unwrap();
        netlink.delete_address("u0", address).await.unwrap();
        let addresses = netlink.addresses(Some("u0")).await.unwrap();
        assert!(addresses.iter().all(|e| e.address != address.addr()));
        let mut routes = netlink.routes("u0").await.unwrap();
        routes.retain(|route| route.destination == destination);
        assert_eq!(routes.len(), left, "{routes:?}");
        assert!(routes.iter().all(|route| route.source.is_none()));
        let again = netlink.delete_address("u0", address).await.unwrap_err();
        assert!(again.is_not_found(), "{again}");
    }
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    assert!(matches!(
        Netlink::connect(None),
        Err(NetlinkError::Connect { .. })
    ));
}

#[tokio::test]
async fn links_are_as_iproute2_sees_them() {
    let (a, _b) = pair();
    a.ip(&["link", "set", "u0", "alias", "the underlay"]);
    let netlink = connect(&a);
    let links = netlink.links().await.unwrap();
    assert_eq!(links.len(), 2);
    for link in links {
        let seen = a.link(&link.name);
        assert_eq!(seen["ifindex"], link.index);
        assert_eq!(seen["mtu"], link.mtu);
        let mac = link
            .mac
            .unwrap()
            .map(|octet| format!("{octet:02x}"))
            .join(":");
        assert_eq!(seen["address"], mac);
        assert_eq!(seen["linkinfo"]["info_kind"].as_str(), link.kind.as_deref());
        assert_eq!(seen["ifalias"].as_str(), link.alias.as_deref());
        assert!(link.up);
    }
    let link = netlink.link("u0").await.unwrap();
    assert_eq!(
        (link.oper_state, link.kind.as_deref()),
        (OperState::Up, Some("veth"))
    );
}

#[tokio::test]
async fn setters_do_what_they_say() {
    let namespace = Namespace::new();
    let _tap = namespace
        .run(|| Tap::create("t0", TapOptions::default()))
        .unwrap();
    let netlink = connect(&namespace);
    netlink.set_mac("t0", [2, 1, 2, 3, 4, 5]).await.unwrap();
    netlink.set_mtu("t0", 1450).await.unwrap();
    netlink.set_alias("t0", "culvert: pod web").await.unwrap();
    netlink.set_up("t0").await.unwrap();
    let seen = namespace.link("t0");
    assert_eq!(seen["address"], "02:01:02:03:04:05");
    assert_eq!(seen["mtu"], 1450);
    assert_eq!(seen["ifalias"], "culvert: pod web");
    assert!(
        seen["flags"].as_array().unwrap().contains(&"UP".into()),
        "{seen}"
    );
    let link = netlink.link("t0").await.unwrap();
    assert_eq!(
        (link.up, link.mtu, link.mac),
        (true, 1450, Some([2, 1, 2, 3, 4, 5]))
    );
    assert_eq!(link.kind.as_deref(), Some("tun"));

    netlink.rename_link("t0", "eth0").await.unwrap();
    assert!(namespace.link("t0").is_null());
    assert_eq!(namespace.link("eth0")["ifindex"], link.index);
    netlink.delete_link("eth0").await.unwrap();
    assert!(namespace.link("eth0").is_null());
}

#[tokio::test]
async fn errors_name_the_device_and_the_deed() {
    let namespace = Namespace::new();
    let _tap = namespace
        .run(|| Tap::create("t0", TapOptions::default()))
        .unwrap();
    let netlink = connect(&namespace);
    let error = netlink.set_mtu("none", 1450).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot set the MTU of \"none\" to 1450: there is no interface \"none\""
    );
    assert!(error.is_not_found());
    for error in [
        netlink.set_up("none").await.unwrap_err(),
        netlink.rename_link("none", "x").await.unwrap_err(),
        netlink.delete_link("none").await.unwrap_err(),
        netlink
            .add_address("none", prefix("10.0.0.1/32"))
            .await
            .unwrap_err(),
        netlink.addresses(Some("none")).await.unwrap_err(),
        netlink.routes("none").await.unwrap_err(),
        netlink
            .delete_route(&Route::on_link(prefix("10.0.0.0/8"), "none"))
            .await
            .unwrap_err(),
    ] {
        assert!(
            matches!(&error, NetlinkError::NoSuchLink { link, .. } if link == "none"),
            "{error}"
        );
    }
    let error = netlink.set_mtu("t0", 7).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot set the MTU of \"t0\" to 7: Invalid"),
        "{error}"
    );
    let error = netlink.rename_link("t0", "lo").await.unwrap_err();
    assert!(error.is_exists(), "{error}");
    let error = netlink.set_mac("t0", [1, 0, 0, 0, 0, 0]).await.unwrap_err();
    assert!(
        error.to_string().contains("of \"t0\" to 01:00:00:00:00:00"),
        "{error}"
    );
    assert!(netlink.set_alias("t0", &"x".repeat(300)).await.is_err());
    assert!(netlink.link(&"x".repeat(300)).await.is_err());
    assert!(netlink.delete_link("lo").await.is_err());
    assert!(
        netlink.link("lo").await.is_ok(),
        "the connection still works"
    );
}

#[tokio::test]
async fn addresses_work_at_once() {
    let namespace = Namespace::new();
    let _tap = namespace
        .run(|| Tap::create("t0", TapOptions::default()))
        .unwrap();
    let netlink = connect(&namespace);
    netlink.set_up("t0").await.unwrap();
    netlink
        .add_address("t0", prefix("10.4.0.1/32"))
        .await
        .unwrap();
    netlink
        .add_address("t0", prefix("fd04::1/128"))
        .await
        .unwrap();
    let error = netlink
        .add_address("t0", prefix("10.4.0.1/32"))
        .await
        .unwrap_err();
    assert!(error.is_exists(), "{error}");
    // No duplicate address detection: it can be bound right away.
    namespace
        .run(|| std::net::UdpSocket::bind("[fd04::1]:0"))
        .unwrap();

    let seen = namespace.json(&["addr", "show", "dev", "t0"]);
    let seen: Vec<(String, u64)> = seen[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["local"].as_str().unwrap().to_owned(),
                entry["prefixlen"].as_u64().unwrap(),
            )
        })
        .collect();
    let listed: Vec<(String, u64)> = netlink
        .addresses(Some("t0"))
        .await
        .unwrap()
        .iter()
        .map(|entry| (entry.address.to_string(), u64::from(entry.prefix_length)))
        .collect();
    assert_eq!(listed, seen);
    assert!(listed.contains(&("10.4.0.1".to_owned(), 32)), "{listed:?}");
    assert!(listed.contains(&("fd04::1".to_owned(), 128)), "{listed:?}");
}

#[tokio::test]
async fn the_underlay_device_is_found_by_its_address() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    for (address, length) in [("10.77.0.1", 24), ("fd77::1", 64)] {
        let found = netlink.link_of_address(ip(address)).await.unwrap().unwrap();
        assert_eq!(
            (found.link.name.as_str(), found.prefix_length),
            ("u0", length)
        );
        assert_eq!((found.link.mtu, found.link.up), (1500, true));
        assert_eq!(a.link("u0")["ifindex"], found.link.index);
    }
    assert_eq!(
        netlink.link_of_address(ip("10.77.0.2")).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn routes_are_added_replaced_listed_and_deleted() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    let on_link = Route {
        source: Some(ip("10.77.0.1")),
        ..Route::on_link(prefix("10.4.0.0/16"), "u0")
    };
    let via = Route::via(prefix("10.5.0.0/24"), ip("10.77.0.2"), "u0");
    let onlink = Route {
        onlink: true,
        ..Route::via(prefix("10.6.0.0/24"), ip("192.0.2.1"), "u0")
    };
    let v6 = Route::via(prefix("fd05::/64"), ip("fd77::2"), "u0");
    let v6_on_link = Route::on_link(prefix("fd06::/64"), "u0");
    let v4_over_v6 = Route::via(prefix("10.8.0.0/24"), ip("fd77::2"), "u0");
    let v6_onlink = Route {
        onlink: true,
        source: Some(ip("fd77::1")),
        ..Route::via(prefix("fd08::/48"), ip("fe80::1"), "u0")
    };
    let defaults = [
        Route::via(prefix("0.0.0.0/0"), ip("10.77.0.2"), "u0"),
        Route::via(prefix("::/0"), ip("fd77::2"), "u0"),
    ];
    let [default, default6] = defaults;
    let all = [
        on_link, via, onlink, v6, v6_on_link, v4_over_v6, v6_onlink, default, default6,
    ];
    for route in &all {
        netlink.add_route(route).await.unwrap();
        assert!(
            netlink.add_route(route).await.unwrap_err().is_exists(),
            "{route}"
        );
        netlink.replace_route(route).await.unwrap();
    }
    let listed = netlink.routes("u0").await.unwrap();
    for route in &all {
        assert_eq!(
            listed.iter().filter(|other| *other == route).count(),
            1,
            "{route}: {listed:?}"
        );
    }
    let show = |destination: &str| a.json(&["route", "show", destination])[0].clone();
    let seen = show("10.4.0.0/16");
    assert_eq!(
        (&seen["scope"], &seen["prefsrc"]),
        (&"link".into(), &"10.77.0.1".into())
    );
    assert_eq!(show("10.5.0.0/24")["gateway"], "10.77.0.2");
    assert_eq!(show("10.5.0.0/24")["protocol"], "static");
    assert_eq!(show("10.6.0.0/24")["flags"][0], "onlink");
    assert_eq!(show("10.8.0.0/24")["via"]["host"], "fd77::2");
    let seen = a.json(&["-6", "route", "show", "fd08::/48"])[0].clone();
    assert_eq!(
        (&seen["gateway"], &seen["flags"][0]),
        (&"fe80::1".into(), &"onlink".into())
    );
    for route in &all {
        netlink.delete_route(route).await.unwrap();
        assert!(
            netlink
                .delete_route(route)
                .await
                .unwrap_err()
                .is_not_found(),
            "{route}"
        );
    }
    assert!(show("10.4.0.0/16").is_null() && show("10.5.0.0/24").is_null());
    let left = netlink.routes("u0").await.unwrap();
    assert!(
        left.iter()
            .any(|route| route.destination == prefix("10.77.0.0/24")),
        "{left:?}"
    );
    assert!(all.iter().all(|route| !left.contains(route)));
}

#[tokio::test]
async fn routes_are_told_by_who_made_them() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    assert_eq!(netlink.routes_of(PROTOCOL_CULVERT).await.unwrap(), []);
    let mut ours = Vec::new();
    for (destination, gateway, link) in [
        ("10.5.0.0/24", "10.77.0.2", "u0"),
        ("10.6.0.0/24", "127.0.0.2", "lo"),
        ("fd05::/64", "fd77::2", "u0"),
    ] {
        let route = Route {
            protocol: PROTOCOL_CULVERT,
            ..Route::via(prefix(destination), ip(gateway), link)
        };
        netlink.add_route(&route).await.unwrap();
        ours.push(route);
    }
    let others = Route::via(prefix("10.7.0.0/24"), ip("10.77.0.2"), "u0");
    netlink.add_route(&others).await.unwrap();
    assert_eq!(netlink.routes_of(PROTOCOL_CULVERT).await.unwrap(), ours);
    let seen = a.json(&["route", "show", "10.5.0.0/24"])[0].clone();
    assert_eq!(seen["protocol"], PROTOCOL_CULVERT.to_string(), "{seen}");
    for route in &ours {
        netlink.delete_route(route).await.unwrap();
    }
    assert_eq!(netlink.routes_of(PROTOCOL_CULVERT).await.unwrap(), []);
}

#[tokio::test]
async fn a_next_hop_behind_a_router_is_told_from_other_mistakes() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    for (destination, gateway) in [("10.5.0.0/24", "10.78.0.2"), ("fd05::/64", "fd78::2")] {
        let route = Route::via(prefix(destination), ip(gateway), "u0");
        let error = netlink.add_route(&route).await.unwrap_err();
        assert!(error.is_unreachable(), "{error}");
    }
    let wrong = Route::on_link(prefix("10.5.0.1/24"), "u0");
    assert!(
        !netlink
            .add_route(&wrong)
            .await
            .unwrap_err()
            .is_unreachable()
    );
}

#[tokio::test]
async fn a_replaced_route_has_the_new_next_hop_and_impossible_ones_are_refused() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    let route = |gateway: &str| Route::via(prefix("10.5.0.0/24"), ip(gateway), "u0");
    netlink.replace_route(&route("10.77.0.2")).await.unwrap();
    netlink.replace_route(&route("10.77.0.3")).await.unwrap();
    let seen = a.json(&["route", "show", "10.5.0.0/24"]);
    assert_eq!(
        (seen.as_array().unwrap().len(), &seen[0]["gateway"]),
        (1, &"10.77.0.3".into())
    );

    let error = netlink.add_route(&route("192.0.2.1")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot add the route 10.5.0.0/24 via 192.0.2.1 dev u0: "),
        "{error}"
    );
    for route in [
        Route::on_link(prefix("10.5.0.1/24"), "u0"),
        Route::via(prefix("fd05::/64"), ip("10.77.0.2"), "u0"),
        Route {
            source: Some(ip("fd77::1")),
            ..Route::on_link(prefix("10.7.0.0/24"), "u0")
        },
        Route {
            scope: RouteScope::Other,
            ..Route::on_link(prefix("10.7.0.0/24"), "u0")
        },
    ] {
        assert!(netlink.add_route(&route).await.is_err(), "{route:?}");
    }
}

#[tokio::test]
async fn vxlan_devices_are_listed_with_vni_and_port() {
    let (a, _b) = pair();
    a.ip(&[
        "link", "add", "vx1", "type", "vxlan", "id", "1", "dev", "u0", "dstport", "8472",
    ]);
    a.ip(&[
        "link", "add", "vx2", "type", "vxlan", "id", "4096", "dev", "u0", "dstport", "4789",
    ]);
    a.ip(&["link", "set", "vx2", "up"]);
    let mut devices = connect(&a).vxlan_devices().await.unwrap();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    let device = |name: &str, vni, port, up| VxlanDevice {
        name: name.to_owned(),
        vni,
        port,
        up,
    };
    assert_eq!(
        devices,
        [
            device("vx1", 1, 8472, false),
            device("vx2", 4096, 4789, true)
        ]
    );
}

#[tokio::test]
async fn many_requests_at_once_get_their_own_answers() {
    let namespace = Namespace::new();
    let netlink = connect(&namespace);
    let taps: Vec<Tap> = namespace.run(|| {
        (0..20)
            .map(|n| Tap::create(&format!("t{n}"), TapOptions::default()).unwrap())
            .collect()
    });
    let tasks: Vec<_> = (0..20u32)
        .map(|n| {
            let netlink = netlink.clone();
            tokio::spawn(async move {
                let name = format!("t{n}");
                netlink.set_mtu(&name, 1300 + n).await.unwrap();
                netlink.set_up(&name).await.unwrap();
                (netlink.link(&name).await.unwrap().mtu, n)
            })
        })
        .collect();
    for task in tasks {
        let (mtu, n) = task.await.unwrap();
        assert_eq!(mtu, 1300 + n);
    }
    drop(taps);
}

#[tokio::test]
async fn the_connection_and_its_namespace_end_with_the_last_handle() {
    let namespace = Namespace::new();
    let netlink = connect(&namespace);
    let metrics = tokio::runtime::Handle::current().metrics();
    netlink.clone().links().await.unwrap();
    assert_eq!(metrics.num_alive_tasks(), 1);
    drop(netlink);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test]
async fn every_request_can_be_spawned() {
    fn spawnable<T: Send>(_: &T) {}
    let namespace = Namespace::new();
    let netlink = connect(&namespace);
    let route = Route::on_link(prefix("10.0.0.0/8"), "lo");
    spawnable(&netlink.links());
    spawnable(&netlink.link_of_address(ip("127.0.0.1")));
    spawnable(&netlink.rename_link("lo", "lo"));
    spawnable(&netlink.add_address("lo", prefix("10.0.0.1/32")));
    spawnable(&netlink.add_route(&route));
    spawnable(&netlink.delete_route(&route));
    spawnable(&netlink.routes("lo"));
    let error = std::io::Error::from_raw_os_error(libc::EADDRINUSE);
    let address = "127.0.0.1:1".parse().unwrap();
    spawnable(&culvert_host::whois::explain_bind_error(
        Some(namespace.ns()),
        address,
        &error,
    ));
}
