//! The core on a Cortex-M4 with small tables, behind one NIC whose tags are the ports:
//! frame by frame the same as on this machine.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use culvert_core::channel::{
    Apply, Board, BoardAnswer, Encap, Endpoint, Network, Operation, Owner, Peer, Port, PortKind,
    Request, Response, Role, Wire, WireAddress,
};
use culvert_core::{
    Counter, Fate, Frame, Instant, IpPrefix, MacAddr, NetworkId, Originated, Packet, PeerId,
    PortId, Tiny, Vni,
};
use culvert_host::appliance::Arch;
use culvert_lab::appliance::{Guest, LIMIT, Outside};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

use crate::images::{boot, image};
use crate::node::tagged as with_tag;

const UPLINK: PortId = PortId(7);
const PODS: [PortId; 2] = [PortId(1), PortId(2)];
const GATEWAY_MAC: [u8; 6] = [0xee; 6];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const NODE: [u8; 4] = [192, 168, 77, 1];
const OTHER_NODE: [u8; 4] = [192, 168, 77, 2];
const OTHER_POD: [u8; 4] = [10, 244, 2, 7];
const VXLAN_PORT: u16 = 4789;
/// What larger microcontrollers with a Cortex-M4 have: 2 MiB of flash, 640 KiB of RAM.
const FLASH: u64 = 2 << 20;
const RAM: u64 = 640 << 10;
/// When everything happens.
const NOW: Instant = Instant::from_micros(5_000_000);

fn pod_mac(pod: PortId) -> [u8; 6] {
    [0x0a, 0x58, 10, 244, 1, u8::try_from(pod.0).unwrap()]
}

fn pod_ip(pod: PortId) -> [u8; 4] {
    [10, 244, 1, u8::try_from(pod.0).unwrap()]
}

/// Two pods, an uplink of raw Ethernet, and another node by VXLAN.
fn tables() -> Vec<Operation> {
    let network = NetworkId(0);
    let wire = Wire {
        addresses: std::iter::once(WireAddress {
            address: NODE.into(),
            prefix_length: 24,
        })
        .collect(),
        gateways: culvert_core::heapless::Vec::new(),
    };
    let uplink = Port {
        mac: MacAddr::new(UPLINK_MAC),
        ..Port::new(UPLINK, 1500, PortKind::Wire(wire))
    };
    let vni = Vni::new(4096).unwrap();
    let peer = Peer::new(PeerId(0), network, OTHER_NODE.into());
    let there = IpPrefix::new(IpAddr::from([10, 244, 2, 0]), 24).unwrap();
    let pods = PODS.map(|pod| {
        let endpoint = Endpoint::with_address(network, pod_ip(pod).into());
        Operation::UpsertPort(Port::endpoint(
            pod,
            1450,
            MacAddr::new(pod_mac(pod)),
            endpoint,
        ))
    });
    let ground = [
        Operation::UpsertPort(uplink),
        Operation::UpsertNetwork(Network::new(network, vni, NODE.into(), UPLINK)),
    ];
    let beyond = [
        Operation::UpsertPeer(peer.clone()),
        Operation::UpsertRoute(peer.route(there, Encap::Vxlan)),
    ];
    [&ground[..], &pods, &beyond].concat()
}

/// The image, and the same core here, which says what is to come out.
struct Twins {
    guest: Guest,
    here: Box<Tiny>,
}

impl Twins {
    fn boot() -> Twins {
        let mut twins = Twins {
            guest: boot(Arch::CortexM4, &[Role::Trunk { base: 0 }.mac()]),
            here: Box::default(),
        };
        twins.outside().hello(1).unwrap();
        let held = twins.ask_board(Board::HoldClock {
            micros: NOW.micros(),
            tick: false,
        });
        assert_eq!(held, BoardAnswer::Done);
        let operations = tables();
        let mut gateway = twins.here.gateway();
        // As the image does with its first Hello.
        gateway.process(NOW, UPLINK, &mut [], &mut Originated::none());
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let applied = twins.outside().ask(&Request::Apply(Apply {
            transaction: 1,
            owner: Owner::Cluster,
            operations: operations.into_iter().collect(),
        }));
        assert_eq!(applied.unwrap(), Response::Applied { transaction: 1 });
        twins
    }

    fn outside(&mut self) -> &mut Outside {
        &mut self.guest.outside
    }

    fn ask_board(&mut self, request: Board) -> BoardAnswer {
        self.outside().ask_board(request).unwrap()
    }

    fn send(&mut self, frame: &[u8]) {
        self.outside().wires()[0].send(frame).unwrap();
    }

    /// The next frame, which must come.
    fn receive(&mut self) -> Vec<u8> {
        let received = self.outside().wires()[0].receive(LIMIT).unwrap();
        received.expect("no frame came")
    }

    /// Sends a frame by a port, to both; what comes out of both must be the same, and
    /// is returned with its ports.
    fn exchange(&mut self, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        self.send(&tagged(port, frame));
        let expected = self.decide(port, frame);
        for (port, frame) in &expected {
            assert_eq!(self.receive(), tagged(*port, frame), "port {port}");
        }
        expected
    }

    /// What the core here makes of a frame.
    fn decide(&mut self, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let (mut buffer, mut spares) = ([0; 2048], [[0; 2048]; 4]);
        buffer[Frame::HEADROOM..][..frame.len()].copy_from_slice(frame);
        let frame = Frame::new(&mut buffer, Frame::HEADROOM, frame.len()).unwrap();
        let mut batch = [Packet::new(frame)];
        let mut spares = spares
            .each_mut()
            .map(|spare| Packet::new(Frame::new(spare, Frame::HEADROOM, 0).unwrap()));
        let mut made = Originated::new(&mut spares);
        let mut gateway = self.here.gateway();
        gateway.process(NOW, port, &mut batch, &mut made);
        let all = batch.iter().chain(&*made.into_made());
        all.filter_map(|packet| {
            let bytes = packet.frame.bytes().to_vec();
            match packet.fate {
                Fate::Forward(to) => Some((to, bytes)),
                Fate::Reply => Some((port, bytes)),
                _ => None,
            }
        })
        .collect()
    }

    /// Asserts that nothing further came out, and that both have counted the same.
    fn assert_even(&mut self) {
        let mut from = Some(0);
        while let Some(first) = from {
            match self
                .outside()
                .ask(&Request::Counters { from: first })
                .unwrap()
            {
                Response::Counters { values, next } => {
                    for (number, value) in values {
                        let counter = Counter::from_number(number).unwrap();
                        let here = self.here.gateway().counter(counter);
                        assert_eq!(value, here, "{counter:?}");
                    }
                    from = next;
                }
                other => panic!("{other:?}"),
            }
        }
        let more = self.outside().wires()[0].receive(Duration::ZERO);
        assert_eq!(more.unwrap(), None);
    }
}

/// A frame with the tag of a port.
fn tagged(port: PortId, frame: &[u8]) -> Vec<u8> {
    with_tag(port.0, frame)
}

fn arp(operation: ArpOperation, from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let destination = match operation {
        ArpOperation::REQUEST => [0xff; 6],
        _ => to.0,
    };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &from.0,
        &from.1,
        &to.0,
        &to.1,
    );
    let mut out = Vec::new();
    let builder = PacketBuilder::ethernet2(from.0, destination).arp(packet.unwrap());
    builder.write(&mut out).unwrap();
    out
}

fn udp(macs: ([u8; 6], [u8; 6]), ips: ([u8; 4], [u8; 4]), ttl: u8, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(ips.0, ips.1, ttl)
        .udp(5000, 6000)
        .write(&mut out, text)
        .unwrap();
    out
}

/// A packet of the first pod's as it leaves.
fn from_pod(to: [u8; 4], text: &[u8]) -> Vec<u8> {
    let macs = (pod_mac(PODS[0]), GATEWAY_MAC);
    udp(macs, (pod_ip(PODS[0]), to), 64, text)
}

/// The Ethernet frame within a VXLAN packet, which must be from the node to the other.
fn inner(frame: &[u8]) -> &[u8] {
    let (outer, inner) = frame.split_at(14 + 20 + 8 + 8);
    assert_eq!(outer[..6], OTHER_MAC);
    assert_eq!(outer[6..14], [&UPLINK_MAC[..], &[8, 0]].concat());
    assert_eq!(outer[26..34], [NODE, OTHER_NODE].concat());
    assert_eq!(outer[36..38], VXLAN_PORT.to_be_bytes());
    assert_eq!(outer[42..], [8, 0, 0, 0, 0, 0x10, 0, 0]);
    inner
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn a_trunk_carries_what_the_core_decides() {
    let mut twins = Twins::boot();

    // ARP for the gateway, to the byte.
    let who = arp(
        ArpOperation::REQUEST,
        (pod_mac(PODS[0]), pod_ip(PODS[0])),
        ([0; 6], GATEWAY),
    );
    let reply = arp(
        ArpOperation::REPLY,
        (GATEWAY_MAC, GATEWAY),
        (pod_mac(PODS[0]), pod_ip(PODS[0])),
    );
    assert_eq!(twins.exchange(PODS[0], &who), [(PODS[0], reply)]);

    // From tag to tag, with lengths that fill words of the NIC's and that do not.
    for len in 0..8 {
        let text = &b"to-here"[..len.min(7)];
        let macs = (GATEWAY_MAC, pod_mac(PODS[1]));
        let here = udp(macs, (pod_ip(PODS[0]), pod_ip(PODS[1])), 63, text);
        let sent = twins.exchange(PODS[0], &from_pod(pod_ip(PODS[1]), text));
        assert_eq!(sent, [(PODS[1], here)]);
    }

    // Into the tunnel: the first packet waits until the other node has been found.
    let there = udp(
        (
            MacAddr::vtep_for(NODE.into()).bytes(),
            MacAddr::vtep_for(OTHER_NODE.into()).bytes(),
        ),
        (pod_ip(PODS[0]), OTHER_POD),
        63,
        b"to there",
    );
    let question = arp(
        ArpOperation::REQUEST,
        (UPLINK_MAC, NODE),
        ([0; 6], OTHER_NODE),
    );
    let sent = twins.exchange(PODS[0], &from_pod(OTHER_POD, b"to there"));
    assert_eq!(sent, [(UPLINK, question)]);
    let found = arp(
        ArpOperation::REPLY,
        (OTHER_MAC, OTHER_NODE),
        (UPLINK_MAC, NODE),
    );
    for (port, frame) in [(UPLINK, found), (PODS[0], from_pod(OTHER_POD, b"to there"))] {
        let sent = twins.exchange(port, &frame);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0, UPLINK);
        assert_eq!(inner(&sent[0].1), there);
    }

    // Out of it, the largest that a link of 1500 bytes carries.
    let text = vec![0x5a; 1450 - 28];
    let back = udp(
        (
            MacAddr::vtep_for(OTHER_NODE.into()).bytes(),
            MacAddr::vtep_for(NODE.into()).bytes(),
        ),
        (OTHER_POD, pod_ip(PODS[0])),
        64,
        &text,
    );
    let mut tunnelled = Vec::new();
    PacketBuilder::ethernet2(OTHER_MAC, UPLINK_MAC)
        .ipv4(OTHER_NODE, NODE, 64)
        .udp(50_000, VXLAN_PORT)
        .write(
            &mut tunnelled,
            &[&[8, 0, 0, 0, 0, 0x10, 0, 0], &back[..]].concat(),
        )
        .unwrap();
    assert_eq!(tunnelled.len(), 1514);
    let macs = (GATEWAY_MAC, pod_mac(PODS[0]));
    let arrived = udp(macs, (OTHER_POD, pod_ip(PODS[0])), 63, &text);
    assert_eq!(twins.exchange(UPLINK, &tunnelled), [(PODS[0], arrived)]);

    twins.assert_even();
    let BoardAnswer::Nics(nics) = twins.ask_board(Board::Nics { from: 0 }) else {
        panic!("no NICs");
    };
    // Both directions have gone through one NIC: one frame was only a question's answer.
    assert_eq!((nics[0].rx_frames, nics[0].tx_frames), (13, 13));
    // Its answer may be lost in the end.
    let _ = twins.outside().ask_board(Board::PowerOff { status: 23 });
    assert_eq!(twins.guest.ended().unwrap(), 23);
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn no_buffer_is_lost_and_frames_of_no_port_are_counted() {
    let mut twins = Twins::boot();
    let frame = from_pod(pod_ip(PODS[1]), b"one of many");
    // Without a tag, with one that no port has, and what no frame can be.
    for strange in [&frame[..], &tagged(PortId(0), &frame), &frame[..14]] {
        twins.send(strange);
    }
    // Tag 6 is a port's number that nobody has told of: the core drops it.
    assert_eq!(twins.exchange(PortId(6), &frame), []);
    // More than there are buffers, in bursts that the NIC can hold.
    for _ in 0..40 {
        for _ in 0..8 {
            twins.send(&tagged(PODS[0], &frame));
        }
        for _ in 0..8 {
            let [(port, expected)] = &twins.decide(PODS[0], &frame)[..] else {
                panic!("not forwarded here");
            };
            assert_eq!(twins.receive(), tagged(*port, expected));
        }
    }
    twins.assert_even();
    let BoardAnswer::Nics(nics) = twins.ask_board(Board::Nics { from: 0 }) else {
        panic!("no NICs");
    };
    let counted = (nics[0].rx_frames, nics[0].rx_unclaimed, nics[0].tx_full);
    assert_eq!(counted, (324, 3, 0));
    let BoardAnswer::Health(health) = twins.ask_board(Board::Health) else {
        panic!("no health");
    };
    println!("{health:?}");
    // All but the spares, a quarter.
    assert_eq!(health.buffers_free, 36);
    assert_eq!((health.unsent, health.no_buffer), (0, 0));
    assert!(health.stack > 0 && health.stack < 128 << 10);
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn it_sleeps_when_idle_and_starts_anew() {
    let mut twins = Twins::boot();
    let before = twins.guest.processor_time().unwrap();
    thread::sleep(Duration::from_secs(1));
    let spent = twins.guest.processor_time().unwrap() - before;
    println!("idle for 1 s: {spent:?}");
    assert!(spent <= Duration::from_millis(100), "{spent:?}");

    let used = |twins: &mut Twins| {
        let BoardAnswer::Description(description) = twins.ask_board(Board::Describe) else {
            panic!("no description");
        };
        assert_eq!(&*description.architecture, "arm");
        assert_eq!((description.nics, description.buffers), (1, 48));
        match twins.outside().ask(&Request::Counters { from: 0 }).unwrap() {
            Response::Counters { values, .. } => values[0].1,
            other => panic!("{other:?}"),
        }
    };
    twins.exchange(PODS[0], &from_pod(pod_ip(PODS[1]), b"once"));
    assert_eq!(used(&mut twins), 1);
    assert_eq!(twins.ask_board(Board::Restart), BoardAnswer::Done);
    let welcome = twins.outside().hello(1).unwrap();
    assert_eq!(welcome.previous_epoch, 0);
    assert_eq!(used(&mut twins), 0);
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn flash_and_ram_are_what_a_microcontroller_has() {
    let image = image(Arch::CortexM4);
    println!("{image}");
    assert!(image.sizes.flash <= FLASH, "{image}");
    assert!(image.sizes.ram <= RAM, "{image}");
}
