//! Tests of the database: each rule by name, then all of them against a model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tempfile::TempDir;

use super::*;

fn pools(blocks: &[&str]) -> Pools {
    let blocks: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
    Pools::new("pods", &blocks).unwrap()
}

fn open(dir: &TempDir, block: &str, ports: RangeInclusive<u16>) -> Result<Store, StateError> {
    Store::open(dir.path(), pools(&[block]), ports)
}

fn store(dir: &TempDir) -> Store {
    open(dir, "10.244.1.0/29", 1..=100).unwrap()
}

fn key(id: &str) -> Key {
    Key {
        container_id: id.into(),
        ifname: "eth0".into(),
    }
}

fn want(address: Option<&str>) -> Reservation {
    Reservation {
        netns: "/run/netns/a".into(),
        netns_id: NetnsId {
            dev: 4,
            ino: u64::MAX,
        },
        addresses: address
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        mac: None,
        configuration: "culvert".into(),
        devices: None,
    }
}

fn add(store: &Store, id: &str) -> Attachment {
    store.reserve(&key(id), &want(None)).unwrap()
}

fn last_byte(attachment: &Attachment) -> u8 {
    let [IpAddr::V4(address)] = attachment.addresses[..] else {
        panic!("{attachment:?}")
    };
    address.octets()[3]
}

#[test]
fn life_of_an_attachment() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let reserved = add(&store, "a");
    assert_eq!(
        (reserved.phase, reserved.port, last_byte(&reserved)),
        (Phase::Intent, 1, 1)
    );
    assert_eq!(reserved.mac.to_string(), "0a:58:0a:f4:01:01");
    assert_eq!(store.get(&key("a")).unwrap(), Some(reserved.clone()));
    assert_eq!(store.holder(reserved.addresses[0]).unwrap(), Some(key("a")));
    let facts = HostFacts {
        ifindex: 3,
        mtu: 1450,
    };
    let committed = store.commit(&key("a"), facts.clone()).unwrap();
    assert_eq!(
        (committed.phase, &committed.host),
        (Phase::Committed, &facts)
    );
    assert_eq!(store.commit(&key("a"), facts).unwrap(), committed);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&committed));
    assert_eq!(store.release(&key("a")).unwrap(), Some(committed.clone()));
    assert_eq!(store.release(&key("a")).unwrap(), None);
    assert_eq!(store.holder(committed.addresses[0]).unwrap(), None);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn duplicates_are_refused_and_name_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    add(&store, "a");
    let error = store
        .reserve(&key("a"), &want(None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("container a") && error.contains("10.244.1.1"),
        "{error}"
    );
    let second = Key {
        container_id: "a".into(),
        ifname: "net1".into(),
    };
    assert_eq!(last_byte(&store.reserve(&second, &want(None)).unwrap()), 2);
}

#[test]
fn commit_needs_a_reservation() {
    let dir = tempfile::tempdir().unwrap();
    let error = store(&dir)
        .commit(&key("a"), HostFacts::default())
        .unwrap_err();
    assert!(matches!(error, StateError::Unknown(_)), "{error}");
}

#[test]
fn a_released_address_comes_last_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    add(&first, "a");
    first.release(&key("a")).unwrap();
    drop(first);
    let store = store(&dir);
    let given: Vec<_> = ["b", "c", "d", "e", "f", "g"]
        .map(|id| last_byte(&add(&store, id)))
        .into();
    assert_eq!(given, [2, 3, 4, 5, 6, 1]);
}

#[test]
fn an_exhausted_pool_names_itself_and_takes_no_port() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    for id in ["a", "b", "c", "d", "e", "f"] {
        add(&store, id);
    }
    let error = store
        .reserve(&key("g"), &want(None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("all 6 pod addresses of 10.244.1.0/29"),
        "{error}"
    );
    store.release(&key("c")).unwrap();
    let again = add(&store, "g");
    assert_eq!((last_byte(&again), again.port), (3, 3));
}

#[test]
fn exhausted_ports_give_the_address_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, "10.244.1.0/29", 7..=8).unwrap();
    assert_eq!((add(&store, "a").port, add(&store, "b").port), (7, 8));
    let error = store.reserve(&key("c"), &want(None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no port is left: all of 7 to 8 are in use"
    );
    assert_eq!(store.holder("10.244.1.3".parse().unwrap()).unwrap(), None);
    store.release(&key("a")).unwrap();
    assert_eq!(add(&store, "c").port, 7);
}

#[test]
fn an_address_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let asked = store.reserve(&key("a"), &want(Some("10.244.1.4"))).unwrap();
    assert_eq!(last_byte(&asked), 4);
    for (address, part) in [
        ("10.244.1.4", "in use by container a, interface eth0"),
        ("10.244.2.4", "is not in the block 10.244.1.0/29"),
        ("10.244.1.0", "node's own"),
        ("10.244.1.7", "broadcast"),
    ] {
        let error = store
            .reserve(&key("b"), &want(Some(address)))
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(store.get(&key("b")).unwrap(), None);
}

#[test]
fn a_mac_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let wanted = Reservation {
        mac: Some(mac),
        ..want(None)
    };
    assert_eq!(store(&dir).reserve(&key("a"), &wanted).unwrap().mac, mac);
}

#[test]
fn a_changed_block_keeps_old_attachments() {
    let dir = tempfile::tempdir().unwrap();
    let old = add(&store(&dir), "a");
    let store = open(&dir, "10.99.0.0/24", 1..=100).unwrap();
    assert_eq!(store.list().unwrap(), [old]);
    let new = add(&store, "b");
    assert_eq!(
        (new.addresses[0].to_string().as_str(), new.port),
        ("10.99.0.1", 2)
    );
    assert!(store.release(&key("a")).unwrap().is_some());
}

/// A store with pools of both IP versions.
fn dual(dir: &TempDir) -> Store {
    Store::open(dir.path(), pools(&["fd00::/125", "10.244.1.0/29"]), 1..=100).unwrap()
}

fn texts(attachment: &Attachment) -> Vec<String> {
    let addresses = attachment.addresses.iter();
    addresses.map(ToString::to_string).collect()
}

#[test]
fn both_ip_versions_are_leased_and_freed_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = dual(&dir);
    let a = add(&store, "a");
    assert_eq!(texts(&a), ["10.244.1.1", "fd00::1"]);
    assert_eq!(a.mac.to_string(), "0a:58:0a:f4:01:01");
    let wanted = |addresses: &[&str]| Reservation {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..want(None)
    };
    let reserve = |id: &str, addresses: &[&str]| store.reserve(&key(id), &wanted(addresses));
    assert_eq!(
        texts(&reserve("b", &["fd00::6"]).unwrap()),
        ["10.244.1.2", "fd00::6"]
    );
    assert_eq!(
        texts(&reserve("c", &["fd00::5", "10.244.1.5"]).unwrap()),
        ["10.244.1.5", "fd00::5"]
    );
    assert_eq!(
        store.holder("fd00::5".parse().unwrap()).unwrap(),
        Some(key("c"))
    );
    for (addresses, part) in [
        (
            ["10.244.1.4", "fd00::5"],
            "fd00::5 is in use by container c",
        ),
        (["10.244.1.4", "fd00::8"], "is not in the block fd00::/125"),
        (["10.244.1.4", "fd00::"], "node's own"),
    ] {
        let error = reserve("d", &addresses).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // Nothing of what was refused stays.
    assert_eq!(store.holder("10.244.1.4".parse().unwrap()).unwrap(), None);
    store.release(&key("a")).unwrap();
    assert_eq!(store.holder("fd00::1".parse().unwrap()).unwrap(), None);
    assert_eq!(texts(&add(&store, "e")), ["10.244.1.3", "fd00::2"]);
}

#[test]
fn a_node_gets_ipv6_and_keeps_its_pods_and_its_place_in_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let before = store(&dir);
    let old = [add(&before, "a"), add(&before, "b")];
    before.release(&key("a")).unwrap();
    drop(before);
    let store = dual(&dir);
    assert_eq!(store.list().unwrap(), old[1..]);
    assert_eq!(texts(&add(&store, "c")), ["10.244.1.3", "fd00::1"]);
    drop(store);
    // And back: the lease of an address that no pool has is freed all the same.
    let store = open(&dir, "10.244.1.0/29", 1..=100).unwrap();
    assert_eq!(texts(&add(&store, "d")), ["10.244.1.4"]);
    assert!(store.release(&key("c")).unwrap().is_some());
    assert_eq!(store.holder("fd00::1".parse().unwrap()).unwrap(), None);
    let error = store
        .reserve(&key("e"), &want(Some("fd00::1")))
        .unwrap_err();
    assert!(
        error.to_string().contains("no IPv6 block in network pods"),
        "{error}"
    );
}

#[test]
fn an_exhausted_ipv6_pool_takes_no_ipv4_address() {
    let dir = tempfile::tempdir().unwrap();
    let pools = pools(&["10.0.0.0/24", "fd00::/126"]);
    let store = Store::open(dir.path(), pools, 1..=100).unwrap();
    for id in ["a", "b", "c"] {
        add(&store, id);
    }
    let error = store
        .reserve(&key("d"), &want(None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("all 3 pod addresses of fd00::/126"),
        "{error}"
    );
    assert_eq!(store.holder("10.0.0.4".parse().unwrap()).unwrap(), None);
    store.release(&key("b")).unwrap();
    assert_eq!(texts(&add(&store, "d")), ["10.0.0.4", "fd00::2"]);
}

#[test]
fn a_second_process_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let _first = store(&dir);
    let error = open(&dir, "10.244.1.0/29", 1..=2).unwrap_err();
    assert!(matches!(error, StateError::InUse(_)), "{error}");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    store(&dir)
        .write(|txn| {
            drop(
                txn.open_table(META)
                    .map_err(db)?
                    .insert("schema", SCHEMA + 1)
                    .map_err(db)?,
            );
            Ok(())
        })
        .unwrap();
    for _ in 0..2 {
        let error = open(&dir, "10.244.1.0/29", 1..=2).unwrap_err().to_string();
        assert!(
            error.contains("schema 2") && error.contains("newer version"),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("culvert.redb"), "x".repeat(10_000)).unwrap();
    let error = open(&dir, "10.244.1.0/29", 1..=2).unwrap_err().to_string();
    assert!(error.contains("culvert.redb"), "{error}");
    fs::write(dir.path().join("file"), "").unwrap();
    let pools = pools(&["10.0.0.0/24"]);
    let error = Store::open(&dir.path().join("file"), pools, 1..=2).unwrap_err();
    assert!(matches!(error, StateError::Directory { .. }), "{error}");
}

#[test]
fn a_damaged_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    store
        .write(|txn| {
            let mut table = txn.open_table(ATTACHMENTS).map_err(db)?;
            drop(table.insert(("a", "eth0"), &b"{}"[..]).map_err(db)?);
            Ok(())
        })
        .unwrap();
    let error = store.get(&key("a")).unwrap_err().to_string();
    assert!(error.contains("container a, interface eth0"), "{error}");
}

#[test]
fn the_directory_is_for_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let _store = store(&dir);
    assert_eq!(
        fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn concurrent_reservations_never_meet() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, "10.244.0.0/24", 1..=1000).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..10 {
                    add(store, &format!("{thread}-{i}"));
                }
            });
        }
    });
    let all = store.list().unwrap();
    let addresses: std::collections::BTreeSet<_> = all.iter().map(|a| &a.addresses).collect();
    let ports: std::collections::BTreeSet<_> = all.iter().map(|a| a.port).collect();
    assert_eq!((all.len(), addresses.len(), ports.len()), (40, 40, 40));
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u8, Option<u8>),
    Commit(u8),
    Release(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..8u8, proptest::option::weighted(0.3, 0..9u8)).prop_map(|(k, a)| Step::Reserve(k, a)),
        2 => (0..8u8).prop_map(Step::Commit),
        3 => (0..8u8).prop_map(Step::Release),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Key → (last byte of the address, port, committed).
type Model = BTreeMap<u8, (u8, u16, bool)>;

/// Says what `reserve` must give: next fit in .1 to .6, smallest port of 5 to 9.
fn expect(model: &Model, cursor: &mut u8, k: u8, wanted: Option<u8>) -> Option<(u8, u16)> {
    let used = |address: u8| model.values().any(|(a, ..)| *a == address);
    if model.contains_key(&k) {
        return None;
    }
    let address = match wanted {
        Some(address) => (1..=6)
            .contains(&address)
            .then_some(address)
            .filter(|a| !used(*a))?,
        None => (0..6).map(|i| (*cursor + i) % 6 + 1).find(|a| !used(*a))?,
    };
    let port = (5..=9).find(|port| !model.values().any(|(_, p, _)| p == port))?;
    if wanted.is_none() {
        *cursor = address;
    }
    Some((address, port))
}

fn agree(store: &Store, model: &Model) -> Result<(), TestCaseError> {
    let listed: Model = store
        .list()
        .unwrap()
        .iter()
        .map(|a| {
            let k = a.key.container_id.parse().unwrap();
            (k, (last_byte(a), a.port, a.phase == Phase::Committed))
        })
        .collect();
    prop_assert_eq!(&listed, model);
    for last in 0..8 {
        let holder = store.holder(IpAddr::from([10, 0, 0, last])).unwrap();
        let expected = model
            .iter()
            .find(|(_, (a, ..))| *a == last)
            .map(|(k, _)| key(&k.to_string()));
        prop_assert_eq!(holder, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_operations_matches_the_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir, "10.0.0.0/29", 5..=9).unwrap();
        let (mut model, mut cursor) = (Model::new(), 0);
        for step in steps {
            match step {
                Step::Reserve(k, a) => {
                    let address = a.map(|a| format!("10.0.0.{a}"));
                    let got = store.reserve(&key(&k.to_string()), &want(address.as_deref())).ok();
                    let expected = expect(&model, &mut cursor, k, a);
                    prop_assert_eq!(got.map(|a| (last_byte(&a), a.port)), expected);
                    if let Some((address, port)) = expected {
                        model.insert(k, (address, port, false));
                    }
                }
                Step::Commit(k) => {
                    let done = store.commit(&key(&k.to_string()), HostFacts::default()).is_ok();
                    prop_assert_eq!(done, model.get_mut(&k).map(|entry| entry.2 = true).is_some());
                }
                Step::Release(k) => {
                    let released = store.release(&key(&k.to_string())).unwrap().is_some();
                    prop_assert_eq!(released, model.remove(&k).is_some());
                }
                Step::Reopen => {
                    drop(store);
                    store = open(&dir, "10.0.0.0/29", 5..=9).unwrap();
                }
            }
            agree(&store, &model)?;
        }
    }
}

fn device(number: u16) -> PortDevice {
    PortDevice {
        name: format!("vf{number}"),
        port: number + 10,
    }
}

#[test]
fn each_device_of_the_pool_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let all: Vec<_> = (1..=3).map(device).collect();
    let wanted = |present: &[u16]| Reservation {
        devices: Some(DevicePool {
            all: all.clone(),
            present: present.iter().copied().map(device).collect(),
        }),
        ..want(None)
    };
    let take = |id: &str, present: &[u16]| store.reserve(&key(id), &wanted(present));
    let taken = |id: &str, present: &[u16]| {
        let attachment = take(id, present).unwrap();
        (attachment.device.unwrap(), attachment.port)
    };
    // vf1 is gone.
    assert_eq!(taken("a", &[2, 3]), ("vf2".to_owned(), 12));
    assert_eq!(taken("b", &[2, 3]), ("vf3".to_owned(), 13));
    let error = take("c", &[2, 3]).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("all 3 of offload.devices (vf1 to vf3)"),
        "{said}"
    );
    assert_eq!(store.list().unwrap().len(), 2);
    store.release(&key("a")).unwrap();
    assert_eq!(taken("c", &[1, 2, 3]), ("vf1".to_owned(), 11));
    assert_eq!(taken("d", &[2, 3]), ("vf2".to_owned(), 12));
    // It is as good after another start.
    let before = store.list().unwrap();
    drop(store);
    let store = open(&dir, "10.244.1.0/29", 1..=100).unwrap();
    assert_eq!(store.list().unwrap(), before);
}

#[test]
fn records_of_versions_without_a_pool_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let old = r#"{"key":{"container_id":"a","ifname":"eth0"},"phase":"committed",
        "netns":"/run/netns/a","netns_id":{"dev":4,"ino":7},"addresses":["10.244.1.1"],
        "mac":"0a:58:0a:f4:01:01","port":1,"network":"pods","configuration":"culvert",
        "host":{"ifindex":2,"mtu":1450},"created":1700000000}"#;
    let wrote = store(&dir).write(|txn| {
        let mut table = txn.open_table(ATTACHMENTS).map_err(db)?;
        table.insert(("a", "eth0"), old.as_bytes()).map_err(db)?;
        let mut ports = txn.open_table(PORTS).map_err(db)?;
        ports.insert(1, ("a", "eth0")).map_err(db)?;
        Ok(())
    });
    wrote.unwrap();
    let store = store(&dir);
    let read = store.get(&key("a")).unwrap().unwrap();
    assert_eq!((read.device, read.port), (None, 1));
    store
        .reserve(
            &key("b"),
            &Reservation {
                addresses: vec!["10.244.1.2".parse().unwrap()],
                ..want(None)
            },
        )
        .unwrap();
    assert_eq!(store.get(&key("b")).unwrap().unwrap().port, 2);
}
