//! A node with an uplink and two pods, and every appliance that it can be tried on.

use culvert_core::channel::*;
use culvert_core::{IpPrefix, MacAddr, NetworkId, PortId, Vni, heapless};
use culvert_host::appliance::Arch;
use culvert_lab::appliance::{Guest, Outside};
use etherparse::PacketBuilder;

use crate::images::boot;
use crate::twin::Twin;

pub(crate) const UPLINK: PortId = PortId(1);
pub(crate) const POD_A: PortId = PortId(2);
pub(crate) const POD_B: PortId = PortId(3);
pub(crate) const NETWORK: NetworkId = NetworkId(0);
pub(crate) const MAC_A: MacAddr = MacAddr::new([0x0a, 0x58, 10, 244, 1, 2]);
const MAC_B: MacAddr = MacAddr::new([0x0a, 0x58, 10, 244, 1, 3]);
const GATEWAY: MacAddr = MacAddr::new([0xee; 6]);

/// An appliance that has just booted, whatever it runs on.
pub(crate) enum Booted {
    Twin(Twin),
    Guest(Guest),
}

impl Booted {
    pub(crate) fn outside(&mut self) -> &mut Outside {
        match self {
            Booted::Twin(twin) => &mut twin.outside,
            Booted::Guest(guest) => &mut guest.outside,
        }
    }
}

/// The image for an architecture.
pub(crate) fn boot_guest(arch: Arch, macs: &[MacAddr]) -> Booted {
    Booted::Guest(boot(arch, macs))
}

/// Boots an appliance of some kind with NICs of these MAC addresses.
pub(crate) type Boot<'b> = &'b dyn Fn(&[MacAddr]) -> Booted;

/// Tests that get a [`Boot`]: each is tried on this machine, and with both images.
macro_rules! on_each {
    ($($test:ident),+ $(,)?) => {
        mod on_this_machine {
            $(#[test]
            fn $test() {
                super::$test(&|macs| crate::world::Booted::Twin(crate::twin::Twin::start(macs)));
            })+
        }

        mod on_the_images {
            $(#[test]
            #[ignore = "builds images and boots them in QEMU"]
            fn $test() {
                for arch in crate::images::ARCHES {
                    super::$test(&|macs| crate::world::boot_guest(arch, macs));
                }
            })+
        }
    };
}
pub(crate) use on_each;

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// The uplink, the network, and both pods.
pub(crate) fn tables() -> Vec<Operation> {
    let address = WireAddress {
        address: ip("192.168.77.1"),
        prefix_length: 24,
    };
    let wire = Wire {
        addresses: heapless::Vec::from_slice(&[address]).unwrap(),
        gateways: heapless::Vec::new(),
    };
    let mut uplink = Port::new(UPLINK, 1500, PortKind::Wire(wire));
    uplink.mac = Role::Port(UPLINK).mac();
    let mut network = Network::new(NETWORK, Vni::new(1).unwrap(), ip("192.168.77.1"), UPLINK);
    let prefix = IpPrefix::new(ip("10.244.0.0"), 16).unwrap();
    network.prefixes.push(prefix).unwrap();
    let pod = |port, mac, address| {
        let endpoint = Endpoint::with_address(NETWORK, ip(address));
        Operation::UpsertPort(Port::endpoint(port, 1450, mac, endpoint))
    };
    vec![
        Operation::UpsertPort(uplink),
        Operation::UpsertNetwork(network),
        pod(POD_A, MAC_A, "10.244.1.2"),
        pod(POD_B, MAC_B, "10.244.1.3"),
    ]
}

/// A transaction.
pub(crate) fn apply(transaction: u64, operations: &[Operation]) -> Request {
    Request::Apply(Apply {
        transaction,
        owner: Owner::Cluster,
        operations: heapless::Vec::from_slice(operations).unwrap(),
    })
}

/// Says Hello and applies the tables.
pub(crate) fn program(outside: &mut Outside) {
    let welcome = outside.hello(7).unwrap();
    assert_eq!((welcome.previous_epoch, welcome.epoch), (0, 7));
    let applied = outside.ask(&apply(1, &tables())).unwrap();
    assert_eq!(applied, Response::Applied { transaction: 1 });
}

fn udp(source: MacAddr, destination: MacAddr, ttl: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(source.bytes(), destination.bytes())
        .ipv4([10, 244, 1, 2], [10, 244, 1, 3], ttl)
        .udp(1000, 2000);
    let mut frame = Vec::new();
    builder
        .write(&mut frame, b"from pod A to pod B, as it is")
        .unwrap();
    frame
}

/// A packet from pod A to pod B, as A sends it.
pub(crate) fn packet() -> Vec<u8> {
    udp(MAC_A, GATEWAY, 64)
}

/// The same as B gets it. The gateway has no address here, and so no MAC of its own.
pub(crate) fn delivered() -> Vec<u8> {
    udp(GATEWAY, MAC_B, 63)
}

/// NICs for the uplink and both pods, in this order.
pub(crate) fn three() -> [MacAddr; 3] {
    [UPLINK, POD_A, POD_B].map(|port| Role::Port(port).mac())
}

/// A packet goes from pod A to pod B, who have the second and the third NIC.
pub(crate) fn forwards(outside: &mut Outside) {
    let mut sent = outside.exchange(1, &packet()).unwrap();
    // The uplink announces itself when it is time to.
    sent.retain(|(wire, _)| *wire != 0);
    assert_eq!(sent, [(2, delivered())]);
}
