//! IPv6 on interfaces of culvert's, and kernel settings, in namespaces of every kind.

use std::net::IpAddr;

use culvert_host::mac::Mac;
use culvert_host::netlink::{Netlink, Route};
use culvert_host::sys::tap::{Tap, TapOptions};
use culvert_host::sysctl::{self, Setting};

use crate::lab::Namespace;

/// Every way in which a container's namespace switches IPv6 off.
#[tokio::test]
async fn ipv6_works_at_once_wherever_the_kernel_has_it() {
    for off in [
        "true",
        "echo 1 > conf/default/disable_ipv6",
        "echo 1 > conf/all/disable_ipv6",
        "echo 1 > conf/all/disable_ipv6; echo 1 > conf/default/disable_ipv6",
        "echo 2 > conf/default/accept_ra; echo 3 > conf/default/addr_gen_mode",
    ] {
        let namespace = Namespace::new();
        namespace.sh(&format!("cd /proc/sys/net/ipv6; {off}"));
        let tap = namespace
            .run(|| Tap::create("t0", TapOptions::default()))
            .unwrap();
        namespace.run(|| sysctl::prepare_ipv6("t0")).unwrap();
        let netlink = Netlink::connect(Some(namespace.ns())).unwrap();
        let mac = Mac([0x0a, 0x58, 10, 244, 1, 7]);
        netlink.set_mac("t0", mac.0).await.unwrap();
        netlink.set_up("t0").await.unwrap();
        for _ in 0..2 {
            netlink.add_link_local("t0", mac).await.unwrap();
        }
        netlink
            .add_address("t0", "fd04::1/128".parse().unwrap())
            .await
            .unwrap();
        let gateway = "fe80::1".parse::<IpAddr>().unwrap();
        let routes = [
            Route::on_link(gateway.into(), "t0"),
            Route::via("::/0".parse().unwrap(), gateway, "t0"),
        ];
        for route in &routes {
            netlink.add_route(route).await.unwrap();
        }
        let seen = namespace.json(&["-6", "addr", "show", "dev", "t0"]);
        let entries = seen[0]["addr_info"].as_array().unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|e| e["local"].as_str().unwrap())
            .collect();
        assert_eq!(found.len(), 2, "{off}: {seen}");
        let tentative = entries.iter().any(|entry| entry["tentative"] == true);
        assert!(!tentative, "{off}: {seen}");
        assert!(found.contains(&"fe80::858:aff:fef4:107"), "{off}: {seen}");
        // Bound and sent at once: nothing is tentative, and the way out is known.
        let question = namespace.run(|| {
            let socket = std::net::UdpSocket::bind("[fd04::1]:0").unwrap();
            socket.send_to(b"x", "[fd05::1]:53").unwrap();
            tap_frames(&tap)
        });
        assert!(question.contains(&135), "{off}: {question:?}");
        assert!(
            !question.contains(&133),
            "a router was asked for: {question:?}"
        );
    }
}

/// The types of the ICMPv6 messages that come out of a TAP within half a second.
fn tap_frames(tap: &Tap) -> Vec<u8> {
    let end = std::time::Instant::now() + std::time::Duration::from_millis(500);
    let (mut buffer, mut types) = ([0; 2048], Vec::new());
    while std::time::Instant::now() < end {
        match tap.read(&mut buffer) {
            // Behind the virtio-net header, Ethernet and IPv6; listener reports have an
            // option between.
            Ok(len) if len > 10 + 54 && buffer[10 + 12..10 + 14] == [0x86, 0xdd] => {
                let ip = &buffer[10 + 14..len];
                types.push(if ip[6] == 58 { ip[40] } else { ip[48] });
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
    types
}

#[test]
fn settings_that_cannot_be_are_explained() {
    let namespace = Namespace::new();
    let error = namespace.run(|| sysctl::prepare_ipv6("none")).unwrap_err();
    assert!(error.is_not_found());
    assert!(
        error
            .to_string()
            .starts_with("cannot read net.ipv6.conf.none.addr_gen_mode: "),
        "{error}"
    );
    assert!(error.to_string().contains("ipv6.disable=1"), "{error}");
    let forwarding = Setting::ipv4("lo", "forwarding");
    let before = namespace.run(|| forwarding.change("1")).unwrap();
    assert_eq!(before.as_deref(), Some("0"));
    assert_eq!(namespace.run(|| forwarding.change("1")).unwrap(), None);
    assert_eq!(namespace.run(|| forwarding.get()).unwrap(), "1");
    let outside = Setting::ipv4("lo", "forwarding").get();
    let error = namespace.run(|| forwarding.set("x")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot set to x net.ipv4.conf.lo"),
        "{error}"
    );
    drop(namespace);
    assert_eq!(forwarding.get().ok(), outside.ok());
}
