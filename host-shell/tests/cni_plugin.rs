//! The real plugin and command line, against a fake daemon and without one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_host::api::{CniRequest, Counter, Handler, Reply, Request, bind, serve, socket_path};
use culvert_host::cni::{CniError, CniResult, Command as CniCommand, IpConfig, NetConf, code};
use culvert_host::spool;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Answers as a daemon would and remembers what it was asked.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<CniRequest>>,
}

impl Handler for Fake {
    async fn handle(&self, request: Request) -> Result<Reply, CniError> {
        let call = match request {
            Request::Cni(call) => call,
            Request::Counters => return Ok(Reply::Counters(counters())),
            Request::Endpoints => return Ok(Reply::Endpoints(Vec::new())),
            _ => return Err(CniError::new(code::INTERNAL, "the fake does not know that")),
        };
        self.calls.lock().unwrap().push(call.clone());
        let conf = NetConf::from_value(call.config)?;
        match (call.environment.command(), call.environment.container_id()) {
            (_, "refused") => Err(CniError::new(code::NO_ADDRESS, "no address is left")),
            (_, "slow") => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(Reply::Cni(Value::Null))
            }
            (CniCommand::Add, _) => {
                let ip = IpConfig {
                    address: "10.244.1.2/32".parse().unwrap(),
                    gateway: None,
                    interface: None,
                };
                let result = CniResult {
                    ips: vec![ip],
                    ..CniResult::default()
                };
                Ok(Reply::Cni(result.to_version(conf.version)))
            }
            _ => Ok(Reply::Cni(Value::Null)),
        }
    }
}

fn counters() -> Vec<Counter> {
    let counter = |name: &str, value| Counter {
        name: name.into(),
        value,
        help: format!("what {name} is"),
    };
    vec![counter("rx_frames", 1234), counter("drop_ttl", 0)]
}

/// A directory with `run` and `state`, and perhaps a daemon.
struct Node {
    dir: TempDir,
    fake: Arc<Fake>,
}

impl Node {
    fn down() -> Node {
        let node = Node {
            dir: tempfile::tempdir().unwrap(),
            fake: Arc::default(),
        };
        fs::create_dir(node.dir.path().join("run")).unwrap();
        node
    }

    fn up() -> Node {
        let node = Node::down();
        let listener = bind(&node.dir.path().join("run")).unwrap();
        let fake = Arc::clone(&node.fake);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, fake))
        });
        node
    }

    fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "culvert-cni", "timeoutSeconds": 1,
            "runDir": self.dir.path().join("run"), "stateDir": self.dir.path().join("state"),
        })
    }

    fn conf_with(&self, key: &str, value: Value) -> String {
        let mut conf = self.conf();
        conf[key] = value;
        conf.to_string()
    }

    fn plugin(&self, command: &str, id: &str) -> Answer {
        run(command, id, self.conf().to_string().as_bytes())
    }

    fn spooled(&self) -> Vec<spool::Entry> {
        spool::read(&spool::spool_dir(&self.dir.path().join("state"))).unwrap()
    }

    fn culvert(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_culvert"))
            .arg("--socket")
            .arg(socket_path(&self.dir.path().join("run")))
            .args(arguments)
            .output()
            .unwrap()
    }
}

struct Answer {
    success: bool,
    out: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.out);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[track_caller]
    fn assert_error(&self, code: u32, part: &str) {
        let json = self.json();
        assert!(!self.success, "{json}");
        assert_eq!(json["code"], code, "{json}");
        assert!(json.to_string().contains(part), "{part} missing in: {json}");
    }

    #[track_caller]
    fn assert_silent_success(&self) {
        assert!(
            self.success && self.out.is_empty(),
            "{}",
            String::from_utf8_lossy(&self.out)
        );
    }
}

fn run(command: &str, id: &str, stdin: &[u8]) -> Answer {
    let vars = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    run_with(&vars, stdin)
}

fn run_with(vars: &[(&str, &str)], stdin: &[u8]) -> Answer {
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-cni"))
        .env_clear()
        .envs(vars.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    match child.stdin.take().unwrap().write_all(stdin) {
        // The plugin need not read all of what it refuses.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
        _ => {}
    }
    let output = child.wait_with_output().unwrap();
    Answer {
        success: output.status.success(),
        out: output.stdout,
    }
}

#[test]
fn version_needs_neither_stdin_nor_daemon() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-cni"))
        .env_clear()
        .envs([
            ("CNI_COMMAND", "VERSION"),
            ("CNI_NETNS", "dummy"),
            ("CNI_IFNAME", "dummy"),
            ("CNI_CONTAINERID", ""),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Held open: whoever reads it waits for ever.
    let stdin = child.stdin.take();
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(stdin);
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        answer,
        json!({"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]})
    );
}

#[test]
fn add_prints_the_daemons_result_in_the_version_asked_for() {
    let node = Node::up();
    let answer = node.plugin("ADD", "c1");
    assert!(answer.success);
    assert_eq!(answer.json()["ips"][0]["address"], "10.244.1.2/32");
    let old = run(
        "ADD",
        "c1",
        node.conf_with("cniVersion", json!("0.4.0")).as_bytes(),
    )
    .json();
    assert_eq!(
        (&old["cniVersion"], &old["ips"][0]["version"]),
        (&json!("0.4.0"), &json!("4"))
    );
    let calls = node.fake.calls.lock().unwrap();
    assert_eq!(calls[0].config, node.conf());
    assert_eq!(calls[0].environment.netns(), Some("/run/netns/x"));
}

#[test]
fn other_commands_succeed_silently() {
    let node = Node::up();
    node.plugin("DEL", "c1").assert_silent_success();
    node.plugin("STATUS", "").assert_silent_success();
    let prev = node.conf_with("prevResult", json!({"ips": [{"address": "10.244.1.2/32"}]}));
    run("CHECK", "c1", prev.as_bytes()).assert_silent_success();
    let keep = json!([{"containerID": "a", "ifname": "eth0"}]);
    run(
        "GC",
        "",
        node.conf_with("cni.dev/valid-attachments", keep).as_bytes(),
    )
    .assert_silent_success();
    assert!(node.spooled().is_empty());
    assert_eq!(node.fake.calls.lock().unwrap().len(), 4);
}

#[test]
fn the_daemons_errors_are_passed_on_in_the_version_asked_for() {
    let node = Node::up();
    for command in ["ADD", "DEL"] {
        node.plugin(command, "refused")
            .assert_error(101, "no address is left");
    }
    assert!(node.spooled().is_empty());
    let answer = run(
        "ADD",
        "refused",
        node.conf_with("cniVersion", json!("0.4.0")).as_bytes(),
    );
    assert_eq!(answer.json()["cniVersion"], "0.4.0");
}

#[test]
fn without_a_daemon_each_command_answers_in_its_way() {
    let node = Node::down();
    let socket = socket_path(&node.dir.path().join("run"));
    node.plugin("ADD", "c1")
        .assert_error(11, socket.to_str().unwrap());
    node.plugin("ADD", "c1")
        .assert_error(11, "culvertd is not running");
    node.plugin("STATUS", "")
        .assert_error(50, "culvertd is not running");
    assert!(node.spooled().is_empty());
    node.plugin("DEL", "c1").assert_silent_success();
    node.plugin("DEL", "c2").assert_silent_success();
    let ids: Vec<_> = node
        .spooled()
        .into_iter()
        .map(|entry| entry.request.unwrap().environment.container_id().to_owned())
        .collect();
    assert_eq!(ids, ["c1", "c2"]);
}

#[test]
fn a_daemon_that_does_not_answer_runs_into_the_deadline() {
    let node = Node::up();
    let start = Instant::now();
    node.plugin("ADD", "slow")
        .assert_error(11, "did not answer within 1 seconds");
    node.plugin("DEL", "slow").assert_silent_success();
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(node.spooled().len(), 1);
}

#[test]
fn a_deletion_that_cannot_be_spooled_fails_and_says_why() {
    let node = Node::down();
    fs::write(node.dir.path().join("state"), "not a directory").unwrap();
    node.plugin("DEL", "c1").assert_error(5, "state/spool");
}

#[test]
fn a_runtime_that_never_closes_stdin_gets_an_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-cni"))
        .env_clear()
        .env("CNI_COMMAND", "STATUS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"cniVersion\": ").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let answer = Answer {
        success: output.status.success(),
        out: output.stdout,
    };
    answer.assert_error(5, "stdin was not closed within 10 seconds");
}

#[test]
fn calls_for_many_pods_run_at_the_same_time() {
    let node = Node::up();
    std::thread::scope(|scope| {
        for pod in 0..40 {
            let node = &node;
            scope.spawn(move || {
                assert!(node.plugin("ADD", &format!("c{pod}")).success);
                node.plugin("DEL", &format!("c{pod}"))
                    .assert_silent_success();
            });
        }
    });
    assert_eq!(node.fake.calls.lock().unwrap().len(), 80);
    assert!(node.spooled().is_empty());
}

#[test]
fn bad_environments_are_named_before_stdin_is_read() {
    run_with(&[], b"").assert_error(4, "CNI_COMMAND is not set");
    run_with(&[("CNI_COMMAND", "FROB")], b"").assert_error(4, "FROB");
    let answer = run_with(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "x")], b"");
    answer.assert_error(4, "CNI_CONTAINERID");
    answer.assert_error(4, "CNI_IFNAME");
    answer.assert_error(4, "CNI_NETNS");
    run("ADD", "../../etc", b"").assert_error(4, "../../etc");
}

#[test]
fn bad_configurations_never_reach_the_daemon() {
    let node = Node::up();
    for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
        run(command, "c1", b"").assert_error(6, "empty");
        run(command, "c1", b"{\"cniVersion\": ").assert_error(6, "not JSON");
        run(command, "c1", b"\xff\xfe").assert_error(6, "not JSON");
        run(command, "c1", b"[]").assert_error(6, "a list");
        run(
            command,
            "c1",
            node.conf_with("cniVersion", json!("9.9.9")).as_bytes(),
        )
        .assert_error(1, "0.4.0, 1.0.0, 1.1.0");
        run(command, "c1", node.conf_with("runDir", json!(5)).as_bytes()).assert_error(7, "runDir");
    }
    run("CHECK", "c1", node.conf().to_string().as_bytes()).assert_error(7, "prevResult");
    run(
        "CHECK",
        "c1",
        node.conf_with("prevResult", json!({"ips": 1})).as_bytes(),
    )
    .assert_error(7, "prevResult");
    run("GC", "", node.conf().to_string().as_bytes()).assert_error(7, "valid-attachments");
    run(
        "STATUS",
        "",
        node.conf_with("cniVersion", json!("1.0.0")).as_bytes(),
    )
    .assert_error(1, "STATUS needs cniVersion 1.1.0");
    run(
        "ADD",
        "c1",
        node.conf_with("runtimeConfig", json!({"ips": ["fd00::1", "fd00::2"]}))
            .as_bytes(),
    )
    .assert_error(2, "fd00::1");
    assert!(node.fake.calls.lock().unwrap().is_empty());
}

#[test]
fn deletion_succeeds_with_garbage_in_keys_it_does_not_need() {
    let node = Node::up();
    for (key, value) in [
        ("prevResult", json!("garbage")),
        ("runtimeConfig", json!(3)),
        ("args", json!([1])),
        ("ipam", json!(null)),
    ] {
        run("DEL", "c1", node.conf_with(key, value).as_bytes()).assert_silent_success();
    }
}

#[test]
fn huge_stdin_is_refused_and_a_large_one_passes() {
    let node = Node::up();
    let large = node.conf_with("pad", json!("x".repeat(500_000)));
    assert!(run("ADD", "c1", large.as_bytes()).success);
    let huge = node.conf_with("pad", json!("x".repeat(8_000_000)));
    run("ADD", "c1", huge.as_bytes()).assert_error(6, "longer than 524288 bytes");
    // So deep that a parser without a limit would run out of stack.
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    run("ADD", "c1", deep.as_bytes()).assert_error(6, "recursion limit");
}

#[test]
fn command_line_prints_tables_and_json() {
    let node = Node::up();
    let text = |arguments: &[&str]| {
        let output = node.culvert(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = text(&["counters"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].starts_with("NAME") && lines[1].starts_with("rx_frames"),
        "{table}"
    );
    assert!(text(&["counters", "--all"]).contains("drop_ttl"));
    let json: Value = serde_json::from_str(&text(&["counters", "-o", "json"])).unwrap();
    assert_eq!(json, serde_json::to_value(counters()).unwrap());
    assert_eq!(text(&["endpoints", "-o", "json"]).trim(), "[]");
    assert!(text(&["endpoints"]).starts_with("ADDRESS"));
}

#[test]
fn command_line_errors_go_to_stderr() {
    for (node, part) in [
        (Node::down(), "culvertd is not running"),
        (Node::up(), "does not know that"),
    ] {
        let output = node.culvert(&["status"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("culvert: ") && stderr.contains(part),
            "{stderr}"
        );
    }
}
