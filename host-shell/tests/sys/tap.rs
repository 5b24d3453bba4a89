//! TAP devices.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use culvert_host::sys::tap::{Holder, Tap, TapError, TapOffloads, TapOptions};
use culvert_host::sys::vnet::{VirtioNetHeader, VnetChecksum};

use crate::lab::{Namespace, eventually};
use crate::packets::{PEER_MAC, checksum, echo, ipv4, pseudo_sum, udp};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

fn create(namespace: &Namespace, name: &str) -> Result<Tap, TapError> {
    namespace.run(|| Tap::create(name, TapOptions::default()))
}

fn attach(namespace: &Namespace, name: &str) -> Result<Tap, TapError> {
    namespace.run(|| Tap::attach(name, TapOptions::default()))
}

/// Attaches to a device that was closed just now: a program that another test starts
/// meanwhile has its descriptor, too, until it is another program.
fn attach_closed(namespace: &Namespace, name: &str) -> Result<Tap, TapError> {
    let attached = || match attach(namespace, name) {
        Err(TapError::InUse { .. }) => None,
        done => Some(done),
    };
    eventually(attached).expect("nobody has the device for two seconds")
}

/// A TAP `t0` that is up, with [`HOST`] and a static neighbor [`PEER`].
fn configured(namespace: &Namespace, offloads: TapOffloads) -> Tap {
    let tap = namespace
        .run(|| Tap::create("t0", TapOptions { offloads }))
        .unwrap();
    namespace.ip(&["link", "set", "t0", "address", "02:00:00:00:00:01", "up"]);
    namespace.ip(&["addr", "add", "10.78.0.1/24", "dev", "t0"]);
    namespace.ip(&[
        "neigh",
        "add",
        "10.78.0.2",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        "t0",
    ]);
    tap
}

fn write(tap: &Tap, checksum: VnetChecksum, frame: &[u8]) {
    let mut bytes = VirtioNetHeader {
        checksum,
        ..Default::default()
    }
    .emit()
    .to_vec();
    bytes.extend(frame);
    assert_eq!(tap.write(&bytes).unwrap(), bytes.len());
}

/// The next IPv4 frame of `protocol` to the peer.
fn read(tap: &Tap, protocol: u8) -> Option<(VirtioNetHeader, Vec<u8>)> {
    let mut buffer = [0; 2048];
    eventually(|| {
        let len = tap.read(&mut buffer).ok()?;
        let (header, frame) = buffer[..len].split_at(VirtioNetHeader::LEN);
        let wanted = frame[..6] == PEER_MAC && frame[12..14] == [8, 0] && frame[23] == protocol;
        wanted.then(|| (VirtioNetHeader::parse(header).unwrap(), frame.to_vec()))
    })
}

#[test]
fn a_device_is_in_its_namespace_only_and_goes_with_its_descriptor() {
    let (there, here) = (Namespace::new(), Namespace::new());
    let tap = create(&there, "t0").unwrap();
    assert_eq!(tap.name(), "t0");
    assert_eq!(there.link("t0")["linkinfo"]["info_kind"], "tun");
    assert_eq!(there.link("t0")["linkinfo"]["info_data"]["type"], "tap");
    assert!(here.link("t0").is_null());
    drop(tap);
    // Another test's program may have the descriptor for a moment.
    eventually(|| there.link("t0").is_null().then_some(())).expect("the device is gone");
}

#[test]
fn a_ping_written_is_answered() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::CHECKSUM);
    for sequence in 1..=3 {
        write(
            &tap,
            VnetChecksum::None,
            &ipv4(MAC, PEER, HOST, 1, &echo(sequence)),
        );
        let (_, frame) = read(&tap, 1).expect("an echo reply");
        assert_eq!((frame[34], frame[41]), (0, sequence));
        assert_eq!(&frame[42..], b"culvert");
        assert_eq!(checksum(0, &frame[34..]), 0);
    }
}

#[test]
fn reading_nothing_would_block_and_a_device_that_is_down_says_so() {
    let namespace = Namespace::new();
    let tap = create(&namespace, "t0").unwrap();
    let error = tap.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    let error = tap.write(&[0; 60]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

#[test]
fn frames_without_sense_are_refused_and_the_device_still_works() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::CHECKSUM);
    for len in [0, 1, 9, 10, 11, 23] {
        assert!(tap.write(&vec![0; len]).is_err(), "{len} octets");
    }
    let partial = VnetChecksum::Partial {
        start: 60000,
        offset: 60000,
    };
    let mut bytes = VirtioNetHeader {
        checksum: partial,
        ..Default::default()
    }
    .emit()
    .to_vec();
    bytes.extend(ipv4(MAC, PEER, HOST, 1, &echo(1)));
    assert!(
        tap.write(&bytes).is_err(),
        "a checksum behind the frame's end"
    );
    write(
        &tap,
        VnetChecksum::None,
        &ipv4(MAC, PEER, HOST, 1, &echo(9)),
    );
    assert_eq!(read(&tap, 1).expect("an echo reply").1[41], 9);
}

#[test]
fn an_unfinished_checksum_written_is_finished_by_the_flag_alone() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::CHECKSUM);
    let socket = namespace.run(|| UdpSocket::bind((HOST, 7000)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let sum = pseudo_sum(PEER, HOST, 8 + 5);
    let frame = |payload: &[u8]| ipv4(MAC, PEER, HOST, 17, &udp(7001, 7000, sum, payload));
    // The first has a wrong checksum, as far as its header says: it must not arrive.
    write(&tap, VnetChecksum::None, &frame(b"wrong"));
    write(
        &tap,
        VnetChecksum::Partial {
            start: 34,
            offset: 6,
        },
        &frame(b"right"),
    );
    let mut buffer = [0; 100];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"right"[..], (PEER, 7001).into()));
}

#[test]
fn the_kernel_leaves_checksums_unfinished_only_when_asked() {
    for offloads in [TapOffloads::CHECKSUM, TapOffloads::NONE] {
        let namespace = Namespace::new();
        let tap = configured(&namespace, offloads);
        let socket = namespace.run(|| UdpSocket::bind((HOST, 7000)).unwrap());
        socket.send_to(b"hello", (PEER, 7001)).unwrap();
        let (header, frame) = read(&tap, 17).expect("a UDP datagram");
        let pseudo = pseudo_sum(HOST, PEER, 13);
        let field = u16::from_be_bytes([frame[40], frame[41]]);
        if offloads == TapOffloads::CHECKSUM {
            assert_eq!(
                header.checksum,
                VnetChecksum::Partial {
                    start: 34,
                    offset: 6
                }
            );
            assert_eq!(field, pseudo);
        } else {
            assert_eq!(header.checksum, VnetChecksum::None);
            assert_eq!(checksum(u32::from(pseudo), &frame[34..]), 0);
        }
        assert!(header.gso.is_none());
    }
}

#[test]
fn a_persistent_device_is_found_again_and_another_is_not() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::NONE);
    tap.set_persist(true).unwrap();
    let index = namespace.link("t0")["ifindex"].clone();
    assert!(matches!(
        attach(&namespace, "t0"),
        Err(TapError::InUse { .. })
    ));
    drop(tap);
    let tap = attach_closed(&namespace, "t0").unwrap();
    assert_eq!(namespace.link("t0")["ifindex"], index);
    write(
        &tap,
        VnetChecksum::None,
        &ipv4(MAC, PEER, HOST, 1, &echo(1)),
    );
    assert!(read(&tap, 1).is_some(), "an echo reply after attaching");
    tap.set_persist(false).unwrap();
    drop(tap);
    assert!(matches!(
        attach_closed(&namespace, "t0"),
        Err(TapError::NotFound { .. })
    ));
    assert!(namespace.link("t0").is_null());
}

#[test]
fn attaching_renews_the_offloads() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::NONE);
    tap.set_persist(true).unwrap();
    drop(tap);
    let tap = attach_closed(&namespace, "t0").unwrap();
    let socket = namespace.run(|| UdpSocket::bind((HOST, 7000)).unwrap());
    socket.send_to(b"hello", (PEER, 7001)).unwrap();
    let (header, _) = read(&tap, 17).expect("a UDP datagram");
    assert_eq!(
        header.checksum,
        VnetChecksum::Partial {
            start: 34,
            offset: 6
        }
    );
}

#[test]
fn what_is_no_tap_is_never_attached_to() {
    let namespace = Namespace::new();
    namespace.ip(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    namespace.ip(&["tuntap", "add", "tun0", "mode", "tun"]);
    let error = attach(&namespace, "v0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot attach to \"v0\": it is an interface of the driver \"veth\""
    );
    for name in ["lo", "tun0", "v1"] {
        assert!(
            matches!(attach(&namespace, name), Err(TapError::NotATap { .. })),
            "{name}"
        );
    }
    let error = attach(&namespace, "nothing").unwrap_err();
    assert!(matches!(&error, TapError::NotFound { name } if name == "nothing"));
    assert!(namespace.link("nothing").is_null());
}

#[test]
fn a_taken_name_says_by_what() {
    let namespace = Namespace::new();
    namespace.ip(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    namespace.ip(&["tuntap", "add", "t0", "mode", "tap"]);
    namespace.ip(&["tuntap", "add", "tun0", "mode", "tun"]);
    let _held = create(&namespace, "t1").unwrap();
    for (name, expected) in [
        (
            "v0",
            Holder::Other {
                driver: "veth".to_owned(),
            },
        ),
        ("t0", Holder::Tap),
        ("t1", Holder::Tap),
        ("tun0", Holder::Tun),
        ("lo", Holder::Unknown),
    ] {
        match create(&namespace, name) {
            Err(TapError::NameTaken { holder, .. }) => assert_eq!(holder, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn of_many_that_create_one_name_exactly_one_succeeds() {
    let namespace = Namespace::new();
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| create(&namespace, "t0")))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    assert!(
        refused
            .iter()
            .all(|error| matches!(error, Err(TapError::NameTaken { .. })))
    );
}

#[test]
fn a_descriptor_can_be_handed_over() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::CHECKSUM);
    let tap = Tap::try_from(OwnedFd::from(tap)).unwrap();
    assert_eq!(tap.name(), "t0");
    write(
        &tap,
        VnetChecksum::None,
        &ipv4(MAC, PEER, HOST, 1, &echo(1)),
    );
    assert!(read(&tap, 1).is_some());
}

#[test]
fn a_device_deleted_under_its_owner_gives_errors() {
    let namespace = Namespace::new();
    let tap = configured(&namespace, TapOffloads::CHECKSUM);
    namespace.ip(&["link", "del", "t0"]);
    assert!(tap.read(&mut [0; 100]).is_err());
    assert!(tap.write(&[0; 100]).is_err());
    assert!(tap.set_persist(true).is_err());
}
