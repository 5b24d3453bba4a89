//! What joins a TAP to the underlay's device: filters, and next hops on it.

use culvert_host::netlink::{Filter, Hand, Word};

use crate::lab::pair;
use crate::netlink::connect;

#[tokio::test]
async fn filters_are_added_read_and_deleted_and_others_stay() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    let link = netlink.link("u0").await.unwrap();
    // Without a qdisc there is no filter.
    assert_eq!(netlink.ingress_filters(&link).await.unwrap(), []);
    assert!(!netlink.has_clsact(&link).await.unwrap());
    assert!(netlink.add_clsact(&link).await.unwrap());
    assert!(!netlink.add_clsact(&link).await.unwrap());
    a.sh("tc filter add dev u0 ingress pref 7 protocol ip u32 match ip src 1.2.3.4 flowid 1:1");
    a.sh("tc filter add dev u0 egress pref 8 protocol ip u32 match ip src 1.2.3.4 flowid 1:1");
    let filter = |priority, hand| Filter {
        priority,
        ethertype: 0x0800,
        words: vec![
            Word {
                at: 8,
                mask: 0x00ff_0000,
                value: 17 << 16,
            },
            Word {
                at: 20,
                mask: 0xffff,
                value: 8472,
            },
        ],
        hand,
        target: link.index,
    };
    let all = Filter {
        priority: 102,
        ethertype: Filter::ALL,
        words: Vec::new(),
        hand: Hand::Over,
        target: link.index,
    };
    let wanted = [filter(100, Hand::Over), filter(101, Hand::Copy), all];
    for filter in &wanted {
        netlink.add_filter(&link, filter).await.unwrap();
    }
    let shown = a.run(|| {
        let tc = std::process::Command::new("tc")
            .args("filter show dev u0 ingress".split(' '))
            .output();
        String::from_utf8(tc.unwrap().stdout).unwrap()
    });
    for text in [
        "match 00110000/00ff0000 at 8",
        "match 00002118/0000ffff at 20",
        "(Egress Redirect to device u0) stolen",
        "(Egress Mirror to device u0) continue",
        "protocol all pref 102",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let present = netlink.ingress_filters(&link).await.unwrap();
    let read: Vec<_> = present.iter().filter_map(|p| p.filter.clone()).collect();
    for filter in &wanted {
        assert!(read.contains(filter), "{filter:?}: {present:?}");
        let place = (filter.priority, filter.ethertype);
        netlink.delete_filters(&link, place).await.unwrap();
        let gone = netlink.delete_filters(&link, place).await.unwrap_err();
        assert!(gone.is_not_found(), "{gone}");
    }
    let present = netlink.ingress_filters(&link).await.unwrap();
    let [other] = &present[..] else {
        panic!("{present:?}");
    };
    assert_eq!((other.priority, other.kind.as_str()), (7, "u32"));
    assert_eq!(other.filter, None);
    assert_eq!(netlink.egress_filters(&link).await.unwrap().len(), 1);
    netlink.delete_clsact(&link).await.unwrap();
    assert!(!netlink.has_clsact(&link).await.unwrap());
    let gone = netlink.delete_clsact(&link).await.unwrap_err();
    assert!(
        gone.is_not_found() || gone.errno() == Some(libc::EINVAL),
        "{gone}"
    );
}

#[tokio::test]
async fn the_next_hop_is_the_router_or_the_link() {
    let (a, _b) = pair();
    let netlink = connect(&a);
    a.ip(&["route", "add", "10.99.0.0/16", "via", "10.77.0.2"]);
    a.ip(&["route", "add", "fd99::/16", "via", "fd77::2"]);
    let index = netlink.link("u0").await.unwrap().index;
    for (to, gateway) in [
        ("10.77.0.2", None),
        ("10.99.1.1", Some("10.77.0.2")),
        ("fd77::2", None),
        ("fd99::1", Some("fd77::2")),
    ] {
        let hop = netlink.next_hop(to.parse().unwrap()).await.unwrap();
        assert_eq!(
            (hop.link, hop.gateway.map(|ip| ip.to_string()).as_deref()),
            (index, gateway),
            "{to}"
        );
    }
    let nowhere = netlink
        .next_hop("10.98.0.1".parse().unwrap())
        .await
        .unwrap_err();
    assert!(nowhere.is_unreachable(), "{nowhere}");
}
