//! What the database acknowledged survives a kill at any moment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use culvert_host::ipam::Pools;
use culvert_host::state::{HostFacts, Key, NetnsId, Phase, Reservation, Store};

const CHILD: &str = "CULVERT_TEST_STATE_DIR";

fn open(dir: &Path) -> Store {
    let blocks = ["10.244.1.0/24", "fd00:1::/64"].map(|block| block.parse().unwrap());
    let pools = Pools::new("pods", &blocks).unwrap();
    Store::open(dir, pools, 1..=500).unwrap()
}

fn key(id: u32) -> Key {
    Key {
        container_id: format!("c{id}"),
        ifname: "eth0".into(),
    }
}

/// The child's work: change the database without end, and say what has been acknowledged.
fn work(dir: &Path) -> ! {
    let store = open(dir);
    let mut said = std::io::stdout();
    let mut say = |what: &str, id: u32| writeln!(said, "{what} {id}").unwrap();
    let wanted = Reservation {
        netns: "/n".into(),
        netns_id: NetnsId { dev: 1, ino: 2 },
        addresses: Vec::new(),
        mac: None,
        configuration: "culvert".into(),
        devices: None,
    };
    for id in 0.. {
        store.reserve(&key(id), &wanted).unwrap();
        say("intent", id);
        store.commit(&key(id), HostFacts::default()).unwrap();
        say("committed", id);
        if id >= 5 {
            store.release(&key(id - 5)).unwrap();
            say("released", id - 5);
        }
    }
    unreachable!("the parent kills this process long before")
}

#[test]
fn acknowledged_changes_survive_kill_9() {
    if let Some(dir) = std::env::var_os(CHILD) {
        work(Path::new(&dir));
    }
    for round in 0..8u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "acknowledged_changes_survive_kill_9",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said: BTreeMap<u32, String> = BTreeMap::new();
        let mut hear = |line: String| {
            if let Some((what, id)) = line.split_once(' ')
                && let Ok(id) = id.parse()
            {
                said.insert(id, what.to_owned());
            }
        };
        for _ in 0..40 + 3 * round {
            hear(
                lines
                    .next()
                    .expect("the child works until it is killed")
                    .unwrap(),
            );
        }
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(hear);
        check(&open(dir.path()), &said);
    }
}

/// Everything said must hold; only the one change after the last word may be there or not.
fn check(store: &Store, said: &BTreeMap<u32, String>) {
    assert!(said.len() > 10, "{said:?}");
    let mut surprises = 0;
    for (id, what) in said {
        let found = store
            .get(&key(*id))
            .unwrap()
            .map(|attachment| attachment.phase);
        let expected = match what.as_str() {
            "intent" => Some(Phase::Intent),
            "committed" => Some(Phase::Committed),
            _ => None,
        };
        surprises += usize::from(found != expected);
    }
    let newest = *said.keys().max().unwrap();
    let unsaid = usize::from(store.get(&key(newest + 1)).unwrap().is_some());
    assert!(surprises + unsaid <= 1, "{surprises} + {unsaid}: {said:?}");
    for attachment in store.list().unwrap() {
        assert_eq!(
            store.holder(attachment.addresses[0]).unwrap(),
            Some(attachment.key)
        );
    }
}
