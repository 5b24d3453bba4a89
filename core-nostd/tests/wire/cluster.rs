//! Two nodes back to back over a link that loses, doubles and reorders frames.

use culvert_core::*;
use proptest::prelude::*;

use crate::node::*;

/// What the link does with the next frame.
#[derive(Clone, Copy, Debug)]
enum Luck {
    Delivered,
    Lost,
    /// It comes after those of so many further steps.
    Late(usize),
    Twice,
}

struct Link {
    /// Frames on their way: the step at which they arrive, and to which node.
    flying: Vec<(usize, usize, Vec<u8>)>,
    luck: Vec<Luck>,
    step: usize,
    sent: usize,
}

impl Link {
    fn send(&mut self, to: usize, frame: Vec<u8>) {
        let luck = self.luck.get(self.sent).copied().unwrap_or(Luck::Delivered);
        self.sent += 1;
        match luck {
            Luck::Lost => {}
            Luck::Delivered => self.flying.push((self.step + 1, to, frame)),
            Luck::Late(steps) => self.flying.push((self.step + 1 + steps, to, frame)),
            Luck::Twice => {
                self.flying.push((self.step + 1, to, frame.clone()));
                self.flying.push((self.step + 3, to, frame));
            }
        }
    }

    fn arrivals(&mut self) -> Vec<(usize, Vec<u8>)> {
        self.step += 1;
        let step = self.step;
        let (now, later) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|(when, ..)| *when <= step);
        self.flying = later;
        let now: Vec<(usize, usize, Vec<u8>)> = now;
        now.into_iter().map(|(_, to, frame)| (to, frame)).collect()
    }
}

/// Hands a frame to a node; what leaves it goes onto the link, what its pod gets is
/// returned.
fn hand_in(
    gateway: &mut Gateway<'_>,
    (index, millis): (usize, u64),
    (port, frame): (PortId, Vec<u8>),
    link: &mut Link,
) -> Vec<Vec<u8>> {
    let output = run(gateway, millis, port, frame);
    let mut delivered = vec![];
    let by = match output.fate {
        Fate::Forward(by) => Some(by),
        Fate::Reply => Some(port),
        _ => None,
    };
    let sent = by.map(|by| (by, output.bytes));
    for (by, bytes) in sent.into_iter().chain(output.made) {
        verified(&bytes);
        match by {
            WIRE => link.send(1 - index, bytes),
            _ => delivered.push(bytes),
        }
    }
    delivered
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        5 => Just(Luck::Delivered),
        3 => Just(Luck::Lost),
        2 => (1usize..6).prop_map(Luck::Late),
        1 => Just(Luck::Twice),
    ]
}

/// A packet of node `from`'s pod to the other's, with a number of its own.
fn packet(from: u8, v6: bool, number: u16, len: usize) -> Vec<u8> {
    let to = 3 - from;
    let mut payload = vec![0x5a; len];
    payload.splice(0..0, number.to_be_bytes());
    let macs = (pod_mac(from), GATEWAY_MAC);
    ip_frame(macs, (pod(v6, from), pod(v6, to)), (number, 80), &payload)
}

/// A packet as the pod of node `to` gets it.
fn as_delivered(mut frame: Vec<u8>, to: u8) -> Vec<u8> {
    frame[..6].copy_from_slice(&pod_mac(to));
    frame[6..12].copy_from_slice(&GATEWAY_MAC);
    if frame[12] == 8 {
        frame[22] -= 2;
        frame[24..26].fill(0);
        let header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        frame[21] -= 2;
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 1500 }))]
    #[test]
    fn packets_arrive_unchanged_and_the_neighbors_are_found_whatever_the_link_does(
        v6: bool,
        encap in prop::sample::select(ALL),
        luck in prop::collection::vec(luck(), 0..120),
        packets in prop::collection::vec((1u8..3, any::<bool>(), 0usize..1200), 1..60),
        step_ms in 20u64..400,
    ) {
        let mut memories = [Memory::new(), Memory::new()];
        let [first, second] = &mut memories;
        let mut gateways = [first.gateway(), second.gateway()];
        Setup::new(1, v6, encap).program(&mut gateways[0], 2);
        Setup::new(2, v6, encap).program(&mut gateways[1], 1);
        let mut link = Link { flying: vec![], luck, step: 0, sent: 0 };
        let mut expected = [vec![], vec![]];
        let mut got = [vec![], vec![]];
        // Afterwards the link is a good one, and there are ten seconds for what
        // was lost; then one packet each way goes through.
        let quiet = 10_000 / usize::try_from(step_ms).unwrap();
        let last = packets.len() + 120 + quiet;
        for step in 0..last + 60 {
            let millis = u64::try_from(step).unwrap() * step_ms;
            if step == packets.len() + 119 {
                link.luck.clear();
                link.flying.clear();
            }
            let next = match step {
                _ if step < packets.len() => Some(packets[step]),
                _ if step == last => Some((1, false, 10)),
                _ if step == last + 30 => Some((2, true, 10)),
                _ => None,
            };
            let arrivals = link.arrivals().into_iter().map(|(to, frame)| (to, (WIRE, frame)));
            let own = next.map(|(from, v6, len)| {
                let number = u16::try_from(step).unwrap();
                let frame = packet(from, v6, number, len);
                expected[usize::from(2 - from)].push(as_delivered(frame.clone(), 3 - from));
                (usize::from(from) - 1, (POD, frame))
            });
            for (to, input) in arrivals.chain(own).collect::<Vec<_>>() {
                let delivered = hand_in(&mut gateways[to], (to, millis), input, &mut link);
                got[to].extend(delivered);
            }
            for (index, gateway) in gateways.iter_mut().enumerate() {
                for (_, frame) in tick(gateway, millis) {
                    verified(&frame);
                    link.send(1 - index, frame);
                }
            }
        }
        for to in 0..2 {
            for frame in &got[to] {
                prop_assert!(expected[to].contains(frame), "nobody sent this");
            }
            let last = expected[to].last().unwrap();
            prop_assert!(got[to].contains(last), "{to}: it got lost on a good link");
            let fates = sum_of_fates(&gateways[to]);
            prop_assert_eq!(gateways[to].counter(Counter::Rx), fates);
        }
    }
}
