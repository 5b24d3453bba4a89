//! Playing a case: what a shell does, by the clock of the capture.

use std::fmt::Write;

use culvert_core::channel::*;
use culvert_core::{Counter, Instant, PortId, heapless};

use super::{Capture, Captured, Case, Port};

/// How often a shell calls the gateway without a frame, in milliseconds.
pub const TICK_MS: u64 = 100;

/// Frames by a port each, in the order in which they are sent.
pub type Sent = Vec<(PortId, Vec<u8>)>;

/// A gateway, wherever it runs.
pub trait Node {
    /// Sends a request through the control channel and returns the answer.
    fn ask(&mut self, request: &Request) -> Response;
    /// Hands in a frame, and returns what is sent because of it: itself, if it goes
    /// on or is turned round, then what the gateway made.
    fn frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) -> Sent;
    /// Lets time pass, and returns what is sent because of it.
    fn tick(&mut self, now: Instant) -> Sent;
}

/// What came of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The frames that were sent.
    pub output: Capture,
    /// Counters and what went through each port.
    pub counters: String,
}

/// Plays a case on a gateway that has just booted.
///
/// Time is the capture's. At each multiple of [`TICK_MS`] from 0 to the end there is
/// a tick; what is due at the same time as one comes after it, changes of tables
/// before frames. Every frame is a batch of its own, without any offload.
///
/// # Errors
/// Which request the gateway refused.
pub fn play(case: &Case, node: &mut impl Node) -> Result<Outcome, String> {
    hello(node)?;
    let tables = &case.tables;
    let mut changes = tables.apply.iter().zip(1..).peekable();
    let mut inputs = case.input.frames.iter().peekable();
    let mut frames = Vec::new();
    for start in (0..=tables.until_ms * 1000).step_by(1000 * usize::try_from(TICK_MS).unwrap()) {
        let end = (start + TICK_MS * 1000).min(tables.until_ms * 1000 + 1);
        let mut keep = |micros, sent: Sent| {
            let captured = sent.into_iter().map(|(port, bytes)| Captured {
                micros,
                port,
                bytes,
            });
            frames.extend(captured);
        };
        keep(start, node.tick(Instant::from_micros(start)));
        loop {
            let change = changes.peek().map(|(change, _)| change.at_ms * 1000);
            let input = inputs.peek().map(|frame| frame.micros);
            if change.is_some_and(|at| at < end && input.is_none_or(|input| at <= input)) {
                let (change, number) = changes.next().unwrap();
                apply(node, change, number)?;
            } else if input.is_some_and(|at| at < end) {
                let input = inputs.next().unwrap();
                let now = Instant::from_micros(input.micros);
                keep(input.micros, node.frame(now, input.port, &input.bytes));
            } else {
                break;
            }
        }
    }
    if let Some((change, _)) = changes.next() {
        return Err(format!(
            "a change at {} ms is behind `until-ms`",
            change.at_ms
        ));
    }
    let output = Capture {
        ports: tables.ports(),
        frames,
    };
    let counters = counters(node, &output.ports)?;
    Ok(Outcome { output, counters })
}

fn hello(node: &mut impl Node) -> Result<(), String> {
    let hello = Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    };
    match node.ask(&Request::Hello(hello)) {
        Response::Hello(welcome) if welcome.previous_epoch == 0 => Ok(()),
        other => Err(format!("to its first hello the gateway said {other:?}")),
    }
}

fn apply(
    node: &mut impl Node,
    change: &super::Transaction,
    transaction: u64,
) -> Result<(), String> {
    let mut operations = heapless::Vec::new();
    for operation in change.operations() {
        let pushed = operations.push(operation.clone());
        pushed.map_err(|_| format!("a transaction has {MAX_OPERATIONS} operations at most"))?;
    }
    let apply = Apply {
        transaction,
        owner: change.owner,
        operations,
    };
    match node.ask(&Request::Apply(apply)) {
        Response::Applied { transaction: done } if done == transaction => Ok(()),
        other => Err(format!("transaction {transaction}: {other:?}")),
    }
}

/// All counters that are not 0 in the order of their numbers, and a line for each
/// port, as the channel tells them.
fn counters(node: &mut impl Node, ports: &[Port]) -> Result<String, String> {
    let mut text = String::new();
    let mut from = Some(0);
    while let Some(number) = from {
        let Response::Counters { values, next } = node.ask(&Request::Counters { from: number })
        else {
            return Err("the gateway does not tell its counters".into());
        };
        for (number, value) in values.iter().filter(|(_, value)| *value != 0) {
            let counter = Counter::from_number(*number);
            let counter = counter.ok_or_else(|| format!("counter {number} is unknown"))?;
            let drop = if let Counter::Drop(_) = counter {
                "drop-"
            } else {
                ""
            };
            writeln!(text, "{drop}{} {value}", counter.name()).unwrap();
        }
        from = next;
    }
    let mut after = None;
    loop {
        let Response::Page(Page::Ports(page)) = node.ask(&Request::Read(Read::Ports { after }))
        else {
            return Err("the gateway does not tell its ports".into());
        };
        let Some((last, _)) = page.last() else {
            return Ok(text);
        };
        after = Some(last.entry.id);
        for (port, stats) in &page {
            let named = ports.iter().find(|named| named.id == port.entry.id);
            let name = named.map_or("?", |named| &named.name);
            let PortStats {
                rx_frames,
                rx_bytes,
                tx_frames,
                tx_bytes,
                dropped,
            } = stats;
            writeln!(
                text,
                "port {name}: rx {rx_frames} frames {rx_bytes} bytes, \
                 tx {tx_frames} frames {tx_bytes} bytes, dropped {dropped}"
            )
            .unwrap();
        }
    }
}
