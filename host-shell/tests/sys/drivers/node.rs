//! A node: a worker with an underlay in one namespace and a pod's TAP in another.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use culvert_core::channel::*;
use culvert_core::offload::Accepts;
use culvert_core::*;
use culvert_host::dataplane::{
    Driver, ShellCounter, TapPort, Underlay, UnderlayOptions, WirePort, Worker, WorkerEnded,
};
use culvert_host::netlink::{Netlink, filter_from_tap, filters_to_tap};
use culvert_host::sys::tap::{Tap, TapOffloads, TapOptions};

use crate::lab::Namespace;

const UNDERLAY: PortId = PortId(0);
const NET: NetworkId = NetworkId(0);
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
pub(super) const UDP_PORT: u16 = 8472;

/// How two nodes are joined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) encap: Encap,
    /// The nodes' underlay addresses.
    pub(super) addresses: [&'static str; 2],
    pub(super) zero_udp_checksum: bool,
    /// Routers may fragment tunnel packets.
    pub(super) may_fragment: bool,
    /// What the core believes of the underlay's device.
    pub(super) underlay: Offloads,
    /// What the pods leave undone.
    pub(super) tap: TapOptions,
    /// The underlay is a TAP that is joined to the device, not sockets.
    pub(super) wire: bool,
}

impl Plan {
    pub(super) fn new(encap: Encap, addresses: [&'static str; 2]) -> Plan {
        Plan {
            encap,
            addresses,
            zero_udp_checksum: false,
            may_fragment: false,
            underlay: Offloads::NONE,
            tap: TapOptions::default(),
            wire: false,
        }
    }

    fn address(&self, number: usize) -> IpAddr {
        self.addresses[number - 1].parse().unwrap()
    }

    /// Bytes that the tunnel adds to a packet.
    pub(super) fn overhead(&self) -> u16 {
        let ip = if self.address(1).is_ipv4() { 20 } else { 40 };
        match self.encap {
            Encap::Vxlan => ip + 30,
            _ => ip,
        }
    }
}

pub(super) struct Node {
    pub(super) pod: Namespace,
    worker: Worker,
    channel: RefCell<UnixStream>,
    _ended: WorkerEnded,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    /// Node 1 or 2 with its underlay in `space`.
    pub(super) fn new(plan: Plan, number: usize, space: &Namespace) -> Node {
        let (worker, channel, ended) = Worker::start().unwrap();
        channel.set_nonblocking(false).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let node = Node {
            pod: Namespace::new(),
            worker,
            channel: RefCell::new(channel),
            _ended: ended,
            runtime,
        };
        let options = UnderlayOptions {
            address: plan.address(number),
            udp_port: (plan.encap == Encap::Vxlan).then_some(UDP_PORT),
            ipip: plan.encap == Encap::Ipip,
            zero_udp_checksum: plan.zero_udp_checksum,
            may_fragment: plan.may_fragment,
        };
        if plan.wire {
            let port = join(options, space);
            node.attach(UNDERLAY, Driver::Wire(Box::new(port)));
        }
        node.program(plan, number, space);
        if !plan.wire {
            let underlay = space.run(|| Underlay::bind(options)).unwrap();
            node.attach(UNDERLAY, Driver::Underlay(Box::new(underlay)));
        }
        node.attach_pod(plan, (number, 2), &node.pod, Accepts::ALL);
        node
    }

    /// Adds the pod `10.244.number.last` in `space`.
    pub(super) fn attach_pod(
        &self,
        plan: Plan,
        place: (usize, u16),
        space: &Namespace,
        accepts: Accepts,
    ) {
        let mtu = 1500 - plan.overhead();
        let mac = mac(place);
        let addresses = addresses(place);
        let port = Port {
            id: PortId(place.1),
            mtu,
            mac: mac.parse().unwrap(),
            offloads: Offloads::CHECKSUM,
            kind: PortKind::Endpoint(Endpoint {
                network: NET,
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                allowed: heapless::Vec::new(),
            }),
        };
        self.apply(Owner::Attachment, &[Operation::UpsertPort(port)]);
        space.skip_dad();
        let tap = space.run(|| Tap::create("eth0", plan.tap)).unwrap();
        for args in [
            format!("link set eth0 address {mac} mtu {mtu} up"),
            format!("addr add {}/32 dev eth0", addresses[0]),
            format!("addr add {}/128 dev eth0 nodad", addresses[1]),
            "route add default via 169.254.1.1 dev eth0 onlink".to_owned(),
            "route add default via fe80::1 dev eth0".to_owned(),
        ] {
            space.ip(&args.split(' ').collect::<Vec<_>>());
        }
        let driver = Driver::Tap(TapPort::accepting(tap, accepts));
        self.attach(PortId(place.1), driver);
    }

    fn attach(&self, port: PortId, driver: Driver) {
        let attached = self.runtime.block_on(self.worker.attach(port, driver));
        assert!(attached.unwrap().is_none());
    }

    fn program(&self, plan: Plan, number: usize, space: &Namespace) {
        let hello = Request::Hello(Hello {
            version: PROTOCOL,
            epoch: 1,
            schema: SCHEMA,
        });
        assert!(matches!(self.ask(&hello), Response::Hello(_)));
        let other = 3 - number;
        let (mac, kind) = match plan.wire {
            true => wire(plan, number, space),
            false => (MacAddr::ZERO, PortKind::Underlay),
        };
        self.apply(
            Owner::Cluster,
            &[
                Operation::UpsertPort(Port {
                    id: UNDERLAY,
                    mtu: 1500,
                    mac,
                    offloads: plan.underlay,
                    kind,
                }),
                Operation::UpsertNetwork(network(&plan, number)),
                Operation::UpsertPeer(peer(&plan, other)),
                to_peer(&plan, &format!("10.244.{other}.0/24")),
                to_peer(&plan, &format!("fd00:244:{other}::/64")),
            ],
        );
    }

    fn apply(&self, owner: Owner, operations: &[Operation]) {
        let apply = Request::Apply(Apply {
            transaction: 1,
            owner,
            operations: operations.iter().cloned().collect(),
        });
        let answer = self.ask(&apply);
        assert!(matches!(answer, Response::Applied { .. }), "{answer:?}");
    }

    fn ask(&self, request: &Request) -> Response {
        let mut message = vec![0; MAX_MESSAGE];
        let len = encode_request(1, request, &mut message).unwrap();
        let mut frame = vec![0; MAX_FRAME];
        let len = encode_frame(&mut message, len, &mut frame).unwrap();
        let mut channel = self.channel.borrow_mut();
        channel.write_all(&frame[..len]).unwrap();
        let mut decoder = FrameDecoder::new();
        let mut answer = None;
        while answer.is_none() {
            let mut bytes = [0; 512];
            let read = channel.read(&mut bytes).unwrap();
            assert!(read > 0, "the worker has ended");
            decoder.feed(&bytes[..read], |event| {
                let FrameEvent::Message(message) = event else {
                    panic!("{event:?}")
                };
                answer = Some(decode_response(message).unwrap().1);
            });
        }
        answer.unwrap()
    }

    /// What the core has counted.
    pub(super) fn counter(&self, counter: Counter) -> u64 {
        let read = Request::Counters {
            from: counter.number(),
        };
        let Response::Counters { values, .. } = self.ask(&read) else {
            panic!("no counters")
        };
        let found = values
            .iter()
            .find(|(number, _)| *number == counter.number());
        found.map_or(0, |(_, value)| *value)
    }

    /// What the drivers have dropped, peers' errors apart.
    pub(super) fn lost(&self) -> u64 {
        let all = ShellCounter::ALL.into_iter();
        all.filter(|counter| *counter != ShellCounter::UnderlayPeerErrors)
            .map(|counter| self.worker.counters().get(counter))
            .sum()
    }

    /// Errors that peers have reported.
    pub(super) fn peer_errors(&self) -> u64 {
        self.worker.counters().get(ShellCounter::UnderlayPeerErrors)
    }

    /// Runs a program in the pod.
    pub(super) fn exec(&self, args: &str) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.pod.name])
            .args(args.split(' '))
            .output()
            .unwrap()
    }

    /// Pings from the pod until so many answers have come.
    pub(super) fn ping(&self, count: u8, args: &str) {
        // Without -w it takes an answer for lost after twice the round-trip time.
        let output = self.exec(&format!("ping -i 0.1 -w 10 -c {count} {args}"));
        assert!(output.status.success(), "{args}: {output:?}");
    }
}

/// A TAP that is joined to the device `u0` of the namespace.
fn join(options: UnderlayOptions, space: &Namespace) -> WirePort {
    let offloads = TapOffloads::TUNNEL;
    let tap = space.run(|| Tap::create("wire", TapOptions { offloads }));
    let tap = tap.unwrap();
    let quiet = "/proc/sys/net/ipv6/conf/wire/disable_ipv6";
    space.run(|| std::fs::write(quiet, "1").unwrap());
    space.ip(&["link", "set", "wire", "up"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let joining = async {
        let netlink = Netlink::connect(Some(space.ns())).unwrap();
        let [link, tap] = ["u0", "wire"].map(|name| netlink.link(name));
        let (link, tap) = (link.await.unwrap(), tap.await.unwrap());
        for (from, filters) in [
            (&tap, vec![filter_from_tap(link.index)]),
            (&link, filters_to_tap(&options, tap.index)),
        ] {
            netlink.add_clsact(from).await.unwrap();
            for filter in filters {
                netlink.add_filter(from, &filter).await.unwrap();
            }
        }
    };
    runtime.block_on(joining);
    WirePort::new(tap).unwrap()
}

/// What the core is told of `u0`; a node of another subnet is behind the first address.
fn wire(plan: Plan, number: usize, space: &Namespace) -> (MacAddr, PortKind) {
    let own = plan.address(number);
    let length = if own.is_ipv4() { 24 } else { 64 };
    let subnet = |address: IpAddr| {
        let net = ipnet::IpNet::new(address, length).unwrap();
        net.hosts().next().unwrap()
    };
    let apart = subnet(own) != subnet(plan.address(3 - number));
    let mac = space.link("u0")["address"].as_str().unwrap().to_owned();
    let gateway = match subnet(own) {
        // The first one of an IPv6 subnet is that of all routers.
        IpAddr::V6(v6) => IpAddr::from(std::net::Ipv6Addr::from_bits(v6.to_bits() | 1)),
        v4 => v4,
    };
    let kind = PortKind::Wire(Wire {
        addresses: list(&[WireAddress {
            address: own,
            prefix_length: length,
        }]),
        gateways: if apart { list(&[gateway]) } else { list(&[]) },
    });
    (mac.parse().unwrap(), kind)
}

fn mac((number, last): (usize, u16)) -> String {
    format!("0a:58:0a:f4:0{number}:0{last}")
}

fn addresses((number, last): (usize, u16)) -> [String; 2] {
    [
        format!("10.244.{number}.{last}"),
        format!("fd00:244:{number}::{last}"),
    ]
}

fn list<T: Clone, const N: usize>(items: &[T]) -> heapless::Vec<T, N> {
    items.iter().cloned().collect()
}

fn prefix(text: &str) -> IpPrefix {
    let (address, length) = text.split_once('/').unwrap();
    IpPrefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

fn network(plan: &Plan, number: usize) -> Network {
    let local = plan.address(number);
    let v4: IpAddr = "169.254.1.1".parse().unwrap();
    Network {
        id: NET,
        vni: Vni::new(1).unwrap(),
        udp_port: UDP_PORT,
        local,
        vtep_mac: MacAddr::vtep_for(local),
        gateways: list(&[v4, "fe80::1".parse().unwrap()]),
        gateway_mac: GATEWAY_MAC.parse().unwrap(),
        node_addresses: list(&[]),
        prefixes: list(&[prefix("10.244.0.0/16"), prefix("fd00:244::/32")]),
        proxy: Proxy::LinkLocal,
        options: [
            (plan.zero_udp_checksum, NetworkOptions::ZERO_UDP_CHECKSUM),
            (plan.may_fragment, NetworkOptions::OUTER_MAY_FRAGMENT),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(NetworkOptions::NONE, |all, (_, one)| all.with(one)),
        underlay: UNDERLAY,
    }
}

fn peer(plan: &Plan, number: usize) -> Peer {
    let underlay = plan.address(number);
    Peer {
        id: PeerId(0),
        network: NET,
        underlay,
        vtep_mac: MacAddr::vtep_for(underlay),
        node_addresses: list(&[]),
        accepts: EncapSet::of(&[plan.encap]),
        transit: false,
    }
}

fn to_peer(plan: &Plan, to: &str) -> Operation {
    Operation::UpsertRoute(Route {
        network: NET,
        prefix: prefix(to),
        next_hop: NextHop::Peer {
            peer: PeerId(0),
            encap: plan.encap,
        },
    })
}
