//! What holds for any frame on a dual-stack node of any kind, as etherparse and
//! smoltcp see what leaves it.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::packets::{any_node, any_shell, chain, inputs};

/// The frame that a tunnel packet or a plain frame has within.
fn inner(input: &Input) -> Option<Vec<u8>> {
    match input.outer.map(|outer| outer.l4) {
        None => Some(input.bytes.clone()),
        Some(OuterL4::Udp { .. }) => input.bytes.get(8..).map(<[u8]>::to_vec),
        Some(OuterL4::Ip { protocol }) => {
            let kind = if protocol == 4 { [8, 0] } else { [0x86, 0xdd] };
            Some([&[0; 12], &kind[..], &input.bytes].concat())
        }
    }
}

/// What must hold for each frame that leaves and was not made about a drop.
fn check_leaving(node: &Node, came: Option<IpAddr>, made: &Made) {
    let (port, _, outer) = made;
    assert_eq!(outer.is_some(), *port == UNDERLAY);
    if let Some(outer) = outer {
        assert_eq!(outer.src, node.address_of(1));
        assert!([2, 3].map(|n| node.address_of(n)).contains(&outer.dst));
        if let Some(came) = came {
            assert!(node.transit && came != outer.dst, "from tunnel to tunnel");
        }
    }
    agreed(ip_packet(made));
}

/// A packet fits where it goes, and what is unfinished can be finished there
/// without harm to what the guards have seen.
fn check_marks(node: &Node, output: &Output, made: &Made) {
    let (port, bytes, _) = made;
    let mtu = match *port {
        UNDERLAY => node.underlay_mtu - node.overhead(),
        _ => 1450,
    };
    let whole = output.segmentation == Segmentation::None;
    assert!(
        !whole || ip_packet(made).len() <= usize::from(mtu),
        "{port} has {mtu}"
    );
    if let Checksum::Partial { start, offset } = output.checksum {
        assert!(*port != UNDERLAY || !whole, "a socket finishes nothing");
        let at = bytes.len() - ip_packet(made).len();
        let ip_len = if bytes[at] >> 4 == 4 { 20 } else { 40 };
        let field = usize::from(start) + usize::from(offset);
        assert!(usize::from(start) >= at + ip_len && field + 2 <= bytes.len());
    }
}

fn count(gateway: &Gateway<'_>, counter: Counter) -> usize {
    gateway.counter(counter).try_into().unwrap()
}

/// What must hold for one frame, whatever it was.
fn check(gateway: &mut Gateway<'_>, node: &Node, shell: &Shell, (port, input): (PortId, Input)) {
    let before = count(gateway, Counter::Originated);
    let rx = count(gateway, Counter::Rx);
    let came = input.outer.map(|outer| outer.src);
    let output = shell.run(gateway, port, input.clone());
    // A super-frame counts as the packets that it stands for.
    assert!(count(gateway, Counter::Rx) > rx);
    assert_eq!(
        count(gateway, Counter::Rx),
        usize::try_from(sum_of_fates(gateway)).unwrap()
    );
    let originated = count(gateway, Counter::Originated) - before;
    let whole = output.segmentation == Segmentation::None;
    // A super-frame may come without a mark.
    let plain = whole && input.segmentation == Segmentation::None;
    assert!(originated == output.made.len() || originated > output.made.len() && !plain);
    match output.fate {
        Fate::Forward(_) => {
            let all = output.all();
            all.iter().for_each(|made| check_leaving(node, came, made));
            all.iter().for_each(|made| check_marks(node, &output, made));
            // Fragments are no larger than what they were cut for.
            if port == POD_A {
                let owned = [A.to_vec(), A6.to_vec()];
                all.iter()
                    .for_each(|made| assert!(owned.contains(&source(ip_packet(made)))));
            }
            let plain = matches!(input.checksum, Checksum::None) && whole;
            if plain
                && output.checksum == Checksum::None
                && all.len() == 1
                && is_sound(&inner(&input).unwrap())
            {
                assert!(
                    is_sound(&inner_frame(&all[0])),
                    "what was right is wrong now"
                );
            }
        }
        Fate::Reply => {
            assert_ne!(port, UNDERLAY);
            assert_eq!(
                (output.outer, output.segmentation),
                (None, Segmentation::None)
            );
            if output.bytes[12..14] != [8, 6] {
                agreed(&output.bytes[14..]);
                // An advertisement is the gateway's own.
                let advertisement = output.bytes[12] == 0x86 && output.bytes[54] == 136;
                assert!(!advertisement || is_sound(&output.bytes));
            }
        }
        // Errors are the gateway's own, so all in them is right.
        Fate::Drop(_) => {
            assert!(output.made.len() <= 1);
            for made in &output.made {
                agreed(ip_packet(made));
                verified(&inner_frame(made));
            }
        }
        Fate::Flood => {
            assert!(node.options.has(NetworkOptions::FLOOD));
            for made in &output.made {
                check_leaving(node, came, made);
                assert!(made.0 != port);
            }
        }
        Fate::Consume | Fate::Punt | Fate::Queue => assert!(output.made.is_empty()),
    }
}

prop_compose! {
    /// Any packet of either version from pod A to node 2's first pod that fits
    /// every tunnel.
    fn any_packet()(
        payload in prop::collection::vec(any::<u8>(), 8..1100),
        protocol in prop_oneof![Just(6u8), Just(17), Just(58), Just(1), Just(41), any::<u8>()],
        options in (0usize..=10).prop_map(|words| vec![1u8; words * 4]),
        chain in chain(),
        (tos, ttl, ident, df, more) in (any::<u8>(), 3u8.., any::<u16>(), any::<bool>(), any::<bool>()),
        // Within the largest packet.
        offset in prop_oneof![Just(0u16), 0u16..(65_535 - 1200) / 8],
        v6: bool,
    ) -> Vec<u8> {
        let mut payload = payload;
        // Neighbor and listener discovery stay on the link.
        payload[0] = 128;
        let mut frame = if v6 {
            let frame = packet6(MAC_A, (A6, REMOTE6), (protocol, ttl), &payload);
            let chain: Vec<_> = chain.iter().map(|(kind, rest)| (*kind, &rest[..])).collect();
            extended(frame, &chain)
        } else {
            let ip = etherparse::Ipv4Header {
                identification: ident,
                dont_fragment: df,
                more_fragments: more,
                fragment_offset: etherparse::IpFragOffset::try_new(offset).unwrap(),
                options: options.as_slice().try_into().unwrap(),
                ..etherparse::Ipv4Header::new(0, ttl, protocol.into(), A, [10, 244, 2, 2]).unwrap()
            };
            let mut frame = [&GATEWAY_MAC[..], &MAC_A, &[8, 0]].concat();
            frame.extend(ip.to_bytes());
            frame.extend(payload);
            let len = u16::try_from(frame.len() - 14).unwrap();
            edit_ip(&mut frame, |header| header.total_len = len);
            frame
        };
        match v6 {
            true => edit_ip6(&mut frame, |header| header.traffic_class = tos),
            false => edit_ip(&mut frame, |header| {
                header.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
                header.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
            }),
        }
        frame
    }
}

/// The packet as two gateways leave it.
fn twice_routed(mut frame: Vec<u8>) -> Vec<u8> {
    match frame[12..14] {
        [8, 0] => edit_ip(&mut frame, |header| header.time_to_live -= 2),
        _ => edit_ip6(&mut frame, |header| header.hop_limit -= 2),
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4 * ProptestConfig::default().cases,
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_frame_of_a_dual_stack_node_has_one_fate(
        (node, inputs) in any_node().prop_flat_map(|node| (Just(node), inputs(node))),
        shell in any_shell(),
    ) {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        node.program(&mut gateway);
        for input in inputs {
            check(&mut gateway, &node, &shell, input);
        }
    }

    #[test]
    fn two_gateways_are_one_wire_for_every_tunnel(
        frame in any_packet(), over_v6: bool, ipip: bool,
    ) {
        let node = |number| Node {
            underlay: if over_v6 { Family::V6 } else { Family::V4 },
            encap: if ipip { Encap::Ipip } else { Encap::Vxlan },
            ..Node::new(number)
        };
        let sent = node(1).run(|gateway| run(gateway, POD_A, frame.clone()));
        // Chains that make no sense go nowhere.
        if let Fate::Drop(reason) = sent.fate {
            prop_assert!(
                matches!(reason, DropReason::Ipv6Extension | DropReason::SourceRoute),
                "{:?}", reason
            );
            return Ok(());
        }
        prop_assert_eq!(sent.fate, Fate::Forward(UNDERLAY));
        let wire = Input { bytes: sent.bytes, outer: sent.outer, ..Input::default() };
        let arrived = node(2).run(|gateway| run(gateway, UNDERLAY, wire));
        prop_assert_eq!(arrived.fate, Fate::Forward(POD_A));
        let mut expected = twice_routed(frame);
        expected[..6].copy_from_slice(&node(2).mac(2));
        expected[6..12].copy_from_slice(&GATEWAY_MAC);
        prop_assert_eq!(arrived.bytes, expected);
    }
}
