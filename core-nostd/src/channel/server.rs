//! The core's end of the channel.

use super::{
    Apply, Board, BoardAnswer, Error, Hello, MAX_MESSAGE, PAGE, PROTOCOL, Page, Read, Refusal,
    Request, Response, SCHEMA, Sync, Welcome, codec, frame,
};
use crate::gateway::Gateway;
use crate::tables::read::first;
use crate::{Counter, NetworkId};

/// Carries out what a [`super::FrameDecoder`] found and writes the framed
/// answer into `out`; returns its length. `out` should have
/// [`super::MAX_FRAME`] bytes; with less, large answers become `TooLarge`.
///
/// Any bytes are answered, garbage with an [`Error`]; nothing panics.
pub fn serve(gateway: &mut Gateway<'_>, event: &frame::FrameEvent<'_>, out: &mut [u8]) -> usize {
    serve_with(gateway, event, out, |_, _| None)
}

/// As [`serve`], for a shell that answers what is not for the core itself: `board` is
/// asked about a [`Board`], and `None` says that the shell does not know it.
pub fn serve_with(
    gateway: &mut Gateway<'_>,
    event: &frame::FrameEvent<'_>,
    out: &mut [u8],
    board: impl FnOnce(&mut Gateway<'_>, &Board) -> Option<BoardAnswer>,
) -> usize {
    let (id, response) = match event {
        frame::FrameEvent::Damaged => (0, Response::Error(Error::Damaged)),
        frame::FrameEvent::TooLarge => (0, Response::Error(Error::TooLarge)),
        frame::FrameEvent::Message(message) => match codec::decode_request(message) {
            Ok((id, Request::Board(request))) => {
                let answer = board(gateway, &request).map(Response::Board);
                (id, answer.unwrap_or(Response::Error(Error::Unsupported)))
            }
            Ok((id, request)) => (id, answer(gateway, &request)),
            Err(e) => (e.id, Response::Error(e.error)),
        },
    };
    let mut message = [0; MAX_MESSAGE];
    let mut write = |response: &Response| {
        let len = codec::encode_response(id, response, &mut message)?;
        frame::encode_frame(&mut message, len, out)
    };
    write(&response)
        .or_else(|| write(&Response::Error(Error::TooLarge)))
        .unwrap_or(0)
}

fn answer(gateway: &mut Gateway<'_>, request: &Request) -> Response {
    if gateway.epoch() == 0 && !matches!(request, Request::Hello(_) | Request::Ping) {
        return Response::Error(Error::NoEpoch);
    }
    match request {
        Request::Hello(hello) => welcome(gateway, *hello),
        Request::Apply(apply) => applied(gateway, apply),
        Request::Read(read) => Response::Page(page(gateway, *read)),
        Request::Counters { from } => counters(gateway, *from),
        Request::Ping => Response::Pong,
        Request::Sync(sync) => synced(gateway, sync),
        Request::Events { after } => {
            let (events, lost) = gateway.state.events.after(*after);
            Response::Events { events, lost }
        }
        Request::Board(_) => Response::Error(Error::Unsupported),
    }
}

fn welcome(gateway: &mut Gateway<'_>, hello: Hello) -> Response {
    if hello.version.major != PROTOCOL.major {
        return Response::Error(Error::Version { core: PROTOCOL });
    }
    if hello.epoch == 0 {
        return Response::Error(Error::EpochZero);
    }
    gateway.abort_sync(); // A new conversation: the old one's sync is broken.
    let previous_epoch = gateway.epoch();
    if previous_epoch == 0 {
        gateway.set_epoch(hello.epoch);
    }
    Response::Hello(Welcome {
        version: PROTOCOL,
        previous_epoch,
        epoch: gateway.epoch(),
        schema: SCHEMA,
        capacities: gateway.tables.capacities(),
        used: gateway.tables.used(),
    })
}

fn applied(gateway: &mut Gateway<'_>, apply: &Apply) -> Response {
    let transaction = apply.transaction;
    match gateway.apply(apply.owner, &apply.operations) {
        Ok(()) => Response::Applied { transaction },
        Err((operation, error)) => Response::Refused(Refusal {
            transaction,
            operation: u8::try_from(operation).unwrap_or(u8::MAX),
            error,
        }),
    }
}

fn synced(gateway: &mut Gateway<'_>, sync: &Sync) -> Response {
    let (Sync::Begin { transaction, .. } | Sync::End { transaction } | Sync::Abort { transaction }) =
        *sync;
    match gateway.sync(sync) {
        Ok(synced) => Response::Synced(synced),
        Err(error) => Response::Refused(Refusal {
            transaction,
            operation: 0,
            error,
        }),
    }
}

fn page(gateway: &Gateway<'_>, read: Read) -> Page {
    let tables = &gateway.tables;
    match read {
        Read::Networks { after } => Page::Networks(first(tables.networks_after(after))),
        Read::Ports { after } => Page::Ports(first(tables.ports_after(after))),
        Read::Peers { after } => Page::Peers(first(tables.peers_after(after))),
        Read::Routes { after } => {
            let mut page = heapless::Vec::new();
            let mut cursor = after;
            while let Some(route) = tables.route_after(cursor) {
                cursor = Some((route.entry.network, route.entry.prefix));
                if page.push(route).is_err() {
                    break;
                }
                if page.is_full() {
                    break;
                }
            }
            Page::Routes(page)
        }
    }
}

fn counters(gateway: &Gateway<'_>, from: u16) -> Response {
    let mut values = heapless::Vec::<_, PAGE>::new();
    let mut next = None;
    for counter in Counter::all().filter(|counter| counter.number() >= from) {
        let pair = (counter.number(), gateway.counter(counter));
        if values.push(pair).is_err() {
            next = Some(counter.number());
            break;
        }
    }
    Response::Counters { values, next }
}

// Cursors of reads are ids; they must not be able to wrap.
const _: () = assert!(size_of::<NetworkId>() == 2);
