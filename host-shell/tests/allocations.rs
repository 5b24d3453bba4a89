//! A worker that runs takes no memory from the allocator for its packets. A program of
//! its own: it counts what all threads allocate.

#[allow(dead_code)]
#[path = "sys/lab.rs"]
mod lab;
#[allow(dead_code)]
#[path = "sys/drivers/node.rs"]
mod node;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use culvert_core::channel::Encap;

use lab::{Namespace, pair};
use node::{Node, Plan};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const PODS: [&str; 2] = ["10.244.1.2:7000", "10.244.2.2:7000"];

/// Sockets of two pods, all made before anything is counted.
struct Sockets {
    udp: [UdpSocket; 2],
    tcp: [TcpStream; 2],
}

impl Sockets {
    fn new(pods: [&Namespace; 2]) -> Sockets {
        let [first, second]: [SocketAddr; 2] = PODS.map(|pod| pod.parse().unwrap());
        let udp = [(pods[0], first), (pods[1], second)].map(|(pod, address)| {
            let socket = pod.run(|| UdpSocket::bind(address)).unwrap();
            let timeout = Some(Duration::from_secs(2));
            socket.set_read_timeout(timeout).unwrap();
            socket
        });
        let listener = pods[1].run(|| TcpListener::bind(second)).unwrap();
        let client = pods[0].run(|| TcpStream::connect(second)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nonblocking(true).unwrap();
        }
        Sockets {
            udp,
            tcp: [client, server],
        }
    }

    /// Small datagrams there and back, and a stream of super-frames.
    fn talk(&mut self) {
        let second: SocketAddr = PODS[1].parse().unwrap();
        let mut buffer = [0; 2000];
        for size in [18, 1200] {
            for _ in 0..50 {
                for _ in 0..16 {
                    self.udp[0].send_to(&buffer[..size], second).unwrap();
                }
                for _ in 0..16 {
                    let (len, from) = self.udp[1].recv_from(&mut buffer).unwrap();
                    self.udp[1].send_to(&buffer[..len], from).unwrap();
                }
                for _ in 0..16 {
                    self.udp[0].recv_from(&mut buffer).unwrap();
                }
            }
        }
        self.stream(8 << 20);
    }

    fn stream(&mut self, len: usize) {
        let (mut sent, mut received) = (0, 0);
        let mut buffer = [0; 1 << 16];
        let end = Instant::now() + Duration::from_secs(20);
        while received < len {
            assert!(Instant::now() < end, "{received} of {len} octets came");
            let left = buffer.len().min(len - sent);
            sent += moved(self.tcp[0].write(&buffer[..left]));
            received += moved(self.tcp[1].read(&mut buffer));
        }
    }
}

fn moved(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(moved) => moved,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn packets_need_no_memory_from_the_allocator() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let addresses = ["10.77.0.1", "10.77.0.2"];
    for (encap, wire) in [
        (Encap::Vxlan, false),
        (Encap::Vxlan, true),
        (Encap::Ipip, false),
    ] {
        let (a, b) = pair();
        let plan = Plan {
            wire,
            ..Plan::new(encap, addresses)
        };
        let nodes = [Node::new(plan, 1, &a), Node::new(plan, 2, &b)];
        let mut sockets = Sockets::new([&nodes[0].pod, &nodes[1].pod]);
        // Once for what is made at the first packet.
        sockets.talk();
        let before = dhat::HeapStats::get().total_blocks;
        sockets.talk();
        let taken = dhat::HeapStats::get().total_blocks - before;
        assert_eq!(taken, 0, "allocations, {encap:?}, by a wire: {wire}");
        assert_eq!(nodes.iter().map(Node::lost).sum::<u64>(), 0);
        // It counts at all.
        let something = std::hint::black_box(vec![1u8; 100]);
        assert_eq!(dhat::HeapStats::get().total_blocks - before, 1);
        drop(something);
    }
}
