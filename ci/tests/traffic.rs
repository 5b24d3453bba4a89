//! Kernel nodes reach each other, measurements add up, and the decoder finds
//! what is broken.

use std::time::Duration;

use culvert_lab::capture::check;
use culvert_lab::measure::Load;
use culvert_lab::run;

mod common;

#[test]
fn pods_and_nodes_of_kernel_nodes_reach_each_other() {
    let lab = common::kernel_lab();
    let (one, other) = (
        lab.pod("p1").unwrap().address,
        lab.pod("p2").unwrap().address,
    );
    let (network, node) = lab.node("n2").unwrap();
    for (from, to) in [
        ("p1", other),
        ("p2", one),
        ("n1", other),
        ("p1", node.underlay()),
        ("p1", network.address(node, 0)),
    ] {
        let ping = lab.ping(from, to, 5).unwrap();
        assert_eq!((ping.sent, ping.received), (5, 5), "{from} to {to}");
        assert!(ping.min_ms > 0.0 && ping.min_ms <= ping.avg_ms && ping.avg_ms <= ping.max_ms);
    }
    let nobody = lab.ping("p1", network.address(node, 200), 1).unwrap();
    assert_eq!(nobody.received, 0);
}

#[test]
fn two_labs_do_not_meet() {
    let (one, other) = (common::kernel_lab(), common::kernel_lab());
    assert_ne!(one.tag(), other.tag());
    let (pod, address) = ("p1", one.pod("p2").unwrap().address);
    assert_eq!(one.ping(pod, address, 2).unwrap().received, 2);
    // The same addresses live in both; when one lab loses its pod, the other's does not answer.
    let mut one = one;
    one.delete_pod("p2").unwrap();
    assert_eq!(one.ping(pod, address, 1).unwrap().received, 0);
    assert_eq!(other.ping(pod, address, 2).unwrap().received, 2);
}

#[test]
fn iperf_measures_tcp_and_udp() {
    let lab = common::kernel_lab();
    let target = ("p2", lab.pod("p2").unwrap().address);
    let second = Duration::from_secs(1);
    assert!(lab.iperf("p1", target, Load::Tcp, second).unwrap().gbits > 0.01);
    let udp = lab.iperf("p1", target, Load::Udp(20), second).unwrap();
    assert!((0.010..0.025).contains(&udp.gbits), "{udp:?}");
    let nobody = ("p2", "10.244.2.77".parse().unwrap());
    assert!(lab.iperf("p1", nobody, Load::Tcp, second).is_err());
}

#[test]
fn source_and_sink_agree() {
    let lab = common::kernel_lab();
    let target = ("p2", lab.pod("p2").unwrap().address);
    let time = Duration::from_millis(400);
    let step = lab.blast("p1", target, Some(5_000), time).unwrap();
    assert!((1_900..=2_000).contains(&step.seen.expected), "{step:?}");
    assert_eq!(step.seen.expected, step.seen.received + step.seen.lost);
    assert_eq!(step.seen.duplicates, 0);
    assert!(lab.highest_rate("p1", target).unwrap() > 1_000.0);
}

#[test]
fn the_sink_sees_what_the_wire_loses() {
    let lab = common::kernel_lab();
    let target = ("p2", lab.pod("p2").unwrap().address);
    // The node on the way drops everything for a quarter of the time.
    let hole = format!("route add blackhole {}/32", target.1);
    let undo = hole.replace("add", "del");
    let cut = format!("sleep 0.3; ip {hole}; sleep 0.25; ip {undo}");
    let cutting = lab.spawn("n1", &["sh", "-ec", &cut], |_| true).unwrap();
    let step = lab
        .blast("p1", target, Some(5_000), Duration::from_secs(1))
        .unwrap();
    assert!((0.15..0.5).contains(&step.seen.loss()), "{step:?}");
    assert!(step.received_pps < step.sent_pps * 0.9, "{step:?}");
    cutting.finish(Duration::from_secs(5)).unwrap();
}

/// Traffic from p1 to p2 as captured on the underlay, with what sends it offloading or not.
fn captured(offloads: bool) -> anyhow::Result<culvert_lab::capture::Checked> {
    let lab = common::kernel_lab();
    let (_, node) = lab.node("n1")?;
    lab.offloads("n1", "eth0", offloads)?;
    lab.offloads("p1", "eth0", offloads)?;
    let filter = format!("udp port 8472 and src host {}", node.underlay());
    let capture = lab.capture(("underlay", "to-n1"), &filter)?;
    let target = ("p2", lab.pod("p2")?.address);
    lab.ping("p1", target.1, 5)?;
    lab.iperf("p1", target, Load::TcpAt(5), Duration::from_secs(1))?;
    lab.iperf("p1", target, Load::Udp(2), Duration::from_secs(1))?;
    check(&capture.finish()?, 8472)
}

#[test]
fn finished_packets_decode_without_fault() {
    let checked = captured(false).unwrap();
    assert_eq!(checked.icmp, 5);
    assert!(checked.tcp > 20 && checked.udp > 100, "{checked:?}");
    assert_eq!(checked.packets, checked.icmp + checked.tcp + checked.udp);
}

#[test]
fn unfinished_checksums_are_found() {
    // With offloads on, veth carries checksums that nobody has finished.
    let error = format!("{:#}", captured(true).unwrap_err());
    assert!(
        error.contains("checksum") && error.contains("bad"),
        "{error}"
    );
}

/// A VXLAN frame with an ICMP echo request inside; all checksums right.
const FRAME: &str = "\
    0a6300000002 0a6300000001 0800 \
    4500004e0000400040111f4bc0a84d01c0a84d02 c0002118003a0000 0800000000000100 \
    0a6300000004 0a6300000003 0800 \
    4500001c00004000400121f60af401020af40202 0800f7fe00010000";

/// Checks `FRAME` with one byte replaced.
fn check_with(replace: Option<(usize, u8)>) -> anyhow::Result<culvert_lab::capture::Checked> {
    let digits: String = FRAME.split_whitespace().collect();
    let mut bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    if let Some((at, value)) = replace {
        bytes[at] = value;
    }
    let length = u32::try_from(bytes.len()).unwrap();
    // The classic format: magic, version 2.4, zone, accuracy, most bytes, Ethernet.
    let mut file: Vec<u8> = Vec::new();
    for word in [
        0xa1b2_c3d4,
        0x0002_0004,
        0,
        0,
        65_535,
        1,
        0,
        0,
        length,
        length,
    ] {
        file.extend(u32::to_be_bytes(word));
    }
    file.extend(bytes);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("one.pcap");
    std::fs::write(&path, file)?;
    check(&path, 8472)
}

#[test]
fn each_broken_byte_is_found() {
    let fine = check_with(None).unwrap();
    assert_eq!(
        (fine.packets, fine.icmp, fine.good, fine.absent),
        (1, 1, 3, 1)
    );
    for (at, said) in [
        (24, "IPv4"), // outer header checksum
        (40, "UDP"),  // outer UDP checksum, no longer 0
        (74, "IPv4"), // inner header checksum
        (86, "ICMP"), // inner ICMP checksum
    ] {
        let error = format!("{:#}", check_with(Some((at, 0x5a))).unwrap_err());
        assert!(
            error.contains("checksum") && error.contains(said),
            "byte {at}: {error}"
        );
    }
    // Another port: no VXLAN to be seen.
    let error = format!("{:#}", check_with(Some((37, 0x19))).unwrap_err());
    assert!(error.contains("VXLAN"), "{error}");
}

#[test]
fn an_unknown_field_is_an_error() {
    assert!(
        run(&["tshark", "-v"], "").is_ok(),
        "tshark is not installed"
    );
    let file = std::path::Path::new("/nonexistent.pcap");
    assert!(culvert_lab::capture::decode(file, 8472, &["ip.src"]).is_err());
}
