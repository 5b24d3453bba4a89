//! The management port of an appliance in QEMU: ping, the control channel by TCP, and
//! culvertd that speaks by it, while pods' packets are forwarded.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_core::channel::{
    Board, BoardAnswer, FrameDecoder, FrameEvent, Health, Hello, MAX_FRAME, MAX_MESSAGE, PROTOCOL,
    Request, Response, SCHEMA, decode_response, encode_frame, encode_request,
};
use culvert_host::appliance::Arch;
use culvert_host::appliance::key::Key;
use culvert_host::appliance::noise::{NoiseError, connect};
use culvert_host::sys::netns::NetNs;
use culvert_lab::{Lab, NodeKind, Output, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[path = "common/mod.rs"]
mod common;

/// The node's own addresses on the wire to the management port, and the port's.
const OURS: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
const THEIRS: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
const BY_TCP: [&str; 2] = ["192.0.2.9:7373", "[2001:db8::9]:7373"];
/// QEMU runs on processors that do other work too.
const SOON: Duration = Duration::from_secs(10);

/// n1 with an appliance that has a management port, and n2 with the kernel's VXLAN and a
/// pod.
fn lab(arch: Arch) -> Lab {
    let kinds = [
        ("n1", NodeKind::Appliance(arch), 1),
        ("n2", NodeKind::Kernel, 2),
    ];
    let mut plan = common::plan(&kinds);
    plan.networks[0].nodes[0].managed = true;
    let mut lab = Lab::new(plan).unwrap();
    lab.run(
        "n1",
        &["sysctl", "-qw", "net.ipv6.conf.tapm.disable_ipv6=0"],
    )
    .unwrap();
    for address in OURS {
        let add = ["ip", "addr", "add", address, "dev", "tapm"];
        let nodad = address.contains(':').then_some("nodad");
        let argv: Vec<_> = add.into_iter().chain(nodad).collect();
        lab.run("n1", &argv).unwrap();
    }
    lab.add_pod("n2", "far").unwrap();
    lab
}

/// Calls `culvert appliance manage` for the appliance of n1, with its addresses.
fn manage(lab: &Lab, more: &[&str]) -> Output {
    let console = lab.console("n1").display().to_string();
    let program = lab.program("culvert").unwrap();
    let mut argv = vec![program.as_str(), "appliance", "manage", "--console"];
    argv.extend([&console, "--address", "192.0.2.9/24"]);
    argv.extend(["--address", "2001:db8::9/64"]);
    argv.extend(more);
    lab.exec("n1", &argv, SOON).unwrap()
}

fn told(output: Output) -> String {
    output.success().unwrap().stdout
}

fn refused(output: &Output) -> &str {
    assert!(!output.status.success(), "{output:?}");
    &output.stderr
}

/// Runs what is asynchronous on n1.
fn on_n1<T: Send>(lab: &Lab, work: impl Future<Output = T> + Send) -> T {
    let path = Path::new("/var/run/netns").join(lab.namespace("n1"));
    let ns = NetNs::open(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    ns.run(|| runtime.block_on(work)).unwrap()
}

async fn say(stream: &mut UnixStream, id: u32, request: &Request) {
    let (mut message, mut frame) = ([0; MAX_MESSAGE], [0; MAX_FRAME]);
    let len = encode_request(id, request, &mut message).unwrap();
    let len = encode_frame(&mut message, len, &mut frame).unwrap();
    stream.write_all(&frame[..len]).await.unwrap();
}

async fn ask(stream: &mut UnixStream, id: u32, request: &Request) -> Response {
    say(stream, id, request).await;
    let mut frame = [0; MAX_FRAME];
    let mut decoder = FrameDecoder::new();
    let mut found = None;
    while found.is_none() {
        let len = stream.read(&mut frame).await.unwrap();
        assert!(len > 0, "the channel ended before {request:?} was answered");
        decoder.feed(&frame[..len], |event| match event {
            FrameEvent::Message(message) => found = Some(decode_response(message).unwrap()),
            other => panic!("{other:?}"),
        });
    }
    let (to, response) = found.unwrap();
    assert_eq!(to, id, "{response:?}");
    response
}

async fn health(stream: &mut UnixStream, id: u32) -> Health {
    match ask(stream, id, &Request::Board(Board::Health)).await {
        Response::Board(BoardAnswer::Health(health)) => health,
        other => panic!("{other:?}"),
    }
}

/// Both addresses answer. The port loses its answers to a neighbor that it does not know
/// yet: it asks for the neighbor's address, and for one neighbor a second only.
fn pings(lab: &Lab) {
    let [v4, v6] = THEIRS;
    let ping = |count| {
        [
            lab.ping("n1", v4.parse().unwrap(), count).unwrap(),
            lab.ping6("n1", v6.parse().unwrap(), count).unwrap(),
        ]
    };
    wait_for("answers by both addresses", SOON, || {
        let first = ping(1).map(|report| report.received);
        println!("one ping by IPv4 and IPv6: {first:?} answered");
        Ok((first == [1, 1]).then_some(()))
    })
    .unwrap();
    for report in ping(5) {
        assert_eq!(report.received, 5, "{report:?}");
    }
}

fn status(lab: &Lab) -> Value {
    let output = lab.culvert("n1", &["status", "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn until_connected(lab: &Lab) {
    wait_for("the channel", SOON, || {
        let now = status(lab);
        Ok((now["appliance"]["state"] == "connected").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", status(lab)));
}

/// Rewrites culvert.toml of n1 and starts its daemon.
fn restart_daemon(lab: &mut Lab, change: impl Fn(&str) -> String) {
    let path = lab.dir().join("n1/culvert.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(&text)).unwrap();
    lab.start_daemon("n1").unwrap();
    until_connected(lab);
}

/// Speaks with the appliance by both addresses, as hosts with and without the key.
fn speaks_with_who_has_the_key(lab: &Lab, arch: Arch, (key, other): (&Key, &Key)) {
    on_n1(lab, async {
        for (address, round) in BY_TCP.into_iter().zip(0..) {
            let error = connect(address, other).await.unwrap_err();
            assert!(
                matches!(
                    error,
                    NoiseError::Refused { .. } | NoiseError::OtherKey { .. }
                ),
                "{error}"
            );
            assert!(error.to_string().contains(address), "{error}");
            let mut took = Vec::new();
            for _ in 0..10 {
                // It answers one stranger in 50 ms.
                tokio::time::sleep(Duration::from_millis(100)).await;
                let began = Instant::now();
                let stream = connect(address, key).await.unwrap();
                took.push(began.elapsed());
                drop(stream);
            }
            took.sort();
            println!(
                "{arch}: connection and handshake with {address}: median {:?}, at most {:?}",
                took[5], took[9]
            );
            let mut stream = connect(address, key).await.unwrap();
            let hello = Request::Hello(Hello {
                version: PROTOCOL,
                epoch: 7,
                schema: SCHEMA,
            });
            let Response::Hello(welcome) = ask(&mut stream, 1, &hello).await else {
                panic!("no welcome");
            };
            assert_ne!(welcome.epoch, 0);
            let describe = Request::Board(Board::Describe);
            let answer = ask(&mut stream, 2, &describe).await;
            let Response::Board(BoardAnswer::Description(description)) = answer else {
                panic!("{answer:?}");
            };
            assert!(description.management, "{description:?}");
            assert_eq!(description.architecture, arch.name());
            let health = health(&mut stream, 3).await;
            assert_eq!(health.refused, round + 1, "{health:?}");
            println!(
                "{arch}: the longest turn of the guest was {} µs, with {} stalls",
                health.longest_turn, health.stalls
            );
        }
    });
}

/// Has the image restart while culvertd has its console, which QEMU keeps open: it is
/// told all again, and its pods go on.
fn restarts_behind_an_open_console(lab: &mut Lab, key: &Key) {
    let uptime = |lab: &Lab| {
        let now = status(lab);
        match now["appliance"]["state"] == "connected" {
            true => now["appliance"]["health"]["uptime_seconds"].as_u64(),
            false => None,
        }
    };
    wait_for("some uptime", SOON, || {
        Ok(uptime(lab).filter(|seconds| *seconds > 2))
    })
    .unwrap();
    on_n1(lab, async {
        let mut stream = connect(BY_TCP[1], key).await.unwrap();
        // The answer may be lost: the end is what comes for certain.
        say(&mut stream, 1, &Request::Board(Board::Restart)).await;
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(Duration::from_secs(1), end).await;
    });
    wait_for("the channel after a restart", SOON, || {
        Ok(uptime(lab).filter(|seconds| *seconds <= 2))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", status(lab)));
    // That may have been asked of the life before, and answered by this one.
    until_connected(lab);
    pings(lab);
    lab.add_pod("n1", "p4").unwrap();
    for (from, to) in [("p1", "far"), ("far", "p4"), ("p3", "p1")] {
        let to = lab.pod(to).unwrap().address;
        assert_eq!(lab.ping(from, to, 2).unwrap().received, 2, "{from} to {to}");
    }
}

fn whole_story(arch: Arch) {
    let mut lab = lab(arch);
    let dir = lab.dir().join("n1");
    let key_file = dir.join("appliance.key");
    let key = Key::create(&key_file).unwrap();
    let other = Key::create(&dir.join("other.key")).unwrap();
    let key_path = key_file.display().to_string();
    // The daemon has the console, and QEMU lets nobody else in.
    let output = manage(&lab, &[]);
    let said = refused(&output);
    assert!(said.contains("perhaps culvertd"), "{said}");
    lab.add_pod("n1", "p1").unwrap();
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    // Pods' packets go on through all that follows.
    let far = lab.pod("far").unwrap().address.to_string();
    let argv = ["ping", "-i", "0.02", "-c", "400", "-q", &far];
    let traffic = lab
        .spawn("p1", &argv, |said| said.contains("PING"))
        .unwrap();
    let said = told(manage(&lab, &[]));
    assert!(said.contains("port 7373 is closed: no key"), "{said}");
    pings(&lab);
    let closed = |lab: &Lab| {
        let error = on_n1(lab, connect(BY_TCP[0], &key))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("192.0.2.9:7373: Connection refused"),
            "{error}"
        );
    };
    closed(&lab);
    let output = manage(&lab, &["--gateway", "192.0.9.9", "--key", &key_path]);
    let said = refused(&output);
    assert!(
        said.contains("refused its management addresses: 192.0.9.9 cannot be"),
        "{said}"
    );
    closed(&lab);
    let said = told(manage(
        &lab,
        &["--gateway", "192.0.2.1", "--key", &key_path],
    ));
    assert!(
        said.contains("7373 is open to hosts with the key"),
        "{said}"
    );
    pings(&lab);
    speaks_with_who_has_the_key(&lab, arch, (&key, &other));
    let printed = traffic.finish(Duration::from_secs(60)).unwrap();
    assert!(printed.contains("400 received"), "{printed}");
    // The same daemon, by TCP; its pod has run all the while.
    let console = format!("channel = \"unix:{}\"\n", lab.console("n1").display());
    let tcp = "channel = \"tcp://192.0.2.9:7373\"\nkey_file = \"appliance.key\"\n";
    restart_daemon(&mut lab, |text| text.replace(&console, tcp));
    let now = status(&lab);
    assert_eq!(now["appliance"]["channel"], "tcp://192.0.2.9:7373", "{now}");
    lab.add_pod("n1", "p2").unwrap();
    for (from, to) in [("p1", "far"), ("far", "p2"), ("p2", "p1")] {
        let to = lab.pod(to).unwrap().address;
        assert_eq!(lab.ping(from, to, 2).unwrap().received, 2, "{from} to {to}");
    }
    // Another key on both sides: the connection ends, and culvertd comes back by the new.
    fs::copy(dir.join("other.key"), &key_file).unwrap();
    told(manage(
        &lab,
        &["--gateway", "192.0.2.1", "--key", &key_path],
    ));
    lab.delete_pod("p2").unwrap();
    until_connected(&lab);
    lab.add_pod("n1", "p3").unwrap();
    // An appliance that has lost its power has no management port until it is told.
    lab.stop_appliance("n1").unwrap();
    lab.add_place("x").unwrap();
    let answer = lab.call("ADD", "n1", "x").answer().unwrap();
    assert_eq!(answer.code(), Some(11), "{answer:?}");
    let said = answer.message();
    println!("an ADD without its appliance: {said}");
    assert!(
        said.contains("the appliance at tcp://192.0.2.9:7373"),
        "{said}"
    );
    lab.start_appliance("n1").unwrap();
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    // Whoever has the console can tell it each time.
    let section = "\n[offload.management]\naddresses = [\"192.0.2.9/24\", \"2001:db8::9/64\"]\n\
         key_file = \"appliance.key\"\n";
    restart_daemon(&mut lab, |text| text.replace(tcp, &console) + section);
    pings(&lab);
    lab.stop_appliance("n1").unwrap();
    lab.start_appliance("n1").unwrap();
    until_connected(&lab);
    pings(&lab);
    restarts_behind_an_open_console(&mut lab, &other);
    assert_eq!(status(&lab)["problems"].to_string(), "[]");
    assert_eq!(lab.appliance_faults("n1"), "");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn an_aarch64_appliance_is_managed_by_who_has_the_key() {
    whole_story(Arch::Aarch64);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn an_x86_64_appliance_is_managed_by_who_has_the_key() {
    whole_story(Arch::X86_64);
}
