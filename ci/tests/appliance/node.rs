//! A booted appliance as the node that golden captures are played on.

use std::thread;

use culvert_core::channel::{
    Board, BoardAnswer, NextHop, Operation, Page, Read, Request, Response, Role,
};
use culvert_core::{Instant, MacAddr, PortId};
use culvert_lab::appliance::Outside;

use crate::replay::{Case, Node, Sent};

/// Ticks in which the core looks after all neighbors. The appliance has room for more of
/// them than one tick looks after, unlike the core of the cases; what a tick finds
/// done already is not done again.
const TICKS: usize = 2;

/// How a case's ports are NICs of the appliance.
pub(crate) trait Wiring {
    /// The NICs for a case.
    fn macs(&self, case: &Case) -> Vec<MacAddr>;
    /// A request as the appliance is to get it.
    fn request(&self, request: &Request) -> Request;
    /// An answer as the case's tables would have it.
    fn response(&self, response: Response) -> Response;
    /// The wire and the frame there, for a frame of a port.
    fn on_wire(&self, case: &Case, port: PortId, frame: &[u8]) -> (usize, Vec<u8>);
    /// The port and its frame, for a frame on a wire.
    fn off_wire(&self, case: &Case, wire: usize, frame: Vec<u8>) -> (PortId, Vec<u8>);
}

/// A NIC for each port. The order between ports is lost.
pub(crate) struct Separate;

/// All ports are tags of one NIC, so that their order is kept.
///
/// Port 0 can be no tag: all are one higher in the appliance than in the case.
pub(crate) struct Trunk;

impl Wiring for Separate {
    fn macs(&self, case: &Case) -> Vec<MacAddr> {
        let ports = case.tables.ports().into_iter();
        ports.map(|port| Role::Port(port.id).mac()).collect()
    }

    fn request(&self, request: &Request) -> Request {
        request.clone()
    }

    fn response(&self, response: Response) -> Response {
        response
    }

    fn on_wire(&self, case: &Case, port: PortId, frame: &[u8]) -> (usize, Vec<u8>) {
        let ports = case.tables.ports();
        let wire = ports.iter().position(|known| known.id == port).unwrap();
        (wire, frame.to_vec())
    }

    fn off_wire(&self, case: &Case, wire: usize, frame: Vec<u8>) -> (PortId, Vec<u8>) {
        (case.tables.ports()[wire].id, frame)
    }
}

impl Wiring for Trunk {
    fn macs(&self, _: &Case) -> Vec<MacAddr> {
        vec![Role::Trunk { base: 0 }.mac()]
    }

    fn request(&self, request: &Request) -> Request {
        let mut request = request.clone();
        match &mut request {
            Request::Apply(apply) => apply.operations.iter_mut().for_each(renumber),
            Request::Read(Read::Ports { after: Some(port) }) => up(port),
            _ => {}
        }
        request
    }

    fn response(&self, mut response: Response) -> Response {
        if let Response::Page(Page::Ports(page)) = &mut response {
            for (port, _) in page {
                port.entry.id.0 -= 1;
            }
        }
        response
    }

    fn on_wire(&self, _: &Case, mut port: PortId, frame: &[u8]) -> (usize, Vec<u8>) {
        up(&mut port);
        (0, tagged(port.0, frame))
    }

    fn off_wire(&self, _: &Case, _: usize, frame: Vec<u8>) -> (PortId, Vec<u8>) {
        let (vid, frame) = untagged(&frame);
        (PortId(vid - 1), frame)
    }
}

fn up(port: &mut PortId) {
    port.0 += 1;
}

/// All ports that an operation names.
fn renumber(operation: &mut Operation) {
    match operation {
        Operation::UpsertNetwork(network) => up(&mut network.underlay),
        Operation::UpsertPort(port) => up(&mut port.id),
        Operation::RemovePort(port) => up(port),
        Operation::UpsertRoute(route) => {
            if let NextHop::Endpoint(port) = &mut route.next_hop {
                up(port);
            }
        }
        Operation::RemoveNetwork(_)
        | Operation::UpsertPeer(_)
        | Operation::RemovePeer(_)
        | Operation::RemoveRoute { .. }
        | Operation::SetPathMtu { .. } => {}
    }
}

/// A frame with an 802.1Q tag.
pub(crate) fn tagged(vid: u16, frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let [high, low] = vid.to_be_bytes();
    [addresses, &[0x81, 0, high, low], rest].concat()
}

/// The identifier in a frame's tag, and the frame without.
pub(crate) fn untagged(frame: &[u8]) -> (u16, Vec<u8>) {
    let (addresses, rest) = frame.split_at(12);
    let [0x81, 0, high, low, rest @ ..] = rest else {
        panic!("no tag: {frame:x?}");
    };
    (
        u16::from_be_bytes([*high, *low]),
        [addresses, rest].concat(),
    )
}

/// An appliance that a case is played on. Anything unexpected panics.
pub(crate) struct Played<'a, W> {
    pub(crate) outside: &'a mut Outside,
    pub(crate) wiring: W,
    pub(crate) case: &'a Case,
}

impl<W: Wiring> Played<'_, W> {
    fn hold(&mut self, now: Instant, tick: bool) {
        let micros = now.micros();
        let held = self.outside.ask_board(Board::HoldClock { micros, tick });
        assert_eq!(self.well(held), BoardAnswer::Done);
    }

    /// A result that must be there.
    fn well<T>(&self, result: anyhow::Result<T>) -> T {
        result.unwrap_or_else(|error| panic!("{}: {error:#}", self.case.name))
    }

    fn out(&self, frames: Vec<(usize, Vec<u8>)>) -> Sent {
        let frames = frames.into_iter();
        let out = frames.map(|(wire, frame)| self.wiring.off_wire(self.case, wire, frame));
        out.collect()
    }
}

impl<W: Wiring> Node for Played<'_, W> {
    fn ask(&mut self, request: &Request) -> Response {
        if let Request::Hello(hello) = request {
            let welcome = self.outside.hello(hello.epoch);
            return Response::Hello(self.well(welcome));
        }
        let response = self.outside.ask(&self.wiring.request(request));
        self.wiring.response(self.well(response))
    }

    fn frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) -> Sent {
        self.hold(now, false);
        let (wire, frame) = self.wiring.on_wire(self.case, port, bytes);
        let sent = self.outside.exchange(wire, &frame);
        self.out(self.well(sent))
    }

    fn tick(&mut self, now: Instant) -> Sent {
        for _ in 0..TICKS {
            self.hold(now, true);
        }
        let sent = self.outside.sent();
        self.out(self.well(sent))
    }
}

impl<W> Drop for Played<'_, W> {
    fn drop(&mut self) {
        for wire in self.outside.wires() {
            if let Ok(Some(frame)) = wire.receive(std::time::Duration::ZERO)
                && !thread::panicking()
            {
                panic!("{}: a frame too many: {frame:x?}", self.case.name);
            }
        }
    }
}
