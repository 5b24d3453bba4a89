//! A board that is not there, wires to its NICs, and a clock that the test winds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use culvert_core::channel::{
    Board as Ask, BoardAnswer, Endpoint, FrameDecoder, FrameEvent, Health, MAX_FRAME, MAX_MESSAGE,
    Network, Operation, Port, PortKind, Request, Response, Role, decode_response, encode_frame,
    encode_request,
};
use culvert_core::{Frame, Instant, MacAddr, NetworkId, Packet, PortId, Vni};
use culvert_firmware::{Appliance, BUFFER_LEN, Batch, Board, Buffer, End, Pool, Room};

/// The NICs, in the board's order.
pub(crate) const ROLES: [Role; 3] = [
    Role::Port(PortId(1)),
    Role::Management,
    Role::Port(PortId(2)),
];
pub(crate) const MANAGEMENT: usize = 1;
/// Buffers that there are.
pub(crate) const BUFFERS: usize = 300;

/// What the board and the test share.
#[derive(Default)]
pub(crate) struct Wires {
    pub(crate) to_nic: [VecDeque<Vec<u8>>; 3],
    pub(crate) from_nic: [VecDeque<Vec<u8>>; 3],
    pub(crate) to_console: VecDeque<u8>,
    pub(crate) from_console: VecDeque<u8>,
    pub(crate) micros: u64,
    /// What the next random bytes are made of; `None` where there is no source.
    pub(crate) random: Option<u64>,
    /// How often random bytes were asked for.
    pub(crate) asked: usize,
    /// Frames that were lost because the pool was empty.
    pub(crate) no_buffer: usize,
    /// Buffers that the NICs keep, whatever the pool has left.
    pub(crate) kept: Vec<Buffer>,
    /// Whether the last NIC takes all there are, behind the others' turns.
    pub(crate) keep: bool,
}

pub(crate) struct Desk {
    wires: Rc<RefCell<Wires>>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the appliance is at work, and not the test around it.
#[allow(dead_code, reason = "only the test of the heap asks this")]
pub(crate) fn is_inside() -> bool {
    // Threads allocate before and after they have such variables.
    INSIDE.try_with(Cell::get).unwrap_or(false)
}

/// Until it is dropped, what happens is of one side.
struct Side(bool);

impl Side {
    fn enter(inside: bool) -> Self {
        Side(INSIDE.replace(inside))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

impl Board for Desk {
    fn nics(&self) -> usize {
        ROLES.len()
    }

    fn mac(&self, nic: usize) -> MacAddr {
        ROLES[nic].mac()
    }

    fn receive(&mut self, nic: usize, pool: &mut Pool, batch: &mut Batch) {
        let _outside = Side::enter(false);
        let mut wires = self.wires.borrow_mut();
        while wires.keep
            && nic == ROLES.len() - 1
            && let Some(buffer) = pool.take()
        {
            wires.kept.push(buffer);
        }
        if !wires.keep {
            wires.kept.drain(..).for_each(|buffer| pool.give(buffer));
        }
        while !batch.is_full() {
            let Some(bytes) = wires.to_nic[nic].pop_front() else {
                return;
            };
            let Some(buffer) = pool.take() else {
                wires.no_buffer += 1;
                continue;
            };
            buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(&bytes);
            let frame = Frame::new(buffer, Frame::HEADROOM, bytes.len()).unwrap();
            let _ = batch.push(Packet::new(frame));
        }
    }

    fn send(&mut self, nic: usize, pool: &mut Pool, frame: Frame<'static>) -> bool {
        let _outside = Side::enter(false);
        let mut wires = self.wires.borrow_mut();
        wires.from_nic[nic].push_back(frame.bytes().to_vec());
        pool.give_frame(frame);
        true
    }

    fn flush(&mut self, _: usize, _: &mut Pool) {}

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let _outside = Side::enter(false);
        let mut wires = self.wires.borrow_mut();
        let len = bytes.len().min(wires.to_console.len());
        for (to, from) in bytes.iter_mut().zip(wires.to_console.drain(..len)) {
            *to = from;
        }
        len
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let _outside = Side::enter(false);
        self.wires.borrow_mut().from_console.extend(bytes);
        bytes.len()
    }

    fn now(&mut self) -> Instant {
        Instant::from_micros(self.wires.borrow().micros)
    }

    fn sleep(&mut self, _: Instant) {
        unreachable!("the test winds the clock");
    }

    fn end(&mut self, how: End) -> ! {
        panic!("ended: {how:?}");
    }

    fn random(&mut self, bytes: &mut [u8]) -> bool {
        let mut wires = self.wires.borrow_mut();
        wires.asked += 1;
        let Some(state) = &mut wires.random else {
            return false;
        };
        for byte in bytes {
            // Any bytes that differ each time will do here.
            *state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        true
    }
}

pub(crate) struct World {
    pub(crate) wires: Rc<RefCell<Wires>>,
    appliance: Appliance<'static, Desk>,
    console: FrameDecoder,
    next_id: u32,
}

impl World {
    /// An appliance that was just switched on.
    pub(crate) fn new() -> Self {
        Self::with_random(Some(1))
    }

    pub(crate) fn with_random(random: Option<u64>) -> Self {
        let wires = Rc::new(RefCell::new(Wires {
            random,
            ..Wires::default()
        }));
        let free: &'static mut heapless::Vec<Buffer, BUFFERS> = Box::leak(Box::default());
        for _ in 0..BUFFERS {
            let buffer = vec![0xa5; BUFFER_LEN].leak();
            assert!(free.push(buffer).is_ok());
        }
        let storage = Box::new(culvert_core::Tiny::new());
        let board = Desk {
            wires: Rc::clone(&wires),
        };
        let gateway = Box::leak(storage).gateway();
        let mut appliance = Appliance::new(board, gateway, Pool::new(free));
        appliance.authenticate(Box::leak(Box::new(Room::new())));
        World {
            wires,
            appliance,
            console: FrameDecoder::new(),
            next_id: 0,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.wires.borrow().micros
    }

    /// Lets time pass, and the appliance do what it has to. It sleeps when it has said
    /// so, until something comes in or its time has come.
    pub(crate) fn pass(&mut self, micros: u64) {
        self.wires.borrow_mut().micros += micros;
        let has_come = {
            let wires = self.wires.borrow();
            !wires.to_console.is_empty() || wires.to_nic.iter().any(|nic| !nic.is_empty())
        };
        if !has_come && self.appliance.due().micros() > self.now() {
            return;
        }
        for _ in 0..10_000 {
            if !self.turn() {
                assert!(
                    self.appliance.due().micros() > self.now(),
                    "it does not sleep"
                );
                return;
            }
        }
        panic!("the appliance never comes to rest");
    }

    /// One turn of the appliance.
    pub(crate) fn turn(&mut self) -> bool {
        let _inside = Side::enter(true);
        self.appliance.turn()
    }

    /// Asks by the console.
    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        self.next_id += 1;
        let bytes = framed(self.next_id, request);
        self.wires.borrow_mut().to_console.extend(bytes);
        self.pass(1);
        let answer: Vec<u8> = self.wires.borrow_mut().from_console.drain(..).collect();
        let mut found = None;
        self.console.feed(&answer, |event| {
            if let FrameEvent::Message(message) = event {
                found = decode_response(message).ok();
            }
        });
        let (id, response) = found.expect("an answer by the console");
        assert_eq!(id, self.next_id);
        response
    }

    pub(crate) fn ask_board(&mut self, request: Ask) -> BoardAnswer {
        match self.ask(&Request::Board(request)) {
            Response::Board(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn health(&mut self) -> Health {
        match self.ask_board(Ask::Health) {
            BoardAnswer::Health(health) => health,
            other => panic!("{other:?}"),
        }
    }

    /// Frames that the management NIC has sent since.
    pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
        self.wires.borrow_mut().from_nic[MANAGEMENT]
            .drain(..)
            .collect()
    }
}

/// A request as it goes over a stream.
pub(crate) fn framed(id: u32, request: &Request) -> Vec<u8> {
    let mut message = vec![0; MAX_MESSAGE];
    let len = encode_request(id, request, &mut message).unwrap();
    let mut out = vec![0; MAX_FRAME];
    let len = encode_frame(&mut message, len, &mut out).unwrap();
    out.truncate(len);
    out
}

const GATEWAY: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

/// A pod's MAC and IP address.
fn pod(number: u8) -> ([u8; 6], [u8; 4]) {
    ([2, 0, 0, 0, 2, number], [10, 244, 1, number])
}

/// A network, and a pod behind each of both ports.
pub(crate) fn two_pods<const N: usize>() -> heapless::Vec<Operation, N> {
    let network = NetworkId(0);
    let vni = Vni::new(1).unwrap();
    let local = [192, 168, 0, 1].into();
    let mut operations = heapless::Vec::new();
    let network_of_pods = Network {
        gateways: heapless::Vec::from_slice(&[[169, 254, 1, 1].into()]).unwrap(),
        gateway_mac: GATEWAY,
        ..Network::new(network, vni, local, PortId(0))
    };
    let uplink = Port::new(PortId(0), 1500, PortKind::Underlay);
    let _ = operations.push(Operation::UpsertPort(uplink));
    let _ = operations.push(Operation::UpsertNetwork(network_of_pods));
    for number in [1, 2] {
        let (mac, address) = pod(number);
        let endpoint = Endpoint::with_address(network, address.into());
        let id = PortId(number.into());
        let port = Port::endpoint(id, 1500, MacAddr::new(mac), endpoint);
        let _ = operations.push(Operation::UpsertPort(port));
    }
    operations
}

/// A packet from the first pod to the second.
pub(crate) fn pod_frame() -> Vec<u8> {
    let ((from, source), (_, destination)) = (pod(1), pod(2));
    let builder = etherparse::PacketBuilder::ethernet2(from, GATEWAY.bytes())
        .ipv4(source, destination, 64)
        .udp(1, 2);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"to a pod").unwrap();
    frame
}
