//! What several workers have of one device or address: each its own descriptor, and each
//! flow at one of them.

use std::fs;
use std::io::IoSlice;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use culvert_core::PortId;
use culvert_host::dataplane::{Driver, TapPort, Worker, WorkerOptions};

use culvert_host::netlink::Netlink;
use culvert_host::sys::socket::{
    DEFAULT_TTL, Datagram, PeerErrors, RecvBatch, Socket, SocketError, SocketOptions, UdpSourcePool,
};
use culvert_host::sys::tap::{Tap, TapError, TapOptions};

use crate::lab::{Namespace, pair};
use crate::socket::send_all;

fn attach(namespace: &Namespace, queues: usize) -> Vec<Tap> {
    namespace
        .run(|| Tap::attach_queues("t0", TapOptions::default(), queues))
        .unwrap()
}

#[test]
fn a_persistent_device_is_attached_by_as_many_queues_as_are_wanted() {
    let namespace = Namespace::new();
    let create =
        |name, queues| namespace.run(|| Tap::create_queues(name, TapOptions::default(), queues));
    let made = create("t0", 2).unwrap();
    assert_eq!(made.len(), 2);
    let taken = create("t0", 2).unwrap_err();
    assert!(matches!(taken, TapError::NameTaken { .. }), "{taken}");
    made[1].set_persist(true).unwrap();
    drop(made);
    for queues in [2, 1, 5, 2] {
        assert_eq!(attach(&namespace, queues).len(), queues);
        // Whoever knows nothing of queues gets one.
        let one = namespace.run(|| Tap::attach("t0", TapOptions::default()));
        drop(one.unwrap());
    }
    let all = attach(&namespace, 3);
    all[0].set_persist(false).unwrap();
    drop(all);
    let gone = namespace.run(|| Tap::attach_queues("t0", TapOptions::default(), 2));
    assert!(matches!(gone, Err(TapError::NotFound { .. })), "{gone:?}");
}

#[test]
fn a_device_that_was_made_with_one_queue_keeps_it() {
    let namespace = Namespace::new();
    let made = namespace
        .run(|| Tap::create_queues("t0", TapOptions::default(), 1))
        .unwrap();
    made[0].set_persist(true).unwrap();
    drop(made);
    let all = attach(&namespace, 2);
    assert_eq!(all.len(), 1);
    // Another worker writes by a descriptor of the same queue.
    let further = all[0].try_clone().unwrap();
    assert_eq!(further.name(), "t0");
    let second = namespace.run(|| Tap::attach_queues("t0", TapOptions::default(), 2));
    assert!(matches!(second, Err(TapError::InUse { .. })), "{second:?}");
}

#[test]
fn a_device_with_many_queues_can_do_without_queueing_disciplines() {
    let namespace = Namespace::new();
    let _queues = namespace
        .run(|| Tap::create_queues("t0", TapOptions::default(), 2))
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // Once more for a device that another daemon left.
    for _ in 0..2 {
        runtime
            .block_on(async {
                let netlink = Netlink::connect(Some(namespace.ns())).unwrap();
                netlink.set_no_queue("t0").await?;
                netlink.set_up("t0").await?;
                let nobody = netlink.set_no_queue("t9").await.unwrap_err();
                assert!(nobody.is_not_found(), "{nobody}");
                Ok::<(), culvert_host::netlink::NetlinkError>(())
            })
            .unwrap();
        assert_eq!(namespace.link("t0")["qdisc"], "noqueue");
    }
}

/// What a socket has received, at once.
fn taken(socket: &Socket) -> Vec<Vec<u8>> {
    let mut batch = RecvBatch::new(64);
    let mut buffers = vec![vec![0; 2000]; 64];
    let mut all = Vec::new();
    loop {
        let slices = buffers.iter_mut().map(Vec::as_mut_slice);
        let mut errors = PeerErrors::new(8);
        let got = socket.recv_batch(&mut batch, slices, &mut errors).unwrap();
        if got.is_empty() {
            return all;
        }
        let payloads = got.iter().zip(&buffers);
        all.extend(payloads.map(|(r, buffer)| buffer[r.start..][..r.len].to_vec()));
    }
}

#[test]
fn a_port_is_shared_by_those_alone_who_were_let_in() {
    let (a, b) = pair();
    let at = "10.77.0.2:8472".parse().unwrap();
    let shared = SocketOptions {
        shares_port: true,
        ..SocketOptions::default()
    };
    let bind = |options| b.run(|| Socket::udp(at, options));
    let first = bind(SocketOptions::default()).unwrap();
    assert!(matches!(bind(shared), Err(SocketError::Bind { .. })));
    first.share_port().unwrap();
    let second = bind(shared).unwrap();
    let stranger = bind(SocketOptions::default());
    assert!(matches!(stranger, Err(SocketError::Bind { .. })));

    let address: IpAddr = "10.77.0.1".parse().unwrap();
    let pool = a
        .run(|| UdpSourcePool::bind(address, 32, SocketOptions::default()))
        .unwrap();
    for (number, socket) in (0u8..).zip(pool.sockets()) {
        let payload = [number; 20];
        let pieces = [IoSlice::new(&payload)];
        let datagram = Datagram {
            pieces: &pieces,
            segment: None,
            destination: at,
            tos: 0,
            ttl: DEFAULT_TTL,
        };
        send_all(socket, &[datagram; 3]);
    }
    let [one, other] = [&first, &second].map(taken);
    assert_eq!(one.len() + other.len(), 96);
    assert!(!one.is_empty() && !other.is_empty());
    assert!(one.iter().all(|payload| !other.contains(payload)));
}

/// An inner packet: its IP version's header, and the ports.
fn inner(v6: bool, flow: u16, tail: &[u8]) -> Vec<u8> {
    let port = (40_000 + 2 * flow).to_be_bytes();
    let ports = [&port[..], &[0x14, 0x51]].concat();
    let mut header = match v6 {
        false => vec![0; 20],
        true => vec![0; 40],
    };
    match v6 {
        false => {
            header[0] = 0x45;
            header[9] = 6;
            header[12..20].copy_from_slice(&[10, 244, 1, 2, 10, 244, 2, 2]);
        }
        true => {
            header[0] = 0x60;
            header[6] = 17;
            (header[23], header[39]) = (2, 3);
        }
    }
    [&header[..], &ports, tail].concat()
}

#[test]
fn each_inner_flow_is_taken_by_one_of_the_raw_sockets() {
    let (a, b) = pair();
    const PARTS: u8 = 3;
    for [source, target] in [["10.77.0.1", "10.77.0.2"], ["fd77::1", "fd77::2"]] {
        for (v6, protocol) in [(false, 4), (true, 41)] {
            let bind = |namespace: &Namespace, address: &str| {
                let address = address.parse().unwrap();
                let options = SocketOptions::default();
                namespace
                    .run(|| Socket::ip(address, protocol, options))
                    .unwrap()
            };
            let sender = bind(&a, source);
            let parts: Vec<Socket> = (0..PARTS).map(|_| bind(&b, target)).collect();
            for (part, socket) in (0..).zip(&parts) {
                socket.take_part(part, PARTS).unwrap();
            }
            let send = |packet: &[u8]| {
                let datagram = Datagram {
                    pieces: &[IoSlice::new(packet)],
                    segment: None,
                    destination: (target.parse::<IpAddr>().unwrap(), 0).into(),
                    tos: 0,
                    ttl: DEFAULT_TTL,
                };
                send_all(&sender, &[datagram]);
            };
            for flow in 0..60 {
                for number in 0..3 {
                    send(&inner(v6, flow, &[number; 8]));
                }
            }
            let all: Vec<Vec<Vec<u8>>> = parts.iter().map(taken).collect();
            assert_eq!(
                all.iter().map(Vec::len).sum::<usize>(),
                180,
                "{target} {protocol}"
            );
            assert!(
                all.iter().all(|part| part.len() > 15),
                "{target} {protocol}"
            );
            for part in &all {
                for packet in part {
                    let flow = &packet[..packet.len() - 8];
                    let same = part.iter().filter(|other| other.starts_with(flow));
                    assert_eq!(same.count(), 3);
                }
            }
            // Of a fragment, or behind options, nobody knows the ports.
            if !v6 {
                for (at, value) in [(7, 9), (6, 0x20), (0, 0x46)] {
                    for flow in 0..20 {
                        let mut packet = inner(v6, flow, &[7; 8]);
                        packet[at] = value;
                        send(&packet);
                    }
                    let all: Vec<usize> = parts.iter().map(|part| taken(part).len()).collect();
                    assert!(all.contains(&20), "{all:?}");
                    assert_eq!(all.iter().sum::<usize>(), 20);
                }
            }
        }
    }
}

/// Clock ticks, of 10 ms, that the thread of this name has run.
fn ticks(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let is_it = |comm: String| comm.trim() == name;
    let task = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(is_it));
    let stat = fs::read_to_string(task.unwrap().join("stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let times = fields.skip(11).take(2);
    times.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_worker_polls_after_work_as_long_as_it_is_told_to() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let spin = Duration::from_millis(500);
    for (number, spin) in [(70, Duration::ZERO), (71, spin)] {
        let namespace = Namespace::new();
        let tap = namespace.run(|| Tap::create("t0", TapOptions::default()));
        let options = WorkerOptions {
            number,
            spin,
            ..WorkerOptions::default()
        };
        let (worker, _channel, _ended) = Worker::start_with(options).unwrap();
        namespace.ip(&["addr", "add", "10.78.0.1/24", "dev", "t0"]);
        namespace.ip(&["link", "set", "t0", "up"]);
        let driver = Driver::Tap(TapPort::new(tap.unwrap()));
        runtime.block_on(worker.attach(PortId(1), driver)).unwrap();
        // What the interface says of itself is over then.
        thread::sleep(Duration::from_secs(3));
        let name = format!("culvert-{number}");
        let before = ticks(&name);
        // It has one frame to take in: a question for an address.
        namespace.sh("ping -c 1 -W 1 10.78.0.2 || true");
        thread::sleep(Duration::from_secs(1));
        let ran = ticks(&name) - before;
        match spin.is_zero() {
            true => assert!(ran < 5, "{ran}"),
            false => assert!((5..=200).contains(&ran), "{ran}"),
        }
    }
}
