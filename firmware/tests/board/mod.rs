//! A board in memory: NICs are queues of frames, the console is a stream of bytes,
//! and time goes on when it is told to.

#![allow(dead_code, reason = "each test uses its own part")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use culvert_core::channel::*;
use culvert_core::{Appliance as Memory, Frame, Instant, MacAddr, Packet, heapless};
use culvert_firmware::{Appliance, BUFFER_LEN, Batch, Board, Buffer, End, Pool};

/// Buffers of a simulated board.
pub(crate) const BUFFERS: usize = 256;

/// A NIC: what came in and waits, and what it has sent.
#[derive(Default)]
pub(crate) struct Link {
    pub mac: MacAddr,
    pub incoming: VecDeque<Vec<u8>>,
    /// What has been handed in and is not flushed yet.
    queued: Vec<Vec<u8>>,
    /// What is out.
    pub sent: Vec<Vec<u8>>,
    /// Frames that the send queue takes before it is full.
    pub room: usize,
}

/// The outside of a board, which a test keeps.
#[derive(Default)]
pub(crate) struct Outside {
    pub links: Vec<Link>,
    pub to_console: VecDeque<u8>,
    pub from_console: Vec<u8>,
    /// Bytes that the console takes at a time.
    pub console_room: usize,
    pub micros: u64,
    pub instructions: u64,
    /// How often the stack was looked at.
    pub stack_looks: u32,
    pub ended: Option<End>,
}

/// The board.
pub(crate) struct Simulated(pub Rc<RefCell<Outside>>);

impl Board for Simulated {
    fn nics(&self) -> usize {
        self.0.borrow().links.len()
    }

    fn mac(&self, nic: usize) -> MacAddr {
        self.0.borrow().links[nic].mac
    }

    fn receive(&mut self, nic: usize, pool: &mut Pool, batch: &mut Batch) {
        let link = &mut self.0.borrow_mut().links[nic];
        while !batch.is_full() && !link.incoming.is_empty() {
            let Some(buffer) = pool.take() else { return };
            let bytes = link.incoming.pop_front().unwrap();
            // What was in it before must not matter.
            buffer.fill(0xa5);
            buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(&bytes);
            let frame = Frame::new(buffer, Frame::HEADROOM, bytes.len()).unwrap();
            assert!(batch.push(Packet::new(frame)).is_ok());
        }
    }

    fn send(&mut self, nic: usize, pool: &mut Pool, frame: Frame<'static>) -> bool {
        let link = &mut self.0.borrow_mut().links[nic];
        let room = link.queued.len() < link.room;
        if room {
            link.queued.push(frame.bytes().to_vec());
        }
        pool.give_frame(frame);
        room
    }

    fn flush(&mut self, nic: usize, _pool: &mut Pool) {
        let link = &mut self.0.borrow_mut().links[nic];
        link.sent.append(&mut link.queued);
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let incoming = &mut self.0.borrow_mut().to_console;
        let len = bytes.len().min(incoming.len());
        for (to, from) in bytes.iter_mut().zip(incoming.drain(..len)) {
            *to = from;
        }
        len
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut outside = self.0.borrow_mut();
        let len = bytes.len().min(outside.console_room);
        outside.from_console.extend(&bytes[..len]);
        len
    }

    fn now(&mut self) -> Instant {
        Instant::from_micros(self.0.borrow().micros)
    }

    fn sleep(&mut self, until: Instant) {
        let mut outside = self.0.borrow_mut();
        outside.micros = outside.micros.max(until.micros());
    }

    fn end(&mut self, how: End) -> ! {
        self.0.borrow_mut().ended = Some(how);
        panic!("the board has ended: {how:?}");
    }

    fn stack(&mut self) -> u32 {
        let mut outside = self.0.borrow_mut();
        outside.stack_looks += 1;
        1_000 + outside.stack_looks
    }

    fn instructions(&mut self) -> u64 {
        let mut outside = self.0.borrow_mut();
        outside.instructions += 100;
        outside.instructions
    }
}

/// An appliance on a simulated board.
pub(crate) struct Bench {
    pub outside: Rc<RefCell<Outside>>,
    pub appliance: Appliance<'static, Simulated>,
    last_id: u32,
}

impl Bench {
    /// An appliance with NICs of these MAC addresses.
    pub(crate) fn new(macs: &[MacAddr]) -> Self {
        Self::with_buffers(macs, BUFFERS)
    }

    /// The same with so many buffers.
    pub(crate) fn with_buffers(macs: &[MacAddr], count: usize) -> Self {
        let links = macs.iter().map(|mac| Link {
            mac: *mac,
            room: usize::MAX,
            ..Link::default()
        });
        let outside = Rc::new(RefCell::new(Outside {
            links: links.collect(),
            console_room: usize::MAX,
            ..Outside::default()
        }));
        // Everything lives as long as the test does.
        let free: &'static mut heapless::Vec<Buffer, BUFFERS> = Box::leak(Box::default());
        for _ in 0..count {
            let buffer = vec![0; BUFFER_LEN].into_boxed_slice();
            assert!(free.push(Box::leak(buffer)).is_ok());
        }
        let memory = zeroed();
        let board = Simulated(Rc::clone(&outside));
        Bench {
            outside,
            appliance: Appliance::new(board, memory.gateway(), Pool::new(free)),
            last_id: 0,
        }
    }

    /// Lets frames come in by a NIC.
    pub(crate) fn receive(&self, nic: usize, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.outside.borrow_mut().links[nic].incoming.extend(frames);
    }

    /// What a NIC has sent since it was last asked.
    pub(crate) fn sent(&self, nic: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outside.borrow_mut().links[nic].sent)
    }

    /// Turns until there is nothing to do.
    pub(crate) fn settle(&mut self) {
        while self.appliance.turn() {}
    }

    /// Asks by the console, and turns until there is an answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        self.last_id += 1;
        let mut message = vec![0; MAX_MESSAGE];
        let mut frame = vec![0; MAX_FRAME];
        let len = encode_request(self.last_id, request, &mut message).unwrap();
        let len = encode_frame(&mut message, len, &mut frame).unwrap();
        self.outside.borrow_mut().to_console.extend(&frame[..len]);
        for _ in 0..100 {
            self.appliance.turn();
            if let Some(response) = self.answer() {
                return response;
            }
        }
        panic!("no answer to {request:?}");
    }

    /// The answer to what was asked last, if it is there.
    fn answer(&mut self) -> Option<Response> {
        let bytes = std::mem::take(&mut self.outside.borrow_mut().from_console);
        let mut found = None;
        FrameDecoder::new().feed(&bytes, |event| {
            let FrameEvent::Message(message) = event else {
                panic!("{event:?}");
            };
            let (id, response) = decode_response(message).unwrap();
            found = (id == self.last_id).then_some(response);
        });
        found
    }

    /// Asks the appliance about itself.
    pub(crate) fn ask_board(&mut self, request: culvert_core::channel::Board) -> BoardAnswer {
        match self.ask(&Request::Board(request)) {
            Response::Board(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Says Hello and applies operations.
    pub(crate) fn program(&mut self, operations: &[Operation]) {
        let hello = Hello {
            version: PROTOCOL,
            epoch: 1,
            schema: SCHEMA,
        };
        let welcome = self.ask(&Request::Hello(hello));
        assert!(matches!(welcome, Response::Hello(_)));
        let apply = Apply {
            transaction: 1,
            owner: Owner::Cluster,
            operations: heapless::Vec::from_slice(operations).unwrap(),
        };
        let applied = self.ask(&Request::Apply(apply));
        assert_eq!(applied, Response::Applied { transaction: 1 });
    }

    /// How it is.
    pub(crate) fn health(&mut self) -> Health {
        match self.ask_board(culvert_core::channel::Board::Health) {
            BoardAnswer::Health(health) => health,
            other => panic!("{other:?}"),
        }
    }
}

/// An empty storage that lives as long as the test does.
fn zeroed() -> &'static mut Memory {
    use zerocopy::FromZeros;
    Box::leak(Memory::new_box_zeroed().unwrap())
}
