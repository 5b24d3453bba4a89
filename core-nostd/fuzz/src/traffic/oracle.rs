//! What must hold, whatever came in: each frame has one fate and is counted once,
//! and what leaves is what came, on the way that the tables say, and allowed to.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;

use super::scene::Scene;
use super::view::{self, Came, Leaving, Way, came, left};
use crate::common::*;

/// Lets time go on.
pub(super) fn tick(scene: &Scene, gateway: &mut Gateway<'_>, shell: &Shell) {
    let before = Counts::of(gateway);
    let made = shell.tick(gateway);
    let after = Counts::of(gateway);
    let originated = after.since(&before, Counter::Originated);
    assert!(originated >= small(made.len()));
    assert_eq!(after.since(&before, Counter::Rx), 0);
    made.iter().for_each(|made| check_made(scene, made));
}

/// Hands a batch in and checks what becomes of it.
pub(super) fn batch(
    scene: &Scene,
    gateway: &mut Gateway<'_>,
    shell: &Shell,
    (port, inputs): (PortId, Vec<Input>),
) {
    let (before, stats) = (Counts::of(gateway), stats(scene, gateway));
    let (outputs, made) = shell.run_batch(gateway, port, inputs.clone());
    let after = Counts::of(gateway);
    assert_eq!(after.rx(), sum_of_fates(gateway), "one fate each");
    check_counts(&before, &after, &outputs);
    check_stats(scene, gateway, (port, &stats), (&inputs, &outputs, &made));
    let originated = after.since(&before, Counter::Originated);
    assert!(originated >= small(made.len()) && made.len() <= shell.spares.len());
    made.iter().for_each(|made| check_made(scene, made));
    for (input, output) in inputs.iter().zip(&outputs) {
        check(scene, (port, input), output);
    }
    // Who made what can be told when there is one frame and no neighbor.
    if let ([input], [output], false) = (&inputs[..], &outputs[..], scene.wire) {
        check_own(scene, (port, input), output, &made);
    }
}

fn small(number: usize) -> u64 {
    u64::try_from(number).expect("small")
}

/// All counters, by number.
struct Counts([u64; Counter::SLOTS]);

impl Counts {
    fn of(gateway: &Gateway<'_>) -> Counts {
        let mut counts = Counts([0; Counter::SLOTS]);
        for counter in Counter::all() {
            counts.0[usize::from(counter.number())] = gateway.counter(counter);
        }
        counts
    }

    fn get(&self, wanted: Counter) -> u64 {
        self.0[usize::from(wanted.number())]
    }

    fn since(&self, before: &Counts, counter: Counter) -> u64 {
        self.get(counter) - before.get(counter)
    }

    fn rx(&self) -> u64 {
        self.get(Counter::Rx)
    }
}

/// How many packets a frame stands for.
fn weight(output: &Output) -> u64 {
    if output.segmentation == Segmentation::None {
        return 1;
    }
    let mut bytes = output.bytes.clone();
    let len = bytes.len();
    let mut frame = Frame::new(&mut bytes, 0, len).expect("it was a frame");
    frame.checksum = output.checksum;
    frame.segmentation = output.segmentation;
    offload::segments(&frame).into()
}

/// Each fate's counter went up by the frames that have it.
fn check_counts(before: &Counts, after: &Counts, outputs: &[Output]) {
    let total = |is: &dyn Fn(Fate) -> bool| -> u64 {
        let of_fate = outputs.iter().filter(|output| is(output.fate));
        of_fate.map(weight).sum()
    };
    let since = |counter| after.since(before, counter);
    assert_eq!(since(Counter::Rx), total(&|_| true));
    let forwards = [
        Counter::ForwardEndpoint,
        Counter::ForwardHost,
        Counter::ForwardUnderlay,
    ];
    let forwarded: u64 = forwards.map(since).iter().sum();
    assert_eq!(forwarded, total(&|fate| matches!(fate, Fate::Forward(_))));
    let to_underlay = total(&|fate| fate == Fate::Forward(UNDERLAY));
    assert_eq!(since(Counter::ForwardUnderlay), to_underlay);
    let plain = [
        (Counter::Reply, Fate::Reply),
        (Counter::Consume, Fate::Consume),
        (Counter::Flood, Fate::Flood),
        (Counter::Punt, Fate::Punt),
        (Counter::Queue, Fate::Queue),
    ];
    let drops = DropReason::ALL.iter();
    let drops = drops.map(|reason| (Counter::Drop(*reason), Fate::Drop(*reason)));
    for (counter, wanted) in plain.into_iter().chain(drops) {
        let grown = since(counter);
        let expected = total(&|fate| fate == wanted);
        let may_be_more = counter == Counter::Queue;
        assert!(
            grown == expected || may_be_more && grown >= expected,
            "{counter:?}"
        );
    }
}

/// What went through each port of the scene.
fn stats(scene: &Scene, gateway: &mut Gateway<'_>) -> Vec<(PortId, PortStats)> {
    let stats = port_stats(gateway);
    assert_eq!(stats.len(), scene.ports.len());
    stats
}

fn check_stats(
    scene: &Scene,
    gateway: &mut Gateway<'_>,
    (ingress, before): (PortId, &[(PortId, PortStats)]),
    (inputs, outputs, made): (&[Input], &[Output], &[Made]),
) {
    // Super-frames among what was made count for more than can be seen here.
    let marked = |input: &Input| input.segmentation != Segmentation::None;
    let exact = !inputs.iter().any(marked) && !outputs.iter().any(|o| weight(o) > 1);
    for ((id, before), (_, after)) in before.iter().zip(stats(scene, gateway)) {
        let own = *id == ingress;
        let of = |is: &dyn Fn(&Output) -> bool| -> u64 {
            outputs.iter().filter(|output| is(output)).map(weight).sum()
        };
        let rx = if own { of(&|_| true) } else { 0 };
        assert_eq!(after.rx_frames - before.rx_frames, rx);
        let bytes: usize = inputs.iter().map(|input| input.bytes.len()).sum();
        let rx_bytes = if own { small(bytes) } else { 0 };
        assert_eq!(after.rx_bytes - before.rx_bytes, rx_bytes);
        let dropped = of(&|output| matches!(output.fate, Fate::Drop(_)));
        assert_eq!(
            after.dropped - before.dropped,
            if own { dropped } else { 0 }
        );
        let leaves = |output: &Output| {
            output.fate == Fate::Forward(*id) || own && output.fate == Fate::Reply
        };
        let beside = made.iter().filter(|(port, ..)| port == id);
        let tx = of(&leaves) + small(beside.clone().count());
        let sent = after.tx_frames - before.tx_frames;
        assert!(
            sent == tx || !exact && sent > tx,
            "{id} sent {sent}, not {tx}"
        );
        let bytes = outputs.iter().filter(|output| leaves(output));
        let bytes = bytes.map(|output| output.bytes.len()).sum::<usize>();
        let bytes = bytes + beside.map(|(_, bytes, _)| bytes.len()).sum::<usize>();
        assert_eq!(after.tx_bytes - before.tx_bytes, small(bytes));
    }
}

/// What the gateway made is sound as far as that can be said of any packet.
fn check_made(scene: &Scene, (port, bytes, outer): &Made) {
    if bytes[12..14] == [8, 6] && outer.is_none() {
        assert_eq!(bytes.len(), 42, "ARP without padding");
        return;
    }
    let leaving = left(scene, (*port, bytes, *outer));
    agreed(leaving.packet);
}

/// What must hold for one frame.
fn check(scene: &Scene, (port, input): (PortId, &Input), output: &Output) {
    match output.fate {
        Fate::Forward(egress) => check_forwarded(scene, (port, input), egress, output),
        Fate::Reply => check_reply(scene, (port, input), output),
        Fate::Flood => {
            let network = scene.network_of(port);
            let networks = scene.networks.iter();
            let mut flooding = networks.filter(|n| n.options.has(NetworkOptions::FLOOD));
            assert!(flooding.any(|n| network.is_none_or(|id| id == n.id)));
        }
        Fate::Punt => {
            assert!(scene.wire && port == UNDERLAY);
            let kept = &output.bytes[..];
            assert!(
                input.bytes.starts_with(kept),
                "{input:02x?}\nis handed on as\n{output:02x?}"
            );
        }
        Fate::Queue => assert!(scene.wire && output.outer.is_none()),
        Fate::Consume | Fate::Drop(_) => {}
    }
}

fn check_forwarded(
    scene: &Scene,
    (port, input): (PortId, &Input),
    egress: PortId,
    output: &Output,
) {
    let came = came(scene, port, input).expect("what is forwarded was understood");
    let leaving = left(scene, (egress, &output.bytes, output.outer));
    agreed(leaving.packet);
    let (src, dst) = leaving.addresses();
    let networks: Vec<_> = came
        .networks(scene, port)
        .into_iter()
        .filter(|id| leaving.is_in(scene, *id))
        .collect();
    assert!(!networks.is_empty(), "from one network to another");
    // The route that the tables say, in one of the networks that it may be in.
    let routed = networks.into_iter().filter(|id| {
        let hop = scene.next_hop(*id, dst);
        leaving.follows(scene, *id, hop)
    });
    let routed: Vec<_> = routed.collect();
    assert!(
        !routed.is_empty(),
        "{dst} is routed elsewhere: {:?}",
        leaving.way
    );
    assert_eq!(leaving.ttl() + 1, came.ttl(), "one gateway lowers it once");
    match &scene.port(port).expect("it is there").kind {
        PortKind::Endpoint(endpoint) => {
            assert!(owns(endpoint, src), "{src} is not the pod's");
            let network = scene.network(endpoint.network);
            assert!(!network.gateways.contains(&src), "{src} is the gateway's");
            leaving.carries_no_tunnel(scene);
        }
        PortKind::Host { .. } => {}
        PortKind::Underlay | PortKind::Wire(_) => check_peer(scene, &came, &leaving, &routed),
    }
    check_length(scene, &leaving, output);
    check_bytes(scene, (port, &came), &leaving, output);
}

fn owns(endpoint: &Endpoint, address: IpAddr) -> bool {
    let mut allowed = endpoint.allowed.iter();
    endpoint.addresses.contains(&address) || allowed.any(|prefix| prefix.contains(address))
}

/// What came from another node came from the one behind which its source is, and
/// goes to a third one only when both are for that.
fn check_peer(scene: &Scene, came: &Came, leaving: &Leaving<'_>, networks: &[NetworkId]) {
    let (src, _) = leaving.addresses();
    let mut networks = networks.iter();
    assert!(
        networks.any(|id| believes(scene, *id, &came.peer_addresses, src)),
        "{src} is not behind {:?}",
        came.peer_addresses
    );
    let Some(to) = leaving.peer_address() else {
        return;
    };
    let transit = |address: IpAddr| {
        let mut peers = scene.peers.iter();
        peers.any(|peer| peer.underlay == address && peer.transit)
    };
    assert!(transit(to), "from a tunnel to one without transit");
    let mut from = came.peer_addresses.iter();
    assert!(from.any(|from| *from != to && transit(*from)));
}

/// Whether a source may come from a peer at one of these addresses.
fn believes(scene: &Scene, network: NetworkId, from: &[IpAddr], src: IpAddr) -> bool {
    scene.peers.iter().any(|peer| {
        let routes_back = matches!(
            scene.next_hop(network, src),
            Some(NextHop::Peer { peer: id, .. }) if id == peer.id
        );
        peer.network == network
            && from.contains(&peer.underlay)
            && (routes_back || peer.node_addresses.contains(&src))
    })
}

/// A packet, or each that a super-frame stands for, fits where it goes.
fn check_length(scene: &Scene, leaving: &Leaving<'_>, output: &Output) {
    let mtu = leaving.mtu(scene);
    let len = leaving.packet.len();
    let size = match output.segmentation {
        Segmentation::None => {
            assert!(
                len <= mtu,
                "{len} bytes, and room for {mtu}: {:?}",
                leaving.way
            );
            return;
        }
        Segmentation::TcpV4 { size }
        | Segmentation::TcpV6 { size }
        | Segmentation::Udp { size } => usize::from(size),
    };
    let headers = if leaving.packet[0] >> 4 == 4 { 20 } else { 40 };
    let transport = match output.segmentation {
        Segmentation::Udp { .. } => 8,
        _ => 20,
    };
    assert!(size > 0 && len.min(headers + transport + size) <= mtu);
}

/// Between its headers nothing of a packet was changed, but for what a gateway has to.
fn check_bytes(
    scene: &Scene,
    (port, came): (PortId, &Came),
    leaving: &Leaving<'_>,
    output: &Output,
) {
    let finished = leaving.finished(output);
    if let Checksum::Partial { start, offset } = output.checksum {
        let field = usize::from(start) + usize::from(offset) + 2;
        let at = output.bytes.len() - leaving.packet.len();
        let headers = if leaving.packet[0] >> 4 == 4 { 20 } else { 40 };
        assert!(usize::from(start) >= at + headers && field <= output.bytes.len());
        let carried = match leaving.way {
            Way::Tunnel { .. } => Offloads::TUNNEL_CHECKSUM,
            Way::Local(_) | Way::Link => Offloads::CHECKSUM,
        };
        let egress = leaving.port(scene);
        let whole = output.segmentation == Segmentation::None;
        assert!(!whole || egress.offloads.has(carried), "nobody finishes it");
    }
    if finished.len() != came.packet.len() {
        // It was cut: see check_own.
        assert!(finished[0] >> 4 == 4 && finished.len() < came.packet.len());
        return;
    }
    let sound = |packet: &[u8]| is_sound(&view::framed(packet));
    assert!(
        !sound(&came.packet) || sound(&finished),
        "what was right is wrong now"
    );
    // A peer on this machine left it to a device that never came.
    let restored = port == UNDERLAY && output.checksum != came.checksum;
    let clamps = scene
        .networks
        .iter()
        .any(|n| n.options.has(NetworkOptions::CLAMP_MSS));
    if clamps {
        return;
    }
    let mut before = came.packet.clone();
    let mut after = finished;
    view::mask(&mut before, restored);
    view::mask(&mut after, restored);
    assert!(before == after, "{before:02x?}\nleft as\n{after:02x?}");
}

fn check_reply(scene: &Scene, (port, input): (PortId, &Input), output: &Output) {
    assert!(scene.wire || port != UNDERLAY, "sockets take no replies");
    assert_eq!(
        (output.outer, output.segmentation),
        (None, Segmentation::None)
    );
    if output.bytes[12..14] == [8, 6] {
        assert_eq!(output.bytes[20..22], [0, 2], "an answer");
        // Who was asked for answers.
        assert_eq!(output.bytes[28..32], input.bytes[38..42]);
        assert_eq!(output.bytes[38..42], input.bytes[28..32]);
        let asker = scene.port(port).expect("it is there");
        if let PortKind::Endpoint(endpoint) = &asker.kind {
            let sender: [u8; 4] = input.bytes[28..32].try_into().expect("four bytes");
            assert_eq!(input.bytes[22..28], asker.mac.bytes());
            assert!(
                sender == [0; 4] || owns(endpoint, sender.into()),
                "{sender:?}"
            );
        }
        return;
    }
    agreed(&output.bytes[14..]);
    let is_v6 = output.bytes[12] == 0x86;
    if is_v6 && output.bytes[54] == 136 {
        assert!(
            is_sound(&output.bytes),
            "an advertisement is the gateway's own"
        );
        return;
    }
    let came = view::plain(input).expect("what is answered was understood");
    let reply = &output.bytes[14..];
    let (src, dst) = view::addresses(&came.packet);
    assert_eq!(view::addresses(reply), (dst, src));
    assert_eq!(reply.len(), came.packet.len());
    let sound = is_sound(&view::framed(&came.packet));
    let partial = matches!(output.checksum, Checksum::Partial { .. });
    assert!(
        !sound || !partial && is_sound(&output.bytes),
        "{input:02x?}\nis answered by\n{output:02x?}"
    );
}

/// What the gateway made on behalf of one frame.
fn check_own(scene: &Scene, (port, input): (PortId, &Input), output: &Output, made: &[Made]) {
    match output.fate {
        Fate::Forward(egress) => {
            if made.is_empty() {
                return;
            }
            let came = came(scene, port, input).expect("it was understood");
            let mut all = vec![(egress, &output.bytes[..], output.outer)];
            all.extend(
                made.iter()
                    .map(|(port, bytes, outer)| (*port, &bytes[..], *outer)),
            );
            view::check_fragments(scene, &came, &all);
        }
        Fate::Drop(_) => {
            assert!(made.len() <= 1, "one error about one packet");
            for (port, bytes, outer) in made {
                let leaving = left(scene, (*port, bytes, *outer));
                verified(&view::framed(leaving.packet));
                view::check_error(leaving.packet);
            }
        }
        Fate::Flood => {
            let came = came(scene, port, input).expect("it was understood");
            for (egress, bytes, outer) in made {
                assert!(*egress != port, "back to where it came from");
                let leaving = left(scene, (*egress, bytes, *outer));
                let ids = came.networks(scene, port);
                assert!(ids.iter().any(|id| leaving.is_in(scene, *id)));
                assert_eq!(leaving.ttl(), came.ttl(), "it stays on the link");
                // A super-frame of the underlay's need not be marked.
                if input.segmentation == Segmentation::None && port != UNDERLAY {
                    assert!(leaving.packet.len() <= leaving.mtu(scene));
                }
                assert_eq!(leaving.packet.len(), came.packet.len());
            }
        }
        Fate::Reply | Fate::Consume | Fate::Punt | Fate::Queue => assert!(made.is_empty()),
    }
}
