//! A node whose pods an appliance forwards for: what pods are given and give back, and
//! that they live on when the appliance, the channel or the daemon does not.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use culvert_core::PortId;
use culvert_lab::{Answer, Call, Lab, NodeKind, UNDERLAY, run, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use appliance::{Mood, StandIn};

mod appliance;
#[path = "../common/mod.rs"]
mod common;

const SOON: Duration = Duration::from_secs(5);

/// n1 with an appliance that has its underlay address and four of its devices, and n2
/// with the kernel's VXLAN and a pod.
fn lab() -> (Lab, StandIn) {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    lab.add_pod("n2", "far").unwrap();
    let (n1, underlay) = (lab.namespace("n1"), lab.namespace(UNDERLAY));
    let ports = [
        (PortId(0), underlay.as_str(), "uplink"),
        (PortId(1), n1.as_str(), "node0"),
        (PortId(2), n1.as_str(), "vf1"),
        (PortId(3), n1.as_str(), "vf2"),
        (PortId(4), n1.as_str(), "vf3"),
        (PortId(5), n1.as_str(), "vf4"),
    ];
    let stand_in = StandIn::start(&lab.dir().join("n1/console"), &ports);
    ip(&lab, UNDERLAY, "link set uplink master br0 up");
    ip(&lab, "n1", "link set eth0 down");
    let dir = lab.dir().join("n1").display().to_string();
    let config = format!(
        "node = \"n1\"\ncluster = \"cluster.toml\"\nrun_dir = \"run\"\nstate_dir = \"{dir}/state\"\n\
         mode = \"offload\"\n\n[offload]\nchannel = \"unix:console\"\ndevices = \"vf{{1..4}}\"\n\
         uplink = {{ address = \"192.168.77.1/24\" }}\nhost = {{ device = \"node0\" }}\n\
         nics = [{{ mac = \"02:63:76:01:00:00\", role = \"port 0\" }}]\n"
    );
    fs::write(lab.dir().join("n1/culvert.toml"), config).unwrap();
    lab.start_daemon("n1").unwrap();
    (lab, stand_in)
}

fn ip(lab: &Lab, place: &str, args: &str) {
    let argv: Vec<&str> = std::iter::once("ip").chain(args.split(' ')).collect();
    lab.run(place, &argv).unwrap();
}

fn ask(lab: &Lab, what: &str) -> Value {
    let output = lab.culvert("n1", &[what, "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn granted(call: &Call) -> Answer {
    let answer = call.answer().unwrap();
    assert!(answer.success, "{answer:?}");
    answer
}

fn check(lab: &Lab, pod: &str) -> Call {
    let result = lab.pod(pod).unwrap().result.clone().unwrap();
    lab.call("CHECK", "n1", pod).key("prevResult", result)
}

fn status(lab: &Lab) -> Answer {
    let call = lab.call("STATUS", "n1", "far");
    call.key("cniVersion", json!("1.1.0")).answer().unwrap()
}

fn problems(lab: &Lab) -> String {
    ask(lab, "status")["problems"].to_string()
}

fn reaches(lab: &Lab, from: &str, to: &str) -> bool {
    let to = lab.pod(to).unwrap().address;
    lab.ping(from, to, 1).unwrap().received == 1
}

/// The interface's line in a place, if it is there.
fn link(lab: &Lab, place: &str, name: &str) -> Option<String> {
    let links = lab.run(place, &["ip", "-o", "-d", "link"]).unwrap().stdout;
    let wanted = format!(": {name}: ");
    links
        .lines()
        .find(|line| line.contains(&wanted))
        .map(str::to_owned)
}

/// Waits until the channel is as it should be.
fn until_connected(lab: &Lab) -> Duration {
    let began = Instant::now();
    wait_for("the channel", SOON, || {
        let state = &ask(lab, "status")["appliance"]["state"];
        Ok((state == "connected").then_some(()))
    })
    .unwrap();
    began.elapsed()
}

/// Makes an ADD that must fail within five seconds with code 11, and STATUS say 50; each
/// names all of `named`. Nothing is left of it.
fn refused(lab: &Lab, place: &str, named: &[&str], free: &Value) {
    for time in ["first", "second"] {
        let began = Instant::now();
        let answer = lab.call("ADD", "n1", place).answer().unwrap();
        let took = began.elapsed();
        assert!(took < SOON, "the {time} took {took:?}");
        assert_eq!(answer.code(), Some(11), "{time}: {answer:?}");
        for name in named {
            assert!(answer.message().contains(name), "no `{name}` in {answer:?}");
        }
        println!("the {time} ADD failed after {took:?}: {}", answer.message());
    }
    let answer = status(lab);
    assert_eq!(answer.code(), Some(50), "{answer:?}");
    assert!(answer.message().contains("appliance"), "{answer:?}");
    assert!(link(lab, place, "eth0").is_none());
    assert_eq!(ask(lab, "status")["pool"]["free"], *free);
}

/// The devices that are free.
fn free(lab: &Lab) -> Value {
    ask(lab, "status")["pool"]["free"].clone()
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_get_devices_of_the_pool_and_give_them_back() {
    let (mut lab, stand_in) = lab();
    assert!(status(&lab).success, "{:?}", status(&lab));
    for pod in ["p1", "p2", "p3", "p4"] {
        lab.add_pod("n1", pod).unwrap();
        granted(&check(&lab, pod));
    }
    assert!(link(&lab, "n1", "vf1").is_none());
    let device = link(&lab, "p1", "eth0").unwrap();
    assert!(
        device.contains("mtu 1450") && device.contains("culvert vf1: "),
        "{device}"
    );
    // Node and pods, pods and pods, pods here and elsewhere.
    for (from, to) in [("p1", "p2"), ("p4", "far"), ("far", "p3"), ("n1", "p2")] {
        assert!(reaches(&lab, from, to), "{from} to {to}");
    }
    assert!(stand_in.forwarded() > 8);
    // None is left, and the message says of what.
    lab.add_place("x").unwrap();
    let answer = lab.call("ADD", "n1", "x").answer().unwrap();
    assert_eq!(answer.code(), Some(101), "{answer:?}");
    let said = answer.message();
    assert!(
        said.contains("all 4 of offload.devices (vf1 to vf4)"),
        "{said}"
    );
    let shown = ask(&lab, "status");
    assert_eq!(shown["mode"], "offload");
    assert_eq!(shown["pool"], json!({"free": 0, "devices": 4}));
    assert_eq!(shown["endpoints"], 4);
    assert_eq!(shown["problems"], json!([]), "{shown}");
    assert_eq!(shown["appliance"]["nics"][0]["role"], "port 0");
    assert!(
        shown["appliance"]["description"]
            .to_string()
            .contains("stand-in 1.2.3")
    );
    let text = lab.culvert("n1", &["status"]).unwrap().stdout;
    assert!(
        text.contains("0 of 4 free") && text.contains("connected"),
        "{text}"
    );
    assert!(ask(&lab, "routes").to_string().contains("peer n2 vxlan"));
    assert_eq!(ask(&lab, "peers")[0]["name"], "n2");
    let counters = ask(&lab, "counters").to_string();
    assert!(counters.contains("\"rx\""), "{counters}");
    // Somebody's change is seen.
    ip(&lab, "p2", "link set eth0 mtu 1400");
    let answer = check(&lab, "p2").answer().unwrap();
    assert!(answer.message().contains("MTU is 1400"), "{answer:?}");
    ip(&lab, "p2", "link set eth0 mtu 1450");
    // A pod that goes gives its device back as it was, and the next pod gets it.
    lab.delete_pod("p2").unwrap();
    let back = link(&lab, "n1", "vf2").unwrap();
    assert!(
        !back.contains("alias") && back.contains("state DOWN"),
        "{back}"
    );
    let addresses = lab.run("n1", &["ip", "-o", "addr", "show", "vf2"]).unwrap();
    assert_eq!(addresses.stdout, "");
    lab.add_pod("n1", "p5").unwrap();
    assert!(link(&lab, "p5", "eth0").unwrap().contains("culvert vf2: "));
    assert!(reaches(&lab, "p5", "p1") && reaches(&lab, "far", "p5"));
    // A device that the pod has by this name already is left alone.
    lab.delete_pod("p5").unwrap();
    ip(&lab, "x", "link add eth0 type bridge");
    let answer = lab.call("ADD", "n1", "x").answer().unwrap();
    assert_eq!(answer.code(), Some(4), "{answer:?}");
    assert!(link(&lab, "n1", "vf2").is_some() && link(&lab, "x", "eth0").is_some());
    for pod in ["p1", "p3", "p4"] {
        lab.delete_pod(pod).unwrap();
    }
    assert_eq!(ask(&lab, "endpoints"), json!([]));
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    let node = link(&lab, "n1", "node0").unwrap();
    assert!(!node.contains("alias"), "{node}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_device_that_went_with_its_pod_is_named_and_one_that_came_back_is_found() {
    let (mut lab, _stand_in) = lab();
    for place in ["a", "b"] {
        lab.add_place(place).unwrap();
        granted(&lab.call("ADD", "n1", place));
    }
    // A physical device comes back by the name that it had in the pod, or another.
    ip(&lab, "b", "link set eth0 down");
    ip(
        &lab,
        "b",
        &format!("link set eth0 netns {} name dev7", lab.namespace("n1")),
    );
    for place in ["a", "b"] {
        lab.delete_place(place).unwrap();
        for _ in 0..2 {
            granted(&lab.call("DEL", "n1", place));
        }
    }
    assert!(link(&lab, "n1", "vf2").is_some() && link(&lab, "n1", "dev7").is_none());
    let said = problems(&lab);
    assert!(
        said.contains("device vf1 is gone") && !said.contains("vf2"),
        "{said}"
    );
    assert_eq!(
        ask(&lab, "status")["pool"],
        json!({"free": 3, "devices": 4})
    );
    // The others serve.
    assert!(status(&lab).success);
    lab.add_pod("n1", "p1").unwrap();
    assert!(link(&lab, "p1", "eth0").unwrap().contains("culvert vf2: "));
    assert!(reaches(&lab, "p1", "far"));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_run_on_after_the_appliance_has_restarted() {
    let (mut lab, stand_in) = lab();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n1", "p2").unwrap();
    let before = link(&lab, "p1", "eth0");
    for round in 0..5 {
        stand_in.restart();
        let began = Instant::now();
        wait_for("pods after a restart", SOON, || {
            Ok((reaches(&lab, "p1", "p2") && reaches(&lab, "far", "p1")).then_some(()))
        })
        .unwrap();
        println!(
            "round {round}: pods reach each other after {:?}",
            began.elapsed()
        );
        until_connected(&lab);
        granted(&check(&lab, "p1"));
    }
    assert_eq!(link(&lab, "p1", "eth0"), before);
    assert_eq!(problems(&lab), "[]");
    // What it drops is told anew, by numbers that go on.
    let last = |lab: &Lab| {
        let events = ask(lab, "events");
        events["last"].as_u64().unwrap()
    };
    let nobody = "10.244.1.200".parse().unwrap();
    let mut seen = last(&lab);
    for _ in 0..2 {
        wait_for("another event", SOON, || {
            assert_eq!(lab.ping("p1", nobody, 1).unwrap().received, 0);
            // Of a reason the first drop after a second without is told.
            thread::sleep(Duration::from_millis(1200));
            Ok((last(&lab) > seen).then_some(()))
        })
        .unwrap();
        seen = last(&lab);
        stand_in.restart();
        until_connected(&lab);
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn calls_are_told_what_is_wrong_with_the_channel_and_dels_succeed() {
    let (mut lab, stand_in) = lab();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_place("x").unwrap();
    for (mood, named) in [
        (Mood::Silent, "Hello was not answered"),
        (Mood::Garbage, "is no message"),
        (Mood::Gone, "is the appliance running?"),
    ] {
        println!("{mood:?}");
        let pod = "p2";
        lab.add_pod("n1", pod).unwrap();
        let address = lab.pod(pod).unwrap().address.to_string();
        let free = free(&lab);
        stand_in.set(mood);
        // Long enough for any mood to be seen for what it is, but not to be the first ADD.
        let began = Instant::now();
        let answer = lab.call("ADD", "n1", "x").answer().unwrap();
        println!(
            "the very first ADD took {:?}: {}",
            began.elapsed(),
            answer.message()
        );
        assert!(began.elapsed() < SOON, "{answer:?}");
        assert_eq!(answer.code(), Some(11), "{answer:?}");
        wait_for("the reason", SOON, || {
            let state = ask(&lab, "status")["appliance"]["state"].to_string();
            Ok(state.contains(named).then_some(()))
        })
        .unwrap();
        refused(&lab, "x", &["not reached"], &free);
        // It forwards all the same.
        assert!(reaches(&lab, "p1", "far"), "{mood:?}");
        let began = Instant::now();
        lab.delete_pod(pod).unwrap();
        assert!(began.elapsed() < SOON, "{mood:?}: {:?}", began.elapsed());
        assert!(link(&lab, "n1", "vf2").is_some());
        stand_in.set(Mood::Answers);
        println!("connected again after {:?}", until_connected(&lab));
        // The appliance has heard of the deletion, before any pod can get the address.
        let routes = ask(&lab, "routes").to_string();
        assert!(!routes.contains(&format!("{address}/32")), "{routes}");
        assert!(status(&lab).success);
        granted(&lab.call("ADD", "n1", "x"));
        assert_eq!(
            lab.ping("x", lab.pod("far").unwrap().address, 1)
                .unwrap()
                .received,
            1
        );
        granted(&lab.call("DEL", "n1", "x"));
        granted(&check(&lab, "p1"));
    }
    assert_eq!(problems(&lab), "[]");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn pods_lose_no_packet_while_the_daemon_is_gone_and_comes_back() {
    let (mut lab, stand_in) = lab();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n1", "p2").unwrap();
    let far = lab.pod("far").unwrap().address.to_string();
    let argv = ["ping", "-i", "0.005", "-c", "800", "-q", &far];
    let pings = lab
        .spawn("p1", &argv, |said| said.contains("PING"))
        .unwrap();
    let devices = [link(&lab, "p1", "eth0"), link(&lab, "p2", "eth0")];
    for _ in 0..3 {
        lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
        lab.start_daemon("n1").unwrap();
        until_connected(&lab);
        granted(&check(&lab, "p1"));
    }
    let printed = pings.finish(Duration::from_secs(60)).unwrap();
    assert!(printed.contains("800 received"), "{printed}");
    assert_eq!(
        [link(&lab, "p1", "eth0"), link(&lab, "p2", "eth0")],
        devices
    );
    // Nodes keep their ids though the file's order is another.
    let path = lab.dir().join("n1/cluster.toml");
    let text = fs::read_to_string(&path).unwrap();
    let new = "[[node]]\nname = \"n0\"\nunderlay = \"192.168.77.9\"\npods = \"10.244.9.0/24\"\n\n";
    lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
    fs::write(
        &path,
        text.replacen("[[node]]", &format!("{new}[[node]]"), 1),
    )
    .unwrap();
    // Of a pod that goes meanwhile the appliance keeps nothing.
    granted(&lab.call("DEL", "n1", "p2"));
    lab.start_daemon("n1").unwrap();
    until_connected(&lab);
    assert_eq!(ask(&lab, "peers").as_array().unwrap().len(), 2);
    assert_eq!(ask(&lab, "endpoints").as_array().unwrap().len(), 1);
    assert!(reaches(&lab, "p1", "far") && link(&lab, "n1", "vf2").is_some());
    // What is reloaded while the channel is away is told when it is back.
    stand_in.set(Mood::Gone);
    let config = lab.dir().join("n1/culvert.toml");
    let own = fs::read_to_string(&config).unwrap();
    fs::write(&config, own.replace("vf{1..4}", "vf{1..3}")).unwrap();
    fs::write(&path, &text).unwrap();
    let told = lab.culvert("n1", &["reload"]).unwrap().stdout;
    assert!(
        told.contains("node n0 is gone") && told.contains("offload.devices"),
        "{told}"
    );
    stand_in.set(Mood::Answers);
    until_connected(&lab);
    assert_eq!(ask(&lab, "peers").as_array().unwrap().len(), 1);
    assert_eq!(ask(&lab, "status")["pool"]["devices"], 3);
    assert!(reaches(&lab, "p1", "far"));
    // A daemon may come before its appliance.
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    stand_in.set(Mood::Gone);
    lab.start_daemon("n1").unwrap();
    lab.add_place("x").unwrap();
    refused(&lab, "x", &["is the appliance running?"], &json!(2));
    stand_in.restart();
    stand_in.set(Mood::Answers);
    until_connected(&lab);
    assert!(reaches(&lab, "p1", "far") && reaches(&lab, "far", "p1"));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn devices_of_veths_are_moved_as_well() {
    let (mut lab, _stand_in) = lab();
    ip(&lab, "n1", "link del vf1");
    ip(&lab, "n1", "link add vf1 mtu 1500 type veth peer name far1");
    lab.add_pod("n1", "p1").unwrap();
    let links = run(&["ip", "-n", &lab.namespace("p1"), "-o", "-d", "link"], "").unwrap();
    assert!(links.stdout.contains("culvert vf1: "), "{}", links.stdout);
    granted(&check(&lab, "p1"));
    lab.delete_pod("p1").unwrap();
    let links = run(&["ip", "-n", &lab.namespace("n1"), "-o", "link"], "").unwrap();
    assert!(links.stdout.contains("vf1@far1"), "{}", links.stdout);
}
