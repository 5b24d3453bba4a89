//! Every drop reason is reached, counts once, and sends the ICMP error that its
//! text promises; every other counter stays still.

#[path = "../common/mod.rs"]
mod common;
mod v4;
mod v6;

use std::collections::HashMap;

use common::raw_ports::ONLY_ON_RAW_PORTS;
use common::*;
use culvert_core::channel::*;
use culvert_core::*;

#[derive(Debug)]
struct Case {
    reason: DropReason,
    port: PortId,
    input: Input,
    /// Type and code of the ICMP error that the sender gets.
    icmp: Option<(u8, u8)>,
    node: Node,
    /// Table changes that bring the case about.
    setup: Vec<Operation>,
}

fn case(reason: DropReason, port: PortId, input: impl Into<Input>) -> Case {
    Case {
        reason,
        port,
        input: input.into(),
        icmp: None,
        node: Node::new(1),
        setup: Vec::new(),
    }
}

impl Case {
    fn icmp(mut self, kind: u8, code: u8) -> Self {
        self.icmp = Some((kind, code));
        self
    }

    fn setup(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.setup.extend(operations);
        self
    }

    fn on(mut self, node: Node) -> Self {
        self.node = node;
        self
    }
}

fn all_cases() -> Vec<Case> {
    let mut cases = v4::endpoint_cases();
    cases.extend(v4::host_and_offload_cases());
    cases.extend(v4::underlay_cases());
    cases.extend(v6::endpoint_cases());
    cases.extend(v6::discovery_cases());
    cases.extend(v6::host_and_offload_cases());
    cases.extend(v6::underlay_cases());
    cases
}

fn counters(gateway: &Gateway<'_>) -> HashMap<u16, u64> {
    Counter::all()
        .map(|counter| (counter.number(), gateway.counter(counter)))
        .filter(|(_, value)| *value != 0)
        .collect()
}

/// How many packets the frame stands for, by its marks, which may be wrong.
fn packets(output: &Output) -> u64 {
    let mut bytes = output.bytes.clone();
    let len = bytes.len();
    let mut frame = Frame::new(&mut bytes, 0, len).unwrap();
    frame.checksum = output.checksum;
    frame.segmentation = output.segmentation;
    u64::from(offload::segments(&frame))
}

#[test]
fn every_drop_reason_is_reached_and_counted_alone() {
    let mut reached = Vec::new();
    for case in all_cases() {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        case.node.program(&mut gateway);
        gateway.apply(Owner::Cluster, &case.setup).unwrap();
        let output = run(&mut gateway, case.port, case.input.clone());
        assert_eq!(output.fate, Fate::Drop(case.reason), "{case:?}");
        let packets = packets(&output);
        let mut expected = HashMap::from([
            (Counter::Rx.number(), packets),
            (Counter::Drop(case.reason).number(), packets),
        ]);
        if case.icmp.is_some() {
            expected.insert(Counter::Originated.number(), 1);
        }
        assert_eq!(counters(&gateway), expected, "{:?}", case.reason);
        check_icmp(&output, case.icmp, case.reason, case.port);
        reached.push(case.reason);
    }
    for reason in DropReason::ALL {
        let elsewhere = ONLY_ON_RAW_PORTS.contains(reason);
        assert!(
            reached.contains(reason) != elsewhere,
            "no case for {reason:?}, or two"
        );
    }
}

fn check_icmp(output: &Output, expected: Option<(u8, u8)>, reason: DropReason, from: PortId) {
    let promised = reason.help().contains("ICMP") && reason.help().contains("was sent");
    if promised {
        assert!(expected.is_some(), "{reason:?} promises an ICMP error");
    }
    let Some((kind, code)) = expected else {
        assert!(output.made.is_empty(), "{reason:?} sent {:?}", output.made);
        return;
    };
    let [(port, bytes, outer)] = &output.made[..] else {
        panic!("{reason:?} made {:?}", output.made)
    };
    assert_eq!(
        *port, from,
        "{reason:?}: the error goes back where the packet came from"
    );
    let frame = if outer.is_some() {
        &bytes[8..]
    } else {
        &bytes[..]
    };
    verified(frame);
    match frame[12..14] {
        [8, 0] => check_icmp_v4(frame, outer.is_some(), (kind, code)),
        _ => check_icmp_v6(frame, outer.is_some(), (kind, code)),
    }
}

fn check_icmp_v4(frame: &[u8], to_peer: bool, (kind, code): (u8, u8)) {
    let (header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
    let source = if to_peer { [10, 244, 1, 0] } else { GATEWAY };
    assert_eq!((header.source, header.time_to_live), (source, 64));
    assert_eq!((frame[34], frame[35]), (kind, code));
    if (kind, code) == (3, 4) {
        assert_eq!(&frame[40..42], &1450u16.to_be_bytes());
    }
    let (quoted, _) = etherparse::Ipv4Header::from_slice(&frame[42..]).unwrap();
    assert_eq!(
        quoted.source, header.destination,
        "told about its own packet"
    );
}

fn check_icmp_v6(frame: &[u8], to_peer: bool, (kind, code): (u8, u8)) {
    let (header, _) = etherparse::Ipv6Header::from_slice(&frame[14..]).unwrap();
    let source = if to_peer { HOST6 } else { GATEWAY6 };
    assert_eq!((header.source, header.hop_limit), (source, 64));
    assert_eq!((frame[54], frame[55]), (kind, code));
    // Of the hop's MTU, or of the field that names an unknown protocol.
    let word = match (kind, code) {
        (2, 0) => 1450u32,
        (4, 1) => 6,
        _ => 0,
    };
    assert_eq!(frame[58..62], word.to_be_bytes());
    let (quoted, _) = etherparse::Ipv6Header::from_slice(&frame[62..]).unwrap();
    assert_eq!(
        quoted.source, header.destination,
        "told about its own packet"
    );
}

/// A pod that may send from anywhere.
fn wide_pod() -> Operation {
    let mut port = pod(POD_A, MAC_A, "10.244.1.2");
    if let PortKind::Endpoint(endpoint) = &mut port.kind {
        endpoint.allowed = list(&[prefix("0.0.0.0/0")]);
    }
    Operation::UpsertPort(port)
}

/// A prefix as wide as the world, at a pod or towards a peer, does not lend the
/// gateway's address or one that no host can have.
#[test]
fn wide_prefixes_lend_nobody_the_gateways_address() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    gateway.apply(Owner::Attachment, &[wide_pod()]).unwrap();
    gateway
        .apply(Owner::Cluster, &[route("0.0.0.0/0", TO_PEER)])
        .unwrap();
    let sources = [GATEWAY, [0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]];
    for src in sources {
        let output = run(&mut gateway, POD_A, udp(MAC_A, src, B, b"x"));
        assert_eq!(output.fate, Fate::Drop(DropReason::SourceIp), "{src:?}");
        let frame = vxlan(&from_vtep(udp(VTEP_2, src, A, b"x")), 1);
        let output = run(&mut gateway, UNDERLAY, frame);
        assert_eq!(output.fate, Fate::Drop(DropReason::PeerGuard), "{src:?}");
    }
    let output = run(&mut gateway, POD_A, udp(MAC_A, [9; 4], B, b"x"));
    assert_eq!(output.fate, Fate::Forward(POD_B));
    let frame = vxlan(&from_vtep(udp(VTEP_2, [9; 4], A, b"x")), 1);
    assert_eq!(
        run(&mut gateway, UNDERLAY, frame).fate,
        Fate::Forward(POD_A)
    );
}

#[test]
fn no_error_about_errors_fragments_and_groups() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let mut about_error = echo(MAC_A, A, [8, 8, 8, 8]);
    about_error[34] = 3;
    let mut fragment = udp(MAC_A, A, [8, 8, 8, 8], b"x");
    edit_ip(&mut fragment, |header| {
        header.fragment_offset = etherparse::IpFragOffset::try_new(5).unwrap();
    });
    for frame in [about_error, fragment] {
        let output = run(&mut gateway, POD_A, frame);
        assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
        assert!(output.made.is_empty());
    }
    assert_eq!(gateway.counter(Counter::Originated), 0);
    // An echo request is no error: it gets one.
    let output = run(&mut gateway, POD_A, echo(MAC_A, A, [8, 8, 8, 8]));
    assert_eq!(output.made.len(), 1);
}

#[test]
fn icmp_errors_are_rate_limited_and_want_spares() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let frame = udp(MAC_A, A, [8, 8, 8, 8], b"x");
    for _ in 0..60 {
        run(&mut gateway, POD_A, frame.clone());
    }
    assert_eq!(gateway.counter(Counter::Originated), 50);
    assert_eq!(gateway.counter(Counter::IcmpRateLimited), 10);
    let mut bytes = vec![0; 200];
    bytes[128..128 + frame.len()].copy_from_slice(&frame);
    let mut batch = [Packet::new(
        Frame::new(&mut bytes, 128, frame.len()).unwrap(),
    )];
    let later = Instant::from_micros(60_000_000);
    gateway.process(later, POD_A, &mut batch, &mut Originated::none());
    assert_eq!(gateway.counter(Counter::SparesExhausted), 1);
    assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
}

#[test]
fn an_icmp_error_that_nothing_leads_back_to_is_counted() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    // The host may send from any address, also from one without a route.
    let frame = udp(HOST_MAC, [10, 9, 9, 9], [8, 8, 8, 8], b"x");
    let output = run(&mut gateway, HOST, frame);
    assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
    assert!(output.made.is_empty());
    assert_eq!(gateway.counter(Counter::IcmpNoRoute), 1);
}

#[test]
fn a_spare_that_is_too_small_and_a_clock_at_its_end_do_no_harm() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let frame = udp(MAC_A, A, [8; 4], b"x");
    let mut bytes = [vec![0; 128], frame.clone()].concat();
    let mut spare = vec![0; 128 + 40];
    let mut batch = [Packet::new(
        Frame::new(&mut bytes, 128, frame.len()).unwrap(),
    )];
    let mut spares = [Packet::new(Frame::new(&mut spare, 128, 0).unwrap())];
    let mut originated = Originated::new(&mut spares);
    let end = Instant::from_micros(u64::MAX);
    gateway.process(end, POD_A, &mut batch, &mut originated);
    assert!(originated.into_made().is_empty());
    assert_eq!(gateway.counter(Counter::SparesExhausted), 1);
    let output = run_at(&mut gateway, end, POD_A, frame);
    assert_eq!(output.made.len(), 1);
}
