//! Underlay sockets over a veth between two namespaces.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use culvert_host::sys::socket::{
    DEFAULT_TTL, Datagram, ErrorOrigin, PeerErrors, Received, RecvBatch, SOURCE_PORTS, SendBatch,
    SendReport, SendStop, Socket, SocketOptions, UdpSourcePool,
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::lab::{Namespace, eventually, pair, routed};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn bind(namespace: &Namespace, address: &str) -> Socket {
    namespace
        .run(|| Socket::udp(at(address), SocketOptions::default()))
        .unwrap()
}

fn to<'a>(destination: &str, payload: &'a [u8]) -> Datagram<'a> {
    Datagram {
        pieces: Box::leak(Box::new([IoSlice::new(payload)])),
        segment: None,
        destination: at(destination),
        tos: 0,
        ttl: DEFAULT_TTL,
    }
}

fn send(socket: &Socket, datagrams: &[Datagram<'_>], errors: &mut PeerErrors) -> SendReport {
    socket.send_batch(&mut SendBatch::new(64), datagrams, errors)
}

pub(crate) fn send_all(socket: &Socket, datagrams: &[Datagram<'_>]) {
    let report = send(socket, datagrams, &mut PeerErrors::new(64));
    assert!(report.stop.is_none(), "{report:?}");
    assert_eq!(report.sent, datagrams.len());
}

/// Receives until `count` datagrams are there or two seconds are over.
pub(crate) fn receive(socket: &Socket, count: usize) -> Vec<(Received, Vec<u8>)> {
    let mut batch = RecvBatch::new(64);
    let mut buffers = vec![vec![0; 2000]; 64];
    let mut all = Vec::new();
    eventually(|| {
        let slices = buffers.iter_mut().map(Vec::as_mut_slice);
        let got = socket
            .recv_batch(&mut batch, slices, &mut PeerErrors::new(8))
            .unwrap()
            .to_vec();
        let payloads = got.iter().zip(&buffers);
        all.extend(payloads.map(|(received, buffer)| {
            let payload = &buffer[received.start..][..received.len];
            (*received, payload.to_vec())
        }));
        (all.len() >= count).then_some(())
    });
    all
}

#[test]
fn a_batch_arrives_in_order_with_its_ip_fields() {
    let (a, b) = pair();
    for (source, wildcard, target, ip) in [
        ("10.77.0.1:0", "0.0.0.0:8472", "10.77.0.2:8472", "10.77.0.2"),
        ("[fd77::1]:0", "[::]:8472", "[fd77::2]:8472", "fd77::2"),
    ] {
        let sender = bind(&a, source);
        let receiver = bind(&b, wildcard);
        let payloads: Vec<Vec<u8>> = (0..150u8).map(|n| vec![n; usize::from(n)]).collect();
        let numbered = payloads.iter().zip(0u8..);
        let datagrams: Vec<Datagram<'_>> = numbered
            .map(|(payload, n)| Datagram {
                tos: if n % 3 == 0 { 0 } else { n },
                ttl: if n % 2 == 0 { DEFAULT_TTL } else { n },
                ..to(target, payload)
            })
            .collect();
        send_all(&sender, &datagrams);
        let all = receive(&receiver, 150);
        assert_eq!(all.len(), 150);
        for ((received, payload), datagram) in all.iter().zip(&datagrams) {
            assert_eq!(payload, &*datagram.pieces[0]);
            assert_eq!((received.tos, received.ttl), (datagram.tos, datagram.ttl));
            assert_eq!(received.source, sender.local_addr());
            assert_eq!(received.destination, ip.parse::<IpAddr>().unwrap());
            assert!(!received.truncated);
        }
        assert_eq!(receive_now(&receiver), 0);
    }
}

fn receive_now(socket: &Socket) -> usize {
    let mut buffer = [0; 2000];
    let mut batch = RecvBatch::new(4);
    let mut errors = PeerErrors::new(4);
    socket
        .recv_batch(&mut batch, [buffer.as_mut_slice()], &mut errors)
        .unwrap()
        .len()
}

#[test]
fn fewer_buffers_than_datagrams_leave_the_rest_and_small_ones_truncate() {
    let (a, b) = pair();
    let sender = bind(&a, "10.77.0.1:0");
    let receiver = bind(&b, "10.77.0.2:8472");
    send_all(
        &sender,
        &[
            to("10.77.0.2:8472", b"first"),
            to("10.77.0.2:8472", b"second"),
        ],
    );
    let mut batch = RecvBatch::new(64);
    let mut errors = PeerErrors::new(4);
    let mut one = [0; 3];
    let got = receiver
        .recv_batch(&mut batch, [one.as_mut_slice()], &mut errors)
        .unwrap();
    assert_eq!((got.len(), got[0].len, got[0].truncated), (1, 3, true));
    assert_eq!(&one, b"fir");
    assert!(
        receiver
            .recv_batch(&mut batch, [], &mut errors)
            .unwrap()
            .is_empty()
    );
    let (received, payload) = &receive(&receiver, 1)[0];
    assert_eq!(
        (payload.as_slice(), received.truncated),
        (&b"second"[..], false)
    );
}

#[test]
fn a_dead_peer_does_not_disturb_a_live_one() {
    let (a, b) = pair();
    for (source, dead, live, kind) in [
        ("10.77.0.1:0", "10.77.0.2:9", "10.77.0.2:8472", 3),
        ("[fd77::1]:0", "[fd77::2]:9", "[fd77::2]:8472", 1),
    ] {
        let sender = bind(&a, source);
        let receiver = bind(&b, live);
        let mut errors = PeerErrors::new(64);
        let mut batch = SendBatch::new(64);
        for round in 0..50u8 {
            let payload = [round];
            let datagrams = [
                to(dead, &payload),
                to(live, &payload),
                to(dead, &payload),
                to(live, &payload),
            ];
            let report = sender.send_batch(&mut batch, &datagrams, &mut errors);
            assert!(
                report.stop.is_none() && report.sent == 4,
                "round {round}: {report:?}"
            );
        }
        assert_eq!(receive(&receiver, 100).len(), 100);
        sender.drain_errors(&mut errors).unwrap();
        // The kernel limits how many ICMP errors it sends: not all 100 come.
        let first = errors
            .list()
            .first()
            .expect("the dead peer's port unreachable");
        assert_eq!((first.peer, first.errno), (at(dead), libc::ECONNREFUSED));
        let code = if kind == 3 { 3 } else { 4 };
        let from = Some(at(dead).ip());
        assert_eq!(first.origin, ErrorOrigin::Icmp { kind, code, from });
        assert_eq!(first.mtu, None);
        assert_eq!(
            receive_now(&sender),
            0,
            "the error does not disturb receiving"
        );
    }
}

#[test]
fn the_first_datagram_after_a_dead_peers_error_leaves_too() {
    let (a, b) = pair();
    let receiver = bind(&b, "10.77.0.2:8472");
    let sender = bind(&a, "10.77.0.1:0");
    let mut errors = PeerErrors::new(8);
    // Fewer than the kernel's limit of ICMP errors in a row.
    for round in 1..=4 {
        send_all(&sender, &[to("10.77.0.2:9", b"dead")]);
        // The error has come in when the next call begins: that call is told of it.
        thread::sleep(Duration::from_millis(20));
        let report = send(&sender, &[to("10.77.0.2:8472", b"live")], &mut errors);
        assert!(report.stop.is_none(), "{report:?}");
        assert_eq!(errors.list().len(), round);
    }
    assert_eq!(receive(&receiver, 4).len(), 4);
}

#[test]
fn an_error_of_a_peer_is_not_an_error_of_receiving() {
    let (a, b) = pair();
    let socket = bind(&a, "10.77.0.1:8472");
    let other = bind(&b, "10.77.0.2:8472");
    send_all(&socket, &[to("10.77.0.2:9", b"x")]);
    send_all(&other, &[to("10.77.0.1:8472", b"data")]);
    // Let the port unreachable come in before anything is received.
    thread::sleep(Duration::from_millis(50));
    let mut batch = RecvBatch::new(4);
    let mut errors = PeerErrors::new(4);
    let mut buffer = [0; 100];
    let got = socket
        .recv_batch(&mut batch, [buffer.as_mut_slice()], &mut errors)
        .unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(errors.list().len(), 1);
    assert_eq!(errors.list()[0].peer, at("10.77.0.2:9"));
}

#[test]
fn an_error_that_the_queue_has_no_room_for_is_taken_too() {
    let (a, b) = pair();
    let options = SocketOptions {
        send_buffer: 1 << 16,
        receive_buffer: 1,
        ..SocketOptions::default()
    };
    let sender = a
        .run(|| Socket::udp(at("10.77.0.1:9000"), options))
        .unwrap();
    // What is received and what is wrong share one buffer.
    let filler = bind(&b, "10.77.0.2:0");
    send_all(&filler, &[to("10.77.0.1:9000", &[0; 1400]); 8]);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll
        .add(&sender, EpollEvent::new(EpollFlags::empty(), 1))
        .unwrap();
    let ready = |patience: u8| {
        let mut events = [EpollEvent::empty(); 1];
        epoll.wait(&mut events, patience).unwrap()
    };
    assert_eq!(ready(0), 0);
    send_all(&sender, &[to("10.77.0.2:1", b"nobody")]);
    assert_eq!(ready(200), 1);
    let mut errors = PeerErrors::new(8);
    assert_eq!(sender.drain_errors(&mut errors).unwrap(), 1);
    assert_eq!((errors.list().len(), errors.lost()), (0, 1));
    assert_eq!(ready(0), 0, "the socket still reports an error");
}

#[test]
fn a_datagram_above_the_device_mtu_fails_alone() {
    let (a, b) = pair();
    for (source, target, most) in [
        ("10.77.0.1:0", "10.77.0.2:8472", 1472),
        ("[fd77::1]:0", "[fd77::2]:8472", 1452),
    ] {
        let sender = bind(&a, source);
        let receiver = bind(&b, target);
        let mut errors = PeerErrors::new(8);
        let (fits, large) = (vec![1; most], vec![2; most + 1]);
        let datagrams = [to(target, &fits), to(target, &large), to(target, &fits)];
        let report = send(&sender, &datagrams, &mut errors);
        assert_eq!(report.sent, 1);
        match report.stop {
            Some(SendStop::Failed(error)) => assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE)),
            other => panic!("{other:?}"),
        }
        sender.drain_errors(&mut errors).unwrap();
        let error = errors.list()[0];
        assert_eq!((error.errno, error.mtu), (libc::EMSGSIZE, Some(1500)));
        assert_eq!(error.origin, ErrorOrigin::Local);
        send_all(&sender, &datagrams[2..]);
        assert_eq!(receive(&receiver, 2).len(), 2);
    }
}

#[test]
fn a_routers_mtu_is_reported_and_later_datagrams_still_leave() {
    let (a, router, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    routed(&a, &router, &b, 1300);
    let sender = bind(&a, "10.77.1.2:0");
    let receiver = bind(&b, "10.77.2.2:8472");
    let mut errors = PeerErrors::new(8);
    let (small, large) = (vec![1; 1000], vec![2; 1400]);
    send_all(&sender, &[to("10.77.2.2:8472", &large)]);
    eventually(|| (sender.drain_errors(&mut errors).unwrap() > 0).then_some(()));
    let error = *errors.list().first().expect("fragmentation needed");
    assert_eq!((error.peer, error.mtu), (at("10.77.2.2:8472"), Some(1300)));
    let from = Some("10.77.1.1".parse().unwrap());
    assert_eq!(
        error.origin,
        ErrorOrigin::Icmp {
            kind: 3,
            code: 4,
            from
        }
    );
    // The kernel's path MTU does not hold datagrams back: the core decides.
    send_all(
        &sender,
        &[to("10.77.2.2:8472", &large), to("10.77.2.2:8472", &small)],
    );
    let all = receive(&receiver, 1);
    assert_eq!(
        all.iter()
            .map(|(received, _)| received.len)
            .collect::<Vec<_>>(),
        [1000]
    );
}

#[test]
fn a_full_send_buffer_is_told_from_failure() {
    let (a, _b) = pair();
    let options = SocketOptions {
        send_buffer: 1,
        receive_buffer: 1,
        ..SocketOptions::default()
    };
    let sender = a.run(|| Socket::udp(at("10.77.0.1:0"), options)).unwrap();
    // Nobody has the address: datagrams wait for its MAC and fill the buffer.
    let payload = [0; 1000];
    let datagrams = [to("10.77.0.99:8472", &payload); 64];
    let report = send(&sender, &datagrams, &mut PeerErrors::new(8));
    assert!(
        matches!(report.stop, Some(SendStop::WouldBlock)),
        "{report:?}"
    );
    assert!((1..64).contains(&report.sent), "{report:?}");
}

#[test]
fn a_destination_of_the_other_family_fails_where_it_stands() {
    let (a, b) = pair();
    let receiver = bind(&b, "10.77.0.2:8472");
    let sender = bind(&a, "10.77.0.1:0");
    let datagrams = [to("10.77.0.2:8472", b"a"), to("[fd77::2]:8472", b"b")];
    let report = send(&sender, &datagrams, &mut PeerErrors::new(8));
    assert_eq!(report.sent, 1);
    match report.stop {
        Some(SendStop::Failed(error)) => assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT)),
        other => panic!("{other:?}"),
    }
    assert_eq!(receive(&receiver, 1).len(), 1);
}

#[test]
fn an_unreachable_network_stops_there_and_the_rest_can_follow() {
    let (a, b) = pair();
    let receiver = bind(&b, "10.77.0.2:8472");
    let sender = bind(&a, "10.77.0.1:0");
    let datagrams = [to("192.0.2.1:8472", b"a"), to("10.77.0.2:8472", b"b")];
    let report = send(&sender, &datagrams, &mut PeerErrors::new(8));
    assert!(
        matches!(report.stop, Some(SendStop::Failed(_))) && report.sent == 0,
        "{report:?}"
    );
    send_all(&sender, &datagrams[1..]);
    assert_eq!(receive(&receiver, 1).len(), 1);
}

#[test]
fn a_pool_sends_from_its_ports_and_takes_nothing_in() {
    let (a, b) = pair();
    let receiver = bind(&b, "10.77.0.2:8472");
    let pool = a
        .run(|| UdpSourcePool::bind("10.77.0.1".parse().unwrap(), 8, SocketOptions::default()))
        .unwrap();
    for entropy in 49152..49152 + 64 {
        send_all(pool.socket_for(entropy), &[to("10.77.0.2:8472", b"x")]);
        assert_eq!(
            pool.socket_for(entropy).local_addr(),
            pool.sockets()[pool.index_for(entropy)].local_addr()
        );
    }
    let mut ports: Vec<u16> = receive(&receiver, 64)
        .iter()
        .map(|(received, _)| received.source.port())
        .collect();
    assert_eq!(ports.len(), 64);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8);
    assert!(ports.iter().all(|port| SOURCE_PORTS.contains(port)));
    for socket in pool.sockets() {
        send_all(
            &receiver,
            &[Datagram {
                destination: socket.local_addr(),
                ..to("1.1.1.1:1", b"y")
            }],
        );
    }
    thread::sleep(Duration::from_millis(50));
    assert!(pool.sockets().iter().all(|socket| receive_now(socket) == 0));
    // Errors of peers do come in.
    let mut errors = PeerErrors::new(4);
    send_all(&pool.sockets()[0], &[to("10.77.0.2:9", b"z")]);
    eventually(|| (pool.sockets()[0].drain_errors(&mut errors).unwrap() > 0).then_some(()));
    assert_eq!(errors.list().len(), 1);
}

#[test]
fn readiness_comes_by_epoll_with_tokens_and_a_wake_up() {
    let (a, b) = pair();
    let receiver = bind(&b, "10.77.0.2:8472");
    let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll
        .add(&receiver, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))
        .unwrap();
    epoll
        .add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, 1))
        .unwrap();
    let mut events = [EpollEvent::empty(); 8];
    assert_eq!(epoll.wait(&mut events, 0u8).unwrap(), 0);
    send_all(&bind(&a, "10.77.0.1:0"), &[to("10.77.0.2:8472", b"x")]);
    assert_eq!(epoll.wait(&mut events, 200u8).unwrap(), 1);
    assert_eq!(events[0].data(), u64::MAX);
    receive_now(&receiver);
    thread::scope(|scope| {
        scope.spawn(|| wake.write(1).unwrap());
        assert_eq!(epoll.wait(&mut events, 200u8).unwrap(), 1);
    });
    assert_eq!((events[0].data(), wake.read().unwrap()), (1, 1));
}

#[test]
fn a_batch_can_move_to_another_thread_between_calls() {
    let (a, b) = pair();
    let receiver = bind(&b, "10.77.0.2:8472");
    let sender = bind(&a, "10.77.0.1:0");
    let mut batch = SendBatch::new(2);
    for _ in 0..3 {
        batch = thread::scope(|scope| {
            let sender = &sender;
            scope
                .spawn(move || {
                    let payload = vec![7; 100];
                    let datagrams = [to("10.77.0.2:8472", &payload); 5];
                    let report = sender.send_batch(&mut batch, &datagrams, &mut PeerErrors::new(1));
                    assert_eq!(report.sent, 5);
                    batch
                })
                .join()
                .unwrap()
        });
    }
    assert_eq!(receive(&receiver, 15).len(), 15);
}
