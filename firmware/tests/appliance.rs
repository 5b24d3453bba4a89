//! The appliance on a board in memory.

mod board;

use board::{BUFFERS, Bench};
use culvert_core::channel::{Board as Ask, *};
use culvert_core::*;
use culvert_firmware::{BATCH, SPARES};
use proptest::prelude::*;

const UPLINK: PortId = PortId(0);
const POD_A: PortId = PortId(1);
const POD_B: PortId = PortId(2);
const MAC_A: MacAddr = MacAddr::new([0x0a, 0x58, 10, 244, 1, 2]);
const MAC_B: MacAddr = MacAddr::new([0x0a, 0x58, 10, 244, 1, 3]);
const GATEWAY: MacAddr = MacAddr::new([0xee; 6]);

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// A network with an uplink and two pods.
fn tables() -> Vec<Operation> {
    let network = NetworkId(0);
    let wire = Wire {
        addresses: heapless::Vec::from_slice(&[WireAddress {
            address: ip("192.168.77.1"),
            prefix_length: 24,
        }])
        .unwrap(),
        gateways: heapless::Vec::new(),
    };
    let mut uplink = Port::new(UPLINK, 1500, PortKind::Wire(wire));
    uplink.mac = Role::Port(UPLINK).mac();
    let mut overlay = Network::new(network, Vni::new(1).unwrap(), ip("192.168.77.1"), UPLINK);
    overlay
        .prefixes
        .push(IpPrefix::new(ip("10.244.0.0"), 16).unwrap())
        .unwrap();
    let pod = |port, mac, address| {
        let endpoint = Endpoint::with_address(network, ip(address));
        Operation::UpsertPort(Port::endpoint(port, 1450, mac, endpoint))
    };
    vec![
        Operation::UpsertPort(uplink),
        Operation::UpsertNetwork(overlay),
        pod(POD_A, MAC_A, "10.244.1.2"),
        pod(POD_B, MAC_B, "10.244.1.3"),
    ]
}

/// A UDP packet from pod A to pod B, as A sends it.
fn packet(payload: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(MAC_A.bytes(), GATEWAY.bytes())
        .ipv4([10, 244, 1, 2], [10, 244, 1, 3], 64)
        .udp(1000, 2000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[payload; 26]).unwrap();
    bytes
}

/// The same as B gets it: addressed, and its TTL lowered.
fn delivered(payload: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(GATEWAY.bytes(), MAC_B.bytes())
        .ipv4([10, 244, 1, 2], [10, 244, 1, 3], 63)
        .udp(1000, 2000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[payload; 26]).unwrap();
    bytes
}

fn tagged(mut frame: Vec<u8>, vid: u16) -> Vec<u8> {
    let [high, low] = vid.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

fn three_nics() -> Bench {
    let macs = [UPLINK, POD_A, POD_B].map(|port| Role::Port(port).mac());
    let mut bench = Bench::new(&macs);
    bench.program(&tables());
    bench
}

fn nics(bench: &mut Bench) -> Vec<Nic> {
    match bench.ask_board(Ask::Nics { from: 0 }) {
        BoardAnswer::Nics(nics) => nics.into_iter().collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_go_from_nic_to_nic_in_order() {
    let mut bench = three_nics();
    bench.receive(1, (0..200).map(packet));
    bench.settle();
    let expected: Vec<_> = (0..200).map(delivered).collect();
    assert_eq!(bench.sent(2), expected);
    let nics = nics(&mut bench);
    assert_eq!((nics[1].rx_frames, nics[2].tx_frames), (200, 200));
    assert_eq!(nics[1].rx_unclaimed, 0);
    let health = bench.health();
    assert_eq!(health.frames, 200);
    assert!(health.instructions > 0);
    let free = u16::try_from(BUFFERS - SPARES).unwrap();
    assert_eq!(health.buffers_free, free);
}

#[test]
fn tags_of_a_trunk_are_ports() {
    let mut bench = Bench::new(&[Role::Trunk { base: 0 }.mac(), Role::Port(UPLINK).mac()]);
    bench.program(&tables());
    bench.receive(0, (0..100).map(|n| tagged(packet(n), 1)));
    bench.settle();
    let expected: Vec<_> = (0..100).map(|n| tagged(delivered(n), 2)).collect();
    assert_eq!(bench.sent(0), expected);
    // No tag, a tag of no VLAN, and a tag whose port the core does not have.
    let strange = [packet(0), tagged(packet(0), 0), tagged(packet(0), 3)];
    bench.receive(0, strange);
    bench.settle();
    assert_eq!(bench.sent(0), [[0; 0]; 0]);
    assert_eq!(nics(&mut bench)[0].rx_unclaimed, 2);
}

#[test]
fn replies_leave_by_the_tag_that_asked() {
    let mut bench = Bench::new(&[Role::Trunk { base: 0 }.mac()]);
    bench.program(&tables());
    // B asks between A's packets who the gateway is.
    let mut question = vec![0xff; 6];
    question.extend(MAC_B.bytes());
    question.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(MAC_B.bytes());
    question.extend([10, 244, 1, 3, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    let input = [
        tagged(packet(1), 1),
        tagged(question, 2),
        tagged(packet(2), 1),
    ];
    bench.receive(0, input);
    bench.settle();
    let sent = bench.sent(0);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0], tagged(delivered(1), 2));
    assert_eq!(sent[1][..6], MAC_B.bytes());
    assert_eq!(sent[1][12..18], [0x81, 0, 0, 2, 0x08, 0x06]);
    assert_eq!(sent[2], tagged(delivered(2), 2));
}

#[test]
fn the_host_gives_roles_to_nics_whose_address_says_nothing() {
    let macs = [1, 2].map(|n| MacAddr::new([0x52, 0x54, 0, 0, 0, n]));
    let mut bench = Bench::new(&macs);
    bench.program(&tables());
    bench.receive(0, [packet(0)]);
    bench.settle();
    assert_eq!(nics(&mut bench)[0].rx_unclaimed, 1);
    for (mac, port) in macs.iter().zip([POD_A, POD_B]) {
        let role = Role::Port(port);
        let request = Ask::SetRole { mac: *mac, role };
        assert_eq!(bench.ask_board(request), BoardAnswer::Done);
    }
    bench.receive(0, [packet(1)]);
    bench.settle();
    assert_eq!(bench.sent(1), [delivered(1)]);
    let taken = Ask::SetRole {
        mac: macs[0],
        role: Role::Port(POD_B),
    };
    let refused = BoardAnswer::Refused(BoardRefusal::RoleTaken(Role::Port(POD_B)));
    assert_eq!(bench.ask_board(taken), refused);
}

#[test]
fn frames_for_a_port_without_a_nic_are_counted() {
    let mut bench = Bench::new(&[Role::Port(POD_A).mac()]);
    bench.program(&tables());
    bench.receive(0, [packet(0)]);
    bench.settle();
    let health = bench.health();
    assert_eq!((health.unsent, health.frames), (1, 1));
}

#[test]
fn frames_that_are_too_long_are_dropped_and_counted() {
    let mut bench = three_nics();
    let free = bench.health().buffers_free;
    let long = |len| {
        let mut frame = packet(0);
        frame.resize(len, 0);
        frame
    };
    let most = culvert_firmware::LARGEST_FRAME;
    bench.receive(
        1,
        [
            packet(1),
            long(most + 1),
            packet(2),
            long(1_920),
            long(most),
        ],
    );
    bench.settle();
    assert_eq!(bench.sent(2), [delivered(1), delivered(2), delivered(0)]);
    let nic = &nics(&mut bench)[1];
    assert_eq!(
        (nic.rx_frames, nic.rx_too_long, nic.rx_unclaimed),
        (5, 2, 0)
    );
    let health = bench.health();
    assert_eq!((health.frames, health.buffers_free), (3, free));
}

#[test]
fn health_counts_the_frames_that_the_core_got() {
    let roles = [Role::Trunk { base: 0 }, Role::Unused, Role::Management];
    let mut bench = Bench::new(&roles.map(Role::mac));
    bench.program(&tables());
    bench.receive(0, [tagged(packet(0), 1), packet(0), tagged(packet(0), 1)]);
    bench.receive(1, [packet(0)]);
    bench.receive(2, [packet(0)]);
    bench.settle();
    assert_eq!(bench.health().frames, 2);
}

#[test]
fn a_full_send_queue_is_counted_and_loses_no_buffer() {
    let mut bench = three_nics();
    let free = bench.health().buffers_free;
    bench.outside.borrow_mut().links[2].room = 10;
    bench.receive(1, (0..BATCH).map(|_| packet(0)));
    bench.settle();
    let nics = nics(&mut bench);
    let dropped = u64::try_from(BATCH).unwrap() - 10;
    assert_eq!((nics[2].tx_frames, nics[2].tx_full), (10, dropped));
    assert_eq!(bench.health().buffers_free, free);
}

#[test]
fn what_all_nics_send_by_one_finds_room_there_in_turn() {
    let tags = (1..=5).map(|n| Role::Trunk { base: 100 * n }.mac());
    let macs: Vec<_> = tags.chain([Role::Port(POD_B).mac()]).collect();
    let mut bench = Bench::with_buffers(&macs, BUFFERS);
    let mut operations = tables();
    // Pod A's packets come in by a port of each trunk.
    operations.truncate(2);
    for n in 1..=5u8 {
        let address = ip(&format!("10.244.1.{}", 10 + n));
        let endpoint = Endpoint::with_address(NetworkId(0), address);
        let port = PortId(100 * u16::from(n) + 1);
        let port = Port::endpoint(port, 1450, MAC_A, endpoint);
        operations.push(Operation::UpsertPort(port));
    }
    let endpoint = Endpoint::with_address(NetworkId(0), ip("10.244.1.3"));
    let port = Port::endpoint(POD_B, 1450, MAC_B, endpoint);
    operations.push(Operation::UpsertPort(port));
    bench.program(&operations);
    bench.outside.borrow_mut().links[5].room = BATCH;
    for n in 1..=5u8 {
        let builder = etherparse::PacketBuilder::ethernet2(MAC_A.bytes(), GATEWAY.bytes())
            .ipv4([10, 244, 1, 10 + n], [10, 244, 1, 3], 64)
            .udp(1000, 2000);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[n; 26]).unwrap();
        let count = BUFFERS / 8;
        let frames = (0..count).map(|_| tagged(frame.clone(), 1));
        bench.receive(usize::from(n) - 1, frames);
    }
    bench.settle();
    let sent = bench.sent(5).len();
    assert_eq!(sent, 5 * BUFFERS / 8);
    assert_eq!(nics(&mut bench)[5].tx_full, 0);
}

#[test]
fn a_flood_of_frames_does_not_keep_the_host_waiting_nor_requests_the_frames() {
    let mut bench = three_nics();
    bench.receive(1, (0..1000).map(|_| packet(0)));
    // An answer comes with the first turns, long before the frames are through.
    assert!(matches!(bench.ask(&Request::Ping), Response::Pong));
    let left = bench.outside.borrow().links[1].incoming.len();
    assert!(left >= 1000 - 2 * BATCH, "{left} are left");
    // And a heap of requests lets a batch through with each.
    bench.settle();
    bench.sent(2);
    let ping = bench.outside.borrow().to_console.len();
    assert_eq!(ping, 0);
    bench.receive(1, (0..1000).map(|_| packet(0)));
    bench
        .outside
        .borrow_mut()
        .to_console
        .extend([1, 0].repeat(5000));
    for turns in 1..=3 {
        bench.appliance.turn();
        let sent = bench.outside.borrow().links[2].sent.len();
        assert_eq!(sent, turns * BATCH);
    }
}

#[test]
fn the_stack_is_looked_at_once_a_second() {
    let mut bench = three_nics();
    bench.outside.borrow_mut().micros = 5_000_000;
    bench.settle();
    let before = bench.outside.borrow().stack_looks;
    for tick in 1..=100 {
        bench.outside.borrow_mut().micros = 5_000_000 + tick * 100_000;
        bench.settle();
    }
    let looks = bench.outside.borrow().stack_looks;
    assert_eq!(looks - before, 10);
    assert_eq!(bench.health().stack, 1_000 + looks);
}

#[test]
fn time_stands_where_the_host_holds_it() {
    let mut bench = three_nics();
    let at = |micros, tick| Ask::HoldClock { micros, tick };
    assert_eq!(bench.ask_board(at(70_000, false)), BoardAnswer::Done);
    bench.outside.borrow_mut().micros = 10_000_000;
    bench.settle();
    // Not a tick of the board's own clock, which would announce the new pods.
    let frames = |bench: &Bench| -> usize { (0..3).map(|nic| bench.sent(nic).len()).sum() };
    assert_eq!(frames(&bench), 0);
    assert_eq!(bench.ask_board(at(200_000, true)), BoardAnswer::Done);
    assert!(frames(&bench) > 0);
    assert!(bench.health().micros >= 10_000_000, "its health is real");
}

#[test]
#[should_panic(expected = "the board has ended: Off(3)")]
fn the_host_can_switch_it_off() {
    three_nics().ask_board(Ask::PowerOff { status: 3 });
}

#[test]
#[should_panic(expected = "the board has ended: Restart")]
fn the_host_can_restart_it() {
    three_nics().ask_board(Ask::Restart);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in by whichever NIC, in whatever role: no buffer is lost, and the
    /// host is answered.
    #[test]
    fn no_frame_takes_a_buffer_along(
        frames in prop::collection::vec((0usize..4, prop::collection::vec(any::<u8>(), 0..200), 0u8..3), 0..200),
        room in 0usize..20,
        garbage in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let roles = [Role::Port(UPLINK), Role::Port(POD_A), Role::Trunk { base: 0 }, Role::Unused];
        let mut bench = Bench::new(&roles.map(Role::mac));
        bench.program(&tables());
        bench.settle();
        let free = bench.health().buffers_free;
        bench.outside.borrow_mut().links[2].room = room;
        for (nic, bytes, kind) in frames {
            let frame = match kind {
                0 => bytes,
                1 => packet(7),
                _ => tagged(packet(7), 1),
            };
            bench.receive(nic, [frame]);
        }
        bench.outside.borrow_mut().to_console.extend(&garbage);
        bench.outside.borrow_mut().to_console.push_back(0);
        bench.settle();
        bench.outside.borrow_mut().from_console.clear();
        prop_assert_eq!(bench.health().buffers_free, free);
    }
}
