//! Pods behind an appliance: the image in QEMU, and culvertd in offload mode. What the
//! image does with each frame is tested by the golden captures; here its peers are real.

use std::time::{Duration, Instant};

use culvert_host::appliance::Arch;
use culvert_lab::measure::Load;
use culvert_lab::{Checksums, Encapsulation, Lab, NodeKind, NodePlan, wait_for};
use nix::sys::signal::Signal;

mod common;

const LIMIT: Duration = Duration::from_secs(30);

/// a1 with an appliance, n2 with culvert, n3 with the kernel's VXLAN; two pods behind
/// the appliance, one on each other node.
fn lab(arch: Arch) -> Lab {
    let kinds = [
        ("a1", NodeKind::Appliance(arch), 1),
        ("n2", NodeKind::Culvert, 2),
        ("n3", NodeKind::Kernel, 3),
    ];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    for (node, pod) in [("a1", "pa"), ("a1", "pb"), ("n2", "p2"), ("n3", "p3")] {
        lab.add_pod(node, pod).unwrap();
    }
    lab
}

fn address(lab: &Lab, pod: &str) -> String {
    lab.pod(pod).unwrap().address.to_string()
}

/// Asserts that every pod reaches every other.
fn everyone_reaches_everyone(lab: &Lab) {
    for from in lab.pods() {
        for to in lab.pods().iter().filter(|to| to.name != from.name) {
            let ping = lab.ping(&from.name, to.address, 3).unwrap();
            assert_eq!(ping.received, 3, "{} to {}", from.name, to.name);
        }
    }
}

/// Asserts that QEMU has nothing to say of the image.
fn without_faults(lab: &Lab) {
    assert_eq!(lab.appliance_faults("a1"), "");
}

/// What a ping that has no answer printed.
fn unanswered(lab: &Lab, from: &str, args: &[&str]) -> String {
    let argv = [&["ping", "-n", "-c", "1", "-W", "2"], args].concat();
    let output = lab.exec(from, &argv, LIMIT).unwrap();
    assert!(!output.status.success(), "{}", output.stdout);
    output.stdout + &output.stderr
}

fn talks_with_everyone(arch: Arch) {
    let lab = lab(arch);
    everyone_reaches_everyone(&lab);
    // The node reaches its own pods and others', which know it by its block.
    for pod in ["pa", "p2", "p3"] {
        let ping = lab.ping("a1", lab.pod(pod).unwrap().address, 3).unwrap();
        assert_eq!(ping.received, 3, "a1 to {pod}");
    }
    // Segments are full, and what a pod leaves to its device is finished.
    for (from, to) in [
        ("pa", "pb"),
        ("pa", "p2"),
        ("p2", "pa"),
        ("pb", "p3"),
        ("p3", "pb"),
    ] {
        let second = Duration::from_secs(1);
        let to = (to, lab.pod(to).unwrap().address);
        let tcp = lab.iperf(from, to, Load::Tcp, second).unwrap();
        assert!(tcp.gbits > 0.001, "{from} to {}: {tcp:?}", to.0);
        let udp = lab.iperf(from, to, Load::Udp(5), second).unwrap();
        assert!(udp.lost_percent < 5.0, "{from} to {}: {udp:?}", to.0);
    }
    // The largest packet passes, and one byte more is refused by name and size.
    for to in ["pb", "p2", "p3"] {
        let to = address(&lab, to);
        let sized = |size: &str| {
            let argv = [
                "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", size, &to,
            ];
            lab.exec("pa", &argv, LIMIT).unwrap()
        };
        assert!(sized("1422").status.success(), "1450 bytes to {to}");
        let refused = sized("1423");
        let said = refused.stdout + &refused.stderr;
        assert!(
            !refused.status.success() && said.contains("mtu=1450"),
            "{said}"
        );
    }
    // Each gateway on the way tells of itself.
    let far = address(&lab, "p2");
    let said = unanswered(&lab, "pa", &["-t", "1", &far]);
    assert!(
        said.contains("From 169.254.1.1") && said.contains("exceeded"),
        "{said}"
    );
    let said = unanswered(&lab, "pa", &["-t", "2", &far]);
    assert!(
        said.contains("From 10.244.2.0") && said.contains("exceeded"),
        "{said}"
    );
    // An address of a block that nobody has.
    let said = unanswered(&lab, "pa", &["10.244.1.200"]);
    assert!(said.contains("Unreachable"), "{said}");
    without_faults(&lab);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_behind_an_appliance_talk_with_everyone_on_aarch64() {
    talks_with_everyone(Arch::Aarch64);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_behind_an_appliance_talk_with_everyone_on_x86_64() {
    talks_with_everyone(Arch::X86_64);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn packets_pass_through_an_appliance_from_vxlan_to_ipip() {
    let through = "transit = true\n";
    let mut nodes = vec![
        NodePlan::new("a1", NodeKind::Appliance(Arch::Aarch64), 1),
        NodePlan::new("n3", NodeKind::Kernel, 3),
        NodePlan::new("g9", NodeKind::Guest(Checksums::Finished), 9),
    ];
    nodes[1].settings = through.to_owned();
    nodes[2].settings = format!("tunnel = \"ipip\"\n{through}");
    let mut plan = common::plan(&[]);
    plan.networks[0].nodes = nodes;
    let mut lab = Lab::new(plan).unwrap();
    for (node, pod) in [("a1", "pa"), ("n3", "p3"), ("g9", "p9")] {
        lab.add_pod(node, pod).unwrap();
    }
    // The others know each other by way of the appliance only.
    lab.encapsulate("g9", "a1", Encapsulation::Ipip).unwrap();
    let guest = lab.guest("g9").unwrap();
    let way = "ip route replace 10.244.3.0/24 via 192.168.77.1 dev tunl0 onlink";
    guest.shell(way, LIMIT).unwrap().success().unwrap();
    let way = "route replace 10.244.9.0/24 via 10.244.1.0 dev flannel.1 onlink";
    let way: Vec<&str> = ["ip"].into_iter().chain(way.split(' ')).collect();
    lab.run("n3", &way).unwrap();

    everyone_reaches_everyone(&lab);
    // Without the entries' word for it nothing passes.
    let said = unanswered(&lab, "p3", &["-t", "1", &address(&lab, "p9")]);
    assert!(said.contains("exceeded"), "{said}");
    let capture = lab
        .capture(("underlay", "br0"), "ip proto 4 or udp port 8472")
        .unwrap();
    lab.ping("p3", lab.pod("p9").unwrap().address, 5).unwrap();
    let file = capture.finish().unwrap();
    let packets = culvert_lab::capture::decode(&file, 8472, &["frame.protocols"]).unwrap();
    let layers: std::collections::BTreeSet<_> = packets.iter().flat_map(|p| p[0].clone()).collect();
    let (vxlan, ipip) = ("ip:udp:vxlan:eth:ethertype:ip:icmp", "ip:ip:icmp");
    for wanted in [vxlan, ipip] {
        assert!(layers.iter().any(|l| l.contains(wanted)), "{layers:?}");
    }
    without_faults(&lab);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_outlive_their_appliance_and_it_outlives_the_daemon_on_aarch64() {
    outlive(Arch::Aarch64, 5);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_outlive_their_appliance_and_it_outlives_the_daemon_on_x86_64() {
    outlive(Arch::X86_64, 2);
}

/// The daemon is killed under traffic, and the power goes off so many times.
fn outlive(arch: Arch, times: usize) {
    let mut lab = lab(arch);
    everyone_reaches_everyone(&lab);
    let far = address(&lab, "p3");
    // 20 packets a second, as long as it is told to.
    let stream = |count: &str| {
        let argv = ["ping", "-n", "-D", "-i", "0.05", "-c", count, &far];
        lab.spawn("pa", &argv, |said| said.contains("icmp_seq=1 "))
            .unwrap()
    };
    // Its daemon gone, killed, and back: the appliance does not care.
    let pings = stream("80");
    lab.stop_daemon("a1", Signal::SIGKILL).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    lab.start_daemon("a1").unwrap();
    let said = pings.finish(LIMIT).unwrap();
    assert!(said.contains(" 0% packet loss"), "{said}");

    // Power off under traffic: the pods stay as they are.
    for _ in 0..times {
        let pings = lab
            .spawn("pa", &["ping", "-n", "-i", "0.05", &far], |said| {
                said.contains("icmp_seq=1 ")
            })
            .unwrap();
        lab.stop_appliance("a1").unwrap();
        lab.start_appliance("a1").unwrap();
        let began = Instant::now();
        let answers = |said: &str| said.matches("bytes from").count();
        let before = answers(&pings.printed());
        wait_for("answers after the reboot", LIMIT, || {
            Ok((answers(&pings.printed()) > before + 3).then_some(()))
        })
        .unwrap();
        println!("answers again after {:.2} s", began.elapsed().as_secs_f64());
        drop(pings);
    }
    // One pod may be back before the other.
    wait_for("a whole replay", LIMIT, || {
        let status = lab.culvert("a1", &["status"])?;
        Ok(status.stdout.contains("console connected").then_some(()))
    })
    .unwrap();
    everyone_reaches_everyone(&lab);
    without_faults(&lab);
}
