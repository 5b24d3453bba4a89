//! Raw sockets of the underlay: IP in IP over a veth between two namespaces.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use culvert_host::sys::socket::{
    DEFAULT_TTL, Datagram, ErrorOrigin, PeerErrors, RecvBatch, SendBatch, SendStop, Socket,
    SocketError, SocketKind, SocketOptions,
};
use culvert_host::sys::tap::{Tap, TapOptions};
use culvert_host::sys::vnet::VirtioNetHeader;
use etherparse::{IpNumber, Ipv4Header, Ipv4Options};

use crate::lab::{Namespace, eventually, pair, routed};
use crate::socket::{receive, send_all};

const V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const V6: [&str; 2] = ["fd77::1", "fd77::2"];

fn bind(namespace: &Namespace, address: &str, protocol: u8) -> Socket {
    let address: IpAddr = address.parse().unwrap();
    namespace
        .run(|| Socket::ip(address, protocol, SocketOptions::default()))
        .unwrap()
}

fn to<'a>(destination: &str, payload: &'a [u8]) -> Datagram<'a> {
    Datagram {
        pieces: Box::leak(Box::new([IoSlice::new(payload)])),
        segment: None,
        destination: SocketAddr::new(destination.parse().unwrap(), 0),
        tos: 0,
        ttl: DEFAULT_TTL,
    }
}

#[test]
fn packets_of_both_protocols_arrive_without_their_outer_header() {
    let (a, b) = pair();
    for [source, target] in [V4, V6] {
        for protocol in [4, 41] {
            let sender = bind(&a, source, protocol);
            let receiver = bind(&b, target, protocol);
            let other = bind(&b, target, 45 - protocol);
            let payloads: Vec<Vec<u8>> = (1..150u8).map(|n| vec![n; usize::from(n)]).collect();
            let datagrams: Vec<Datagram<'_>> = payloads
                .iter()
                .zip(0u8..)
                .map(|(payload, n)| Datagram {
                    tos: if n % 3 == 0 { 0 } else { n },
                    ttl: if n % 2 == 0 { DEFAULT_TTL } else { n },
                    ..to(target, payload)
                })
                .collect();
            send_all(&sender, &datagrams);
            let all = receive(&receiver, datagrams.len());
            assert_eq!(all.len(), datagrams.len(), "{source} {protocol}");
            for ((received, payload), datagram) in all.iter().zip(&datagrams) {
                assert_eq!(payload, &*datagram.pieces[0]);
                assert_eq!((received.tos, received.ttl), (datagram.tos, datagram.ttl));
                assert_eq!(received.source.ip(), sender.local_addr().ip());
                assert_eq!(received.destination, target.parse::<IpAddr>().unwrap());
                assert!(!received.truncated);
            }
            assert!(receive_nothing(&other));
            assert_eq!(receiver.kind(), SocketKind::Ip { protocol });
        }
    }
}

fn receive_nothing(socket: &Socket) -> bool {
    thread::sleep(Duration::from_millis(20));
    let mut errors = PeerErrors::new(8);
    let mut buffer = [0; 100];
    let buffers = [buffer.as_mut_slice()];
    let mut batch = RecvBatch::new(1);
    let got = socket.recv_batch(&mut batch, buffers, &mut errors);
    got.unwrap().is_empty()
}

/// Writes IPv4 packets of protocol 4 into a TAP whose other side is `10.78.0.1`.
struct Wire {
    namespace: Namespace,
    tap: Tap,
}

impl Wire {
    fn new() -> Wire {
        let namespace = Namespace::new();
        let tap = namespace
            .run(|| Tap::create("t0", TapOptions::default()))
            .unwrap();
        for args in [
            &["addr", "add", "10.78.0.1/24", "dev", "t0"][..],
            &["link", "set", "t0", "address", "02:00:00:00:00:01", "up"],
        ] {
            namespace.ip(args);
        }
        Wire { namespace, tap }
    }

    fn send(&self, edit: impl FnOnce(&mut Ipv4Header), payload: &[u8]) {
        let (src, dst) = ([10, 78, 0, 2], [10, 78, 0, 1]);
        let length = payload.len().try_into().unwrap();
        let mut header = Ipv4Header::new(length, 64, IpNumber(4), src, dst).unwrap();
        header.dont_fragment = false;
        edit(&mut header);
        header.total_len = u16::try_from(header.header_len() + payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = VirtioNetHeader::default().emit().to_vec();
        bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        bytes.extend(header.to_bytes());
        bytes.extend(payload);
        assert_eq!(self.tap.write(&bytes).unwrap(), bytes.len());
    }
}

#[test]
fn options_of_the_outer_header_are_cut_too() {
    let wire = Wire::new();
    let receiver = bind(&wire.namespace, "10.78.0.1", 4);
    for words in 0..=10 {
        let options = [1; 40];
        let options = Ipv4Options::try_from(&options[..words * 4]).unwrap();
        wire.send(|header| header.options = options, b"inner");
        let all = receive(&receiver, 1);
        assert_eq!((all.len(), all[0].1.as_slice()), (1, &b"inner"[..]));
        assert_eq!(all[0].0.start, 20 + words * 4);
    }
    // Nothing behind the header is a packet of nothing.
    wire.send(|_| (), b"");
    let (received, payload) = &receive(&receiver, 1)[0];
    assert_eq!((received.start, payload.len()), (20, 0));
}

#[test]
fn outer_fragments_arrive_as_one_packet() {
    let wire = Wire::new();
    let receiver = bind(&wire.namespace, "10.78.0.1", 4);
    let payload: Vec<u8> = (0..=255).cycle().take(1800).collect();
    wire.send(
        |header| {
            header.identification = 7;
            header.more_fragments = true;
        },
        &payload[..1000],
    );
    assert!(receive_nothing(&receiver));
    wire.send(
        |header| {
            header.identification = 7;
            header.fragment_offset = 125.try_into().unwrap();
        },
        &payload[1000..],
    );
    assert_eq!(receive(&receiver, 1)[0].1, payload);
}

#[test]
fn an_ipv4_header_that_fills_the_buffer_leaves_nothing() {
    let wire = Wire::new();
    let receiver = bind(&wire.namespace, "10.78.0.1", 4);
    for len in 0..24 {
        wire.send(|_| (), b"inner");
        let mut buffer = vec![0; len];
        let mut batch = RecvBatch::new(1);
        let got = eventually(|| {
            let buffers = [buffer.as_mut_slice()];
            let got = receiver.recv_batch(&mut batch, buffers, &mut PeerErrors::new(1));
            got.unwrap().first().copied()
        });
        let got = got.unwrap();
        assert_eq!((got.start, got.len), (len.min(20), len.saturating_sub(20)));
        assert!(got.truncated);
    }
}

#[test]
fn a_node_that_does_not_speak_ip_in_ip_says_so() {
    let (a, b) = pair();
    let _routes = &b;
    for ([source, target], errno, kind, code) in
        [(V4, libc::ENOPROTOOPT, 3, 2), (V6, libc::EPROTO, 4, 1)]
    {
        let sender = bind(&a, source, 4);
        send_all(&sender, &[to(target, &[0x45; 40])]);
        let mut errors = PeerErrors::new(8);
        eventually(|| (sender.drain_errors(&mut errors).unwrap() > 0).then_some(()));
        let error = *errors.list().first().expect("protocol unreachable");
        assert_eq!(
            (error.peer.ip().to_string().as_str(), error.errno),
            (target, errno)
        );
        let from = Some(target.parse().unwrap());
        assert_eq!(error.origin, ErrorOrigin::Icmp { kind, code, from });
    }
}

#[test]
fn a_packet_above_the_device_mtu_fails_alone_and_tells_the_mtu() {
    let (a, b) = pair();
    for ([source, target], most) in [(V4, 1480), (V6, 1460)] {
        let sender = bind(&a, source, 41);
        let receiver = bind(&b, target, 41);
        let (fits, large) = (vec![1; most], vec![2; most + 1]);
        send_all(&sender, &[to(target, &fits)]);
        let mut errors = PeerErrors::new(8);
        let report = sender.send_batch(&mut SendBatch::new(4), &[to(target, &large)], &mut errors);
        assert!(
            matches!(report.stop, Some(SendStop::Failed(_))),
            "{report:?}"
        );
        sender.drain_errors(&mut errors).unwrap();
        let error = errors.list()[0];
        assert_eq!((error.errno, error.mtu), (libc::EMSGSIZE, Some(1500)));
        assert_eq!(error.peer.ip().to_string(), target);
        assert_eq!(error.origin, ErrorOrigin::Local);
        assert_eq!(receive(&receiver, 1).len(), 1);
    }
}

#[test]
fn a_routers_mtu_is_reported() {
    let (a, router, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    routed(&a, &router, &b, 1300);
    for (source, target) in [("10.77.1.2", "10.77.2.2"), ("fd77:1::2", "fd77:2::2")] {
        let sender = bind(&a, source, 4);
        let receiver = bind(&b, target, 4);
        send_all(&sender, &[to(target, &[2; 1400])]);
        let mut errors = PeerErrors::new(8);
        eventually(|| (sender.drain_errors(&mut errors).unwrap() > 0).then_some(()));
        let error = *errors.list().first().expect("fragmentation needed");
        assert_eq!(
            (error.peer.ip().to_string().as_str(), error.mtu),
            (target, Some(1300))
        );
        assert!(matches!(error.origin, ErrorOrigin::Icmp { .. }));
        // DF was set, and the kernel's path MTU does not hold packets back.
        send_all(&sender, &[to(target, &[2; 1400]), to(target, &[1; 1000])]);
        assert_eq!(receive(&receiver, 1)[0].1.len(), 1000);
    }
}

#[test]
fn addresses_of_nobody_and_families_that_do_not_fit_are_errors() {
    let (a, _b) = pair();
    let nobody: IpAddr = "10.77.0.99".parse().unwrap();
    let bound = a.run(|| Socket::ip(nobody, 4, SocketOptions::default()));
    let error = bound.unwrap_err();
    assert!(matches!(error, SocketError::Bind { .. }), "{error:?}");
    let text = "cannot bind the IP protocol 4 socket to 10.77.0.99";
    assert!(error.to_string().starts_with(text), "{error}");
    let sender = bind(&a, V4[0], 4);
    let datagrams = [to(V6[1], b"x")];
    let report = sender.send_batch(&mut SendBatch::new(4), &datagrams, &mut PeerErrors::new(1));
    assert!(
        matches!(report.stop, Some(SendStop::Failed(_))),
        "{report:?}"
    );
}
