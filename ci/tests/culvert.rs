//! Labs with culvert nodes. They need culvert's own programs, so `ci/test` runs
//! them after the build, with CULVERT_BIN_DIR saying where they are.

use culvert_lab::{Lab, NodeKind};
use nix::sys::signal::Signal;

mod common;

/// n1 and n2 with culvert, n3 with the kernel's VXLAN, a pod on each.
fn lab() -> Lab {
    let kinds = [
        ("n1", NodeKind::Culvert, 1),
        ("n2", NodeKind::Culvert, 2),
        ("n3", NodeKind::Kernel, 3),
    ];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    for (node, pod) in [("n1", "p1"), ("n2", "p2"), ("n3", "p3")] {
        lab.add_pod(node, pod).unwrap();
    }
    lab
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_of_culvert_and_kernel_nodes_reach_each_other() {
    let lab = lab();
    for from in lab.pods() {
        for to in lab.pods() {
            let ping = lab.ping(&from.name, to.address, 3).unwrap();
            assert_eq!(ping.received, 3, "{} to {}", from.name, to.name);
        }
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_pod_that_was_deleted_is_gone_and_its_name_free() {
    let mut lab = lab();
    let before = lab
        .culvert("n1", &["endpoints", "-o", "json"])
        .unwrap()
        .stdout;
    let address = lab.pod("p1").unwrap().address.to_string();
    assert!(before.contains(&address), "{before}");
    lab.delete_pod("p1").unwrap();
    let after = lab
        .culvert("n1", &["endpoints", "-o", "json"])
        .unwrap()
        .stdout;
    assert!(!after.contains(&address), "{after}");
    lab.add_pod("n1", "p1").unwrap();
    let target = lab.pod("p3").unwrap().address;
    assert_eq!(lab.ping("p1", target, 3).unwrap().received, 3);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_repeated_add_is_refused_and_changes_nothing() {
    let lab = lab();
    let pod = lab.pod("p1").unwrap();
    let answer = lab.cni("ADD", pod).unwrap();
    assert!(!answer.status.success(), "{}", answer.stdout);
    let target = lab.pod("p3").unwrap().address;
    assert_eq!(lab.ping("p1", target, 3).unwrap().received, 3);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_work_again_after_their_daemon_was_killed() {
    let mut lab = lab();
    let target = lab.pod("p3").unwrap().address;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        lab.stop_daemon("n1", signal).unwrap();
        lab.start_daemon("n1").unwrap();
        assert_eq!(
            lab.ping("p1", target, 3).unwrap().received,
            3,
            "after {signal}"
        );
    }
}
