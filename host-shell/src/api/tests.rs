//! Client and server against each other, and the server against clients that misbehave.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::cni::code;

const PATIENCE: Duration = Duration::from_secs(5);

struct Canned;

impl Handler for Canned {
    async fn handle(&self, request: Request) -> Result<Reply, CniError> {
        match request {
            Request::Counters => Ok(Reply::Counters(vec![Counter {
                name: "rx".into(),
                value: u64::MAX,
                help: "frames".into(),
            }])),
            Request::Routes => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(Reply::Routes(Vec::new()))
            }
            Request::Cni(call) => Ok(Reply::Cni(call.config)),
            _ => Err(CniError::new(code::TRY_AGAIN, "not now")),
        }
    }
}

/// A running server; it ends with the test process.
fn server() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let listener = bind(dir.path()).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(serve(listener, Arc::new(Canned)))
    });
    dir
}

fn client(dir: &TempDir) -> Client {
    Client::connect(&socket_path(dir.path()), PATIENCE).unwrap()
}

fn raw(dir: &TempDir) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(socket_path(dir.path())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

fn assert_alive(dir: &TempDir) {
    let counters: Vec<Counter> = client(dir).call(&Request::Counters).unwrap();
    assert_eq!(counters[0].value, u64::MAX);
}

#[test]
fn several_calls_on_one_connection() {
    let dir = server();
    let mut client = client(&dir);
    for _ in 0..3 {
        let counters: Vec<Counter> = client.call(&Request::Counters).unwrap();
        assert_eq!(counters[0].name, "rx");
        let error = client.call::<Status>(&Request::Status).unwrap_err();
        assert!(
            matches!(error, ClientError::Refused(CniError { code: 11, .. })),
            "{error}"
        );
    }
}

#[test]
fn requests_have_the_documented_form() {
    assert_eq!(
        serde_json::to_string(&Request::Status).unwrap(),
        r#"{"method":"status"}"#
    );
    let dir = server();
    let mut stream = raw(&dir);
    stream
        .get_mut()
        .write_all(b"{\"method\":\"endpoints\"}\n")
        .unwrap();
    assert_eq!(
        line(&mut stream),
        "{\"error\":{\"code\":11,\"msg\":\"not now\"}}\n"
    );
}

#[test]
fn garbage_gets_an_error_and_the_connection_goes_on() {
    let dir = server();
    let mut stream = raw(&dir);
    for garbage in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\0\n",
        b"{\"method\":\"x\"}\n",
        b"[[[[\n",
    ] {
        stream.get_mut().write_all(garbage).unwrap();
        assert!(line(&mut stream).starts_with("{\"error\":{\"code\":6,"));
    }
    stream
        .get_mut()
        .write_all(b"{\"method\":\"counters\"}\n")
        .unwrap();
    assert!(line(&mut stream).starts_with("{\"ok\":"));
}

#[test]
fn an_environment_that_breaks_the_rules_is_refused() {
    let dir = server();
    let mut stream = raw(&dir);
    let forged = r#"{"method":"cni","params":{"environment":{"command":"ADD","container_id":"a/../b","netns":"/n","ifname":"eth0","args":""},"config":{}}}"#;
    writeln!(stream.get_mut(), "{forged}").unwrap();
    assert!(line(&mut stream).contains("CNI_CONTAINERID"));
}

#[test]
fn an_endless_line_is_cut_off() {
    let dir = server();
    let mut stream = raw(&dir);
    let _ = stream
        .get_mut()
        .write_all(&vec![b'x'; MAX_REQUEST + 10_000]);
    let mut rest = Vec::new();
    // The server may close while bytes are still under way, which reads as a reset.
    let _ = stream.read_to_end(&mut rest);
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        rest.is_empty() || rest.contains("longer than 1048576 bytes"),
        "{rest}"
    );
    assert_alive(&dir);
}

#[test]
fn a_line_of_the_greatest_length_is_served_and_a_longer_one_refused() {
    let dir = server();
    let environment =
        crate::cni::Environment::from_vars(|name| (name == "CNI_COMMAND").then(|| "STATUS".into()))
            .unwrap();
    let request = |length| {
        let config = Value::from("x".repeat(length));
        Request::Cni(CniRequest {
            environment: environment.clone(),
            config,
        })
    };
    let frame = serde_json::to_vec(&request(0)).unwrap().len() + 1;
    let longest = MAX_REQUEST - frame;
    let answer: String = client(&dir).call(&request(longest)).unwrap();
    assert_eq!(answer.len(), longest);
    let error = client(&dir)
        .call::<Value>(&request(longest + 1))
        .unwrap_err();
    assert!(matches!(error, ClientError::TooLong(_)), "{error}");
}

#[test]
fn sleeping_and_vanishing_clients_harm_nobody() {
    let dir = server();
    let mut sleepers: Vec<_> = (0..100).map(|_| raw(&dir)).collect();
    for sleeper in &mut sleepers {
        sleeper.get_mut().write_all(b"{\"method\":").unwrap();
    }
    for _ in 0..50 {
        raw(&dir)
            .get_mut()
            .write_all(b"{\"method\":\"routes\"}\n")
            .unwrap();
    }
    // The vanished ones hold their places until their slow requests end.
    std::thread::sleep(Duration::from_millis(500));
    assert_alive(&dir);
}

#[test]
fn clients_that_sleep_make_place_for_others() {
    let dir = server();
    let held: Vec<_> = (0..300).map(|_| raw(&dir)).collect();
    assert_alive(&dir);
    drop(held);
    assert_alive(&dir);
}

#[test]
fn calls_run_at_the_same_time() {
    let dir = server();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| client(&dir).call::<Vec<Route>>(&Request::Routes).unwrap());
        }
    });
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn socket_is_for_root_alone() {
    let dir = server();
    let mode = fs::metadata(socket_path(dir.path()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_lock_is_for_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("culvertd.lock");
    let mode = || fs::metadata(&lock).unwrap().permissions().mode() & 0o777;
    drop(bind(dir.path()).unwrap());
    assert_eq!(mode(), 0o600);
    // As an earlier version left it.
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    drop(bind(dir.path()).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_live_daemon_is_refused_and_a_stale_socket_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let first = bind(dir.path()).unwrap();
    assert!(matches!(bind(dir.path()), Err(BindError::Running(_))));
    assert!(path.exists());
    drop(first);
    assert!(!path.exists());

    drop(UnixListener::bind(&path).unwrap());
    drop(bind(dir.path()).unwrap());

    let other = UnixListener::bind(&path).unwrap();
    assert!(matches!(bind(dir.path()), Err(BindError::Listening(_))));
    drop(other);

    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(dir.path()), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn connect_errors_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let connect = || Client::connect(&path, PATIENCE).unwrap_err();
    assert!(matches!(connect(), ClientError::NoSocket(_)));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(connect(), ClientError::NotRunning(_)));
}

#[test]
fn a_silent_daemon_runs_into_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let listener = UnixListener::bind(&path).unwrap();
    let start = Instant::now();
    let mut client = Client::connect(&path, Duration::from_millis(200)).unwrap();
    let error = client.call::<Value>(&Request::Status).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(..)), "{error}");

    // One byte now and then does not extend it.
    let mut client = Client::connect(&path, Duration::from_millis(300)).unwrap();
    let drip = std::thread::spawn(move || {
        let _first = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let error = client.call::<Value>(&Request::Status).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(..)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(client);
    drip.join().unwrap();
}

#[test]
fn an_answer_that_is_no_answer_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for answer in [&b"hello\n"[..], b"{\"ok\":3}\n", b""] {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            line(&mut stream);
            stream.get_mut().write_all(answer).unwrap();
        }
    });
    let call = || {
        Client::connect(&path, PATIENCE)
            .unwrap()
            .call::<Status>(&Request::Status)
    };
    assert!(matches!(call(), Err(ClientError::BadAnswer { .. })));
    assert!(matches!(call(), Err(ClientError::BadAnswer { .. })));
    assert!(matches!(call(), Err(ClientError::Closed(_))));
}
