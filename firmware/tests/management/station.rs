//! A station on the management's wire: smoltcp with its own addresses.

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::world::{MANAGEMENT, World};

/// Connections at a time.
const SOCKETS: usize = 64;

pub(crate) struct Station {
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    /// Milliseconds that a frame is on its way to the station.
    pub(crate) delay: usize,
    wire: Wire,
    on_the_way: VecDeque<Vec<Vec<u8>>>,
    next_port: u16,
}

#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Station {
    /// A station with these addresses and prefix lengths.
    pub(crate) fn new(number: u8, addresses: &[&str]) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 1, number]);
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(mac));
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            for address in addresses {
                let (address, length) = address.split_once('/').unwrap();
                let address: IpAddr = address.parse().unwrap();
                own.push(IpCidr::new(address.into(), length.parse().unwrap()))
                    .unwrap();
            }
        });
        let storage: Vec<_> = (0..SOCKETS).map(|_| SocketStorage::EMPTY).collect();
        Station {
            interface,
            sockets: SocketSet::new(storage.leak()),
            delay: 0,
            wire,
            on_the_way: VecDeque::new(),
            next_port: 1000,
        }
    }

    /// One millisecond of everybody's life.
    pub(crate) fn step(&mut self, world: &mut World) {
        let now = Instant::from_micros(i64::try_from(world.now()).unwrap());
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let sent = self.wire.sent.drain(..);
        world.wires.borrow_mut().to_nic[MANAGEMENT].extend(sent);
        world.pass(1_000);
        self.on_the_way.push_back(world.sent());
        while self.on_the_way.len() > self.delay {
            let arrived = self.on_the_way.pop_front();
            self.wire.received.extend(arrived.into_iter().flatten());
        }
    }

    /// Passes time until something holds, or says that it does not within `millis`.
    pub(crate) fn until(
        &mut self,
        world: &mut World,
        millis: u64,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        for _ in 0..millis {
            if holds(self) {
                return true;
            }
            self.step(world);
        }
        holds(self)
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, to: &str, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 16_384].leak());
        let handle = self.sockets.add(tcp::Socket::new(buffer(), buffer()));
        let to: IpAddr = to.parse().unwrap();
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        let context = self.interface.context();
        socket.connect(context, (to, port), self.next_port).unwrap();
        handle
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Whether a connection comes about within four seconds.
    pub(crate) fn is_connected(&mut self, world: &mut World, handle: SocketHandle) -> bool {
        self.until(world, 4_000, |station| {
            let state = station.socket(handle).state();
            state == tcp::State::Established || state == tcp::State::Closed
        });
        self.socket(handle).state() == tcp::State::Established
    }

    /// Whether the other side ends a connection within so many milliseconds.
    pub(crate) fn is_ended(
        &mut self,
        world: &mut World,
        handle: SocketHandle,
        millis: u64,
    ) -> bool {
        self.until(world, millis, |station| {
            let state = station.socket(handle).state();
            state == tcp::State::Closed || state == tcp::State::CloseWait
        })
    }

    /// Pings with this many bytes; returns whether the answer has them.
    pub(crate) fn ping(&mut self, world: &mut World, to: &str, data: &[u8]) -> bool {
        let buffer = || {
            let metadata = vec![icmp::PacketMetadata::EMPTY; 4].leak();
            icmp::PacketBuffer::new(&mut *metadata, vec![0; 4096].leak())
        };
        let handle = self.sockets.add(icmp::Socket::new(buffer(), buffer()));
        let socket = self.sockets.get_mut::<icmp::Socket>(handle);
        socket.bind(icmp::Endpoint::Ident(0x22b)).unwrap();
        let to: IpAddr = to.parse().unwrap();
        let caps = DeviceCapabilities::default().checksum;
        use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};
        match to {
            IpAddr::V4(_) => {
                let echo = Icmpv4Repr::EchoRequest {
                    ident: 0x22b,
                    seq_no: 1,
                    data,
                };
                let bytes = socket.send(echo.buffer_len(), to.into()).unwrap();
                echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &caps);
            }
            IpAddr::V6(to) => {
                let echo = Icmpv6Repr::EchoRequest {
                    ident: 0x22b,
                    seq_no: 1,
                    data,
                };
                let from = self.interface.get_source_address_ipv6(&to);
                let bytes = socket.send(echo.buffer_len(), to.into()).unwrap();
                echo.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(bytes), &caps);
            }
        }
        let mut answered = false;
        self.until(world, 2_000, |station| {
            let socket = station.sockets.get_mut::<icmp::Socket>(handle);
            if let Ok((bytes, from)) = socket.recv() {
                // Both versions have eight bytes in front of the data.
                answered = from == to.into() && bytes[8..] == *data;
                return true;
            }
            false
        });
        self.sockets.remove(handle);
        answered
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
