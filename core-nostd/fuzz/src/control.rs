//! Any bytes on the control channel, cut anywhere: garbage, frames of any bytes
//! whose CRC is right, requests whole and damaged. Each frame has one answer, what is
//! refused changes nothing, and a right request is understood whatever came before.

use culvert_core::channel::*;
use culvert_core::*;

use crate::Reader;
use crate::common::{self, list};
use crate::tables::dump::{dump, hello};
use crate::tables::{self, Small};

/// Pieces of one stream at most.
const PIECES: usize = 24;

/// Serves one stream.
pub fn run(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut storage = Small::new();
    let mut gateway = storage.gateway();
    if reader.flag() {
        hello(&mut gateway);
    }
    if reader.flag() {
        gateway
            .apply(Owner::Cluster, &tables::groundwork())
            .expect("the tables are empty");
    }
    // Answers to large requests may want more room than there is.
    let room = match reader.rarely(4) {
        false => MAX_FRAME,
        true => usize::from(reader.u16()) % MAX_FRAME,
    };
    let mut stream = Vec::new();
    for _ in 0..PIECES {
        if reader.is_empty() {
            break;
        }
        piece(&mut reader, &mut stream);
    }
    let step = 1 + usize::from(reader.u8());
    let events = decode(&stream, step);
    assert_eq!(events, decode(&stream, usize::MAX), "however it is cut");
    let frames = stream.split(|byte| *byte == 0);
    let whole = frames.clone().count() - 1;
    let frames = frames.take(whole).filter(|frame| !frame.is_empty());
    assert_eq!(events.len(), frames.count());
    for event in &events {
        answer(&mut gateway, &event.borrowed(), room);
    }
    understood(&mut gateway, stream);
}

/// A [`FrameEvent`] that can be kept.
#[derive(PartialEq, Debug)]
enum Found {
    Message(Vec<u8>),
    Damaged,
    TooLarge,
}

impl Found {
    fn borrowed(&self) -> FrameEvent<'_> {
        match self {
            Found::Message(message) => FrameEvent::Message(message),
            Found::Damaged => FrameEvent::Damaged,
            Found::TooLarge => FrameEvent::TooLarge,
        }
    }
}

fn decode(stream: &[u8], step: usize) -> Vec<Found> {
    let mut decoder = FrameDecoder::new();
    let mut all = Vec::new();
    for chunk in stream.chunks(step) {
        decoder.feed(chunk, |event| {
            all.push(match event {
                FrameEvent::Message(message) => Found::Message(message.to_vec()),
                FrameEvent::Damaged => Found::Damaged,
                FrameEvent::TooLarge => Found::TooLarge,
            });
        });
    }
    all
}

/// Appends something to a stream.
fn piece(reader: &mut Reader<'_>, stream: &mut Vec<u8>) {
    match reader.below(12) {
        0 => {
            let len = reader.u8().into();
            stream.extend(reader.take(len));
        }
        1 => stream.push(0),
        2 => {
            let (len, byte) = (reader.u16() % 5000, reader.u8());
            stream.extend(vec![byte; len.into()]);
        }
        3..6 => {
            let len = reader.u8().into();
            let message = reader.take(len);
            let frame = framed(message);
            stream.extend(frame);
        }
        _ => {
            let request = request(reader);
            let mut message = encoded(reader.u8().into(), &request);
            let kind = reader.below(8);
            if kind < 3 {
                edit(reader, &mut message);
            }
            let mut frame = framed(&message);
            if kind == 7 {
                edit(reader, &mut frame);
            }
            stream.extend(frame);
        }
    }
}

/// Changes, removes or adds a few bytes.
fn edit(reader: &mut Reader<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..=reader.below(3) {
        let at = usize::from(reader.u16()) % (bytes.len() + 1);
        match reader.below(3) {
            0 if at < bytes.len() => bytes[at] = reader.u8(),
            1 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, reader.u8()),
        }
    }
    bytes.truncate(MAX_MESSAGE - 4);
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut buffer = message.to_vec();
    buffer.resize(message.len() + 4, 0);
    let mut out = vec![0xa5; MAX_FRAME];
    let len = encode_frame(&mut buffer, message.len(), &mut out);
    out.truncate(len.expect("it is short enough"));
    out
}

fn encoded(id: u32, request: &Request) -> Vec<u8> {
    let mut out = vec![0; MAX_MESSAGE];
    let len = encode_request(id, request, &mut out);
    out.truncate(len.expect("so many operations fit"));
    out
}

fn request(reader: &mut Reader<'_>) -> Request {
    match reader.below(13) {
        0 => Request::Hello(Hello {
            version: Version {
                major: PROTOCOL.major - u16::from(reader.rarely(4)),
                minor: reader.u8().into(),
            },
            epoch: reader.u8().into(),
            schema: SCHEMA,
        }),
        1..5 => {
            let owner = tables::owner(reader);
            let operations: Vec<_> = (0..reader.below(8))
                .map(|_| tables::operation(reader))
                .collect();
            Request::Apply(Apply {
                transaction: reader.u8().into(),
                owner,
                operations: list(&operations),
            })
        }
        5 | 6 => Request::Read(read(reader)),
        7 => Request::Counters {
            from: reader.u16() % 200,
        },
        8 => Request::Ping,
        9 | 10 => Request::Sync(sync(reader)),
        11 => Request::Events {
            after: reader.u8().into(),
        },
        _ => Request::Board(Board::Nics { from: reader.u8() }),
    }
}

fn read(reader: &mut Reader<'_>) -> Read {
    let from = reader.flag();
    let id = reader.u16();
    match reader.below(4) {
        0 => Read::Networks {
            after: from.then_some(NetworkId(id)),
        },
        1 => Read::Ports {
            after: from.then_some(PortId(id)),
        },
        2 => Read::Peers {
            after: from.then_some(PeerId(id)),
        },
        _ => {
            let key = (tables::network_id(reader), tables::any_prefix(reader));
            Read::Routes {
                after: from.then_some(key),
            }
        }
    }
}

fn sync(reader: &mut Reader<'_>) -> Sync {
    let transaction = reader.below(3).try_into().expect("small");
    match reader.below(4) {
        0 | 1 => Sync::Begin {
            transaction,
            owner: tables::owner(reader),
            additions: Capacities {
                networks: reader.u8().into(),
                ports: u32::from(reader.u8()) % 8,
                peers: u32::from(reader.u8()) % 8,
                routes: match reader.rarely(8) {
                    false => u32::from(reader.u8()) % 50,
                    true => reader.u32(),
                },
            },
        },
        2 => Sync::End { transaction },
        _ => Sync::Abort { transaction },
    }
}

/// Serves what was found and checks the answer.
fn answer(gateway: &mut Gateway<'_>, event: &FrameEvent<'_>, room: usize) {
    let greeted = gateway.epoch() != 0;
    let before = greeted.then(|| dump(gateway));
    let mut out = vec![0xa5; room];
    let len = serve(gateway, event, &mut out);
    if len == 0 {
        assert!(room < 12, "{room} bytes hold an error");
        return;
    }
    assert_eq!(out[len - 1], 0, "an answer ends in a delimiter");
    assert!(!out[..len - 1].contains(&0), "and has no other");
    let message = decode_frame(&mut out[..len - 1]).expect("an answer is framed");
    let (id, response) = decode_response(message).expect("an answer can be read");
    let asked = match event {
        FrameEvent::Message(message) => decode_request(message),
        FrameEvent::Damaged => Err(DecodeError {
            id: 0,
            error: Error::Damaged,
        }),
        FrameEvent::TooLarge => Err(DecodeError {
            id: 0,
            error: Error::TooLarge,
        }),
    };
    let cut_short = response == Response::Error(Error::TooLarge);
    let may_change = match &asked {
        Err(e) => {
            assert!(id == e.id && (cut_short || response == Response::Error(e.error)));
            false
        }
        Ok((asked_id, request)) => {
            assert_eq!(id, *asked_id);
            assert_eq!(
                decode_request(&encoded(id, request)),
                Ok((id, request.clone()))
            );
            fits(request, &response, greeted) && changes(request)
        }
    };
    if let Some(before) = before {
        let refused = matches!(response, Response::Refused(_));
        if refused || !may_change {
            assert_eq!(dump(gateway), before, "{response:?} changed something");
        }
    }
}

fn changes(request: &Request) -> bool {
    matches!(request, Request::Apply(_) | Request::Sync(_))
}

/// Whether the request was tried; its answer must be one of those that it can have.
fn fits(request: &Request, response: &Response, greeted: bool) -> bool {
    match (request, response) {
        // Something was done, and its answer had no room.
        (_, Response::Error(Error::TooLarge)) => true,
        (Request::Ping, Response::Pong) => true,
        (Request::Hello(_), Response::Hello(_)) => true,
        (Request::Hello(hello), Response::Error(Error::Version { .. })) => {
            assert_ne!(hello.version.major, PROTOCOL.major);
            false
        }
        (Request::Hello(hello), Response::Error(Error::EpochZero)) => {
            assert_eq!(hello.epoch, 0);
            false
        }
        (_, Response::Error(Error::NoEpoch)) => {
            assert!(!greeted && !matches!(request, Request::Ping | Request::Hello(_)));
            false
        }
        (Request::Apply(apply), Response::Applied { transaction }) => {
            assert_eq!(apply.transaction, *transaction);
            true
        }
        (Request::Apply(apply), Response::Refused(refusal)) => {
            assert_eq!(apply.transaction, refusal.transaction);
            assert!(usize::from(refusal.operation) < apply.operations.len());
            true
        }
        (Request::Sync(_), Response::Synced(_) | Response::Refused(_)) => true,
        (Request::Read(Read::Networks { .. }), Response::Page(Page::Networks(_))) => true,
        (Request::Read(Read::Ports { .. }), Response::Page(Page::Ports(_))) => true,
        (Request::Read(Read::Peers { .. }), Response::Page(Page::Peers(_))) => true,
        (Request::Read(Read::Routes { .. }), Response::Page(Page::Routes(_))) => true,
        (Request::Counters { .. }, Response::Counters { .. }) => true,
        (Request::Events { .. }, Response::Events { .. }) => true,
        // There is no shell that knows it.
        (Request::Board(_), Response::Error(Error::Unsupported)) => false,
        other => panic!("{other:?}"),
    }
}

/// A right request is understood behind this stream, and a frame is still forwarded
/// or dropped.
fn understood(gateway: &mut Gateway<'_>, mut stream: Vec<u8>) {
    stream.push(0);
    stream.extend(framed(&encoded(77, &Request::Ping)));
    let last = decode(&stream, 64).pop();
    let Some(Found::Message(message)) = last else {
        panic!("{last:?}")
    };
    assert_eq!(decode_request(&message), Ok((77, Request::Ping)));
    assert_eq!(common::ask(gateway, &Request::Ping), Response::Pong);
    let frame = common::udp(common::MAC_A, common::A, common::B, b"x");
    common::run(gateway, common::HOST, frame);
    assert_eq!(
        gateway.counter(Counter::Rx),
        common::sum_of_fates(gateway),
        "no frame is lost"
    );
}
