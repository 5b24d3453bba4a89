//! The control channel as a peer sees it: what each message looks like on the
//! wire, and what the core answers to right and wrong ones.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

/// Frames a message, feeds it to the core and decodes the answer.
fn exchange(gateway: &mut Gateway<'_>, message: &[u8]) -> (u32, Response) {
    let mut answers = stream(gateway, &framed(message));
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; MAX_MESSAGE];
    buffer[..message.len()].copy_from_slice(message);
    let mut out = vec![0xa5; MAX_FRAME];
    let len = encode_frame(&mut buffer, message.len(), &mut out).unwrap();
    out.truncate(len);
    out
}

/// Feeds any bytes and decodes every answer, which must be whole and well-formed.
fn stream(gateway: &mut Gateway<'_>, bytes: &[u8]) -> Vec<(u32, Response)> {
    let mut decoder = FrameDecoder::new();
    let mut answers = Vec::new();
    decoder.feed(bytes, |event| {
        let mut out = vec![0xa5; MAX_FRAME];
        let len = serve(gateway, &event, &mut out);
        assert_eq!(out[len - 1], 0, "an answer ends in a delimiter");
        assert!(!out[..len - 1].contains(&0), "and has no other");
        let message = decode_frame(&mut out[..len - 1]).unwrap();
        answers.push(decode_response(message).unwrap());
    });
    answers
}

fn encoded(request: &Request) -> Vec<u8> {
    let mut out = vec![0; MAX_MESSAGE];
    let len = encode_request(77, request, &mut out).unwrap();
    out.truncate(len);
    out
}

fn hello(epoch: u64) -> Request {
    Request::Hello(Hello {
        version: PROTOCOL,
        epoch,
        schema: SCHEMA,
    })
}

fn apply(operations: &[Operation]) -> Request {
    Request::Apply(Apply {
        transaction: 5,
        owner: Owner::Cluster,
        operations: list(operations),
    })
}

fn every_kind_of_request() -> Vec<Request> {
    vec![
        hello(9),
        apply(&[
            Operation::RemovePort(PortId(3)),
            route("10.9.0.0/16", TO_PEER),
        ]),
        Request::Read(Read::Networks { after: None }),
        Request::Read(Read::Ports {
            after: Some(PortId(2)),
        }),
        Request::Read(Read::Peers { after: None }),
        Request::Read(Read::Routes {
            after: Some((NET, prefix("10.0.0.0/8"))),
        }),
        Request::Counters { from: 3 },
        Request::Sync(Sync::Begin {
            transaction: 5,
            owner: Owner::Cluster,
            additions: Capacities::default(),
        }),
        Request::Events { after: 0 },
        Request::Board(Board::Describe),
        Request::Ping,
    ]
}

#[test]
fn hello_agrees_on_version_and_epoch() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    for major in [0, 1, u16::MAX] {
        let request = Request::Hello(Hello {
            version: Version { major, minor: 0 },
            epoch: 4,
            schema: SCHEMA,
        });
        let expected = Response::Error(Error::Version { core: PROTOCOL });
        assert_eq!(ask(&mut gateway, &request), expected);
    }
    assert_eq!(
        ask(&mut gateway, &hello(0)),
        Response::Error(Error::EpochZero)
    );
    assert_eq!(gateway.epoch(), 0, "a refused Hello changes nothing");

    for (offered, previous) in [(11, 0), (12, 11), (11, 11)] {
        let Response::Hello(welcome) = ask(&mut gateway, &hello(offered)) else {
            panic!("no welcome")
        };
        assert_eq!((welcome.previous_epoch, welcome.epoch), (previous, 11));
        assert_eq!((welcome.version, welcome.schema), (PROTOCOL, SCHEMA));
        assert_eq!(welcome.capacities, gateway.capacities());
        assert_eq!(welcome.capacities.routes, 64);
        assert_eq!(welcome.used.routes, 0);
    }
    // Another minor version and schema are welcome.
    let newer = Request::Hello(Hello {
        version: Version {
            major: PROTOCOL.major,
            minor: u16::MAX,
        },
        epoch: 1,
        schema: !SCHEMA,
    });
    assert!(matches!(ask(&mut gateway, &newer), Response::Hello(_)));
    program(&mut gateway);
    let Response::Hello(welcome) = ask(&mut gateway, &hello(1)) else {
        panic!("no welcome")
    };
    let used = Capacities {
        networks: 1,
        ports: 4,
        peers: 2,
        routes: 15,
    };
    assert_eq!(welcome.used, used);
}

#[test]
fn nothing_but_hello_and_ping_before_the_epoch() {
    for request in every_kind_of_request() {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        let response = ask(&mut gateway, &request);
        match request {
            Request::Hello(_) => assert!(matches!(response, Response::Hello(_))),
            Request::Ping => assert_eq!(response, Response::Pong),
            Request::Apply(_)
            | Request::Read(_)
            | Request::Counters { .. }
            | Request::Sync(_)
            | Request::Events { .. } => {
                assert_eq!(response, Response::Error(Error::NoEpoch));
            }
            // Not for the core, and there is no shell that knows it.
            Request::Board(_) => assert_eq!(response, Response::Error(Error::Unsupported)),
        }
    }
}

#[test]
fn what_this_version_does_not_know_is_unsupported() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    ask(&mut gateway, &hello(1));
    let cases: [(&str, &[u8]); 10] = [
        ("request", &[77, 8]),
        ("part of a sync", &[77, 5, 3, 5]),
        ("request, with fields", &[77, 100, 1, 2, 3]),
        ("request, of two bytes", &[77, 0x80, 1]),
        ("owner", &[77, 1, 5, 9, 0]),
        ("operation", &[77, 1, 5, 1, 1, 99, 0]),
        ("second operation", &[77, 1, 5, 1, 2, 3, 0, 99]),
        ("table to read", &[77, 2, 4, 0]),
        ("next hop", &[77, 1, 5, 1, 1, 6, 0, 0, 10, 0, 0, 0, 8, 4]),
        ("host bits", &[77, 1, 5, 1, 1, 6, 0, 0, 10, 0, 0, 1, 8, 0]),
    ];
    for (name, message) in cases {
        let answer = exchange(&mut gateway, message);
        assert_eq!(answer, (77, Response::Error(Error::Unsupported)), "{name}");
    }
}

#[test]
fn too_many_operations_are_refused_by_name() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    ask(&mut gateway, &hello(1));
    for count in [25u8, 33, 100] {
        let mut message = vec![77, 1, 5, 1, count];
        for _ in 0..count {
            message.extend([3, 0]);
        }
        let expected = Response::Error(Error::TooManyOperations {
            count: count.into(),
            limit: 24,
        });
        assert_eq!(exchange(&mut gateway, &message), (77, expected));
    }
    let most = vec![Operation::RemovePort(PortId(0)); MAX_OPERATIONS];
    let response = ask(&mut gateway, &apply(&most));
    assert_eq!(response, Response::Applied { transaction: 5 });
    let many = vec![Operation::RemovePort(PortId(0)); MAX_OPERATIONS + 1];
    let limit = TableError::TooManyOperations { limit: 24 };
    let result = gateway.apply(Owner::Cluster, &many);
    assert_eq!(result, Err((MAX_OPERATIONS, limit)));
}

#[test]
fn too_short_and_too_long_messages_are_malformed() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    ask(&mut gateway, &hello(1));
    for request in every_kind_of_request() {
        let whole = encoded(&request);
        for len in 0..whole.len() {
            let (id, response) = exchange(&mut gateway, &whole[..len]);
            assert_eq!(response, Response::Error(Error::Malformed), "{request:?}");
            assert_eq!(id, if len == 0 { 0 } else { 77 });
        }
        let mut longer = whole;
        longer.push(0);
        let answer = exchange(&mut gateway, &longer);
        assert_eq!(answer, (77, Response::Error(Error::Malformed)));
    }
}

#[test]
fn damaged_and_oversize_frames_are_answered_with_id_zero() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    let good = framed(&encoded(&Request::Ping));
    for index in 0..good.len() - 1 {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            bad.push(0);
            for (id, response) in stream(&mut gateway, &bad) {
                assert_eq!((id, response), (0, Response::Error(Error::Damaged)));
            }
        }
    }
    let mut long = vec![1; MAX_FRAME + 1];
    long.push(0);
    long.extend(&good);
    let too_large = (0, Response::Error(Error::TooLarge));
    let answers = stream(&mut gateway, &long);
    assert_eq!(answers, [too_large.clone(), (77, Response::Pong)]);

    // A message of 4097 bytes, its CRC right, in a frame within the limit:
    // zeros take one byte each, and nothing is added for every 254.
    let mut message = vec![0; MAX_MESSAGE - 3];
    let crc = crc32(&message).to_le_bytes();
    message.extend(crc);
    let mut frame = Vec::new();
    for run in message.split(|byte| *byte == 0) {
        frame.push(u8::try_from(run.len() + 1).unwrap());
        frame.extend(run);
    }
    frame.push(0);
    assert!(frame.len() <= MAX_FRAME);
    assert_eq!(stream(&mut gateway, &frame), [too_large]);
}

/// CRC-32 (ISO HDLC) bit by bit, from its definition.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

#[test]
fn an_answer_that_does_not_fit_the_buffer_becomes_too_large() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    ask(&mut gateway, &hello(1));
    program(&mut gateway);
    let request = encoded(&Request::Read(Read::Ports { after: None }));
    for room in 0..400 {
        let mut out = vec![0xa5; room];
        let len = serve(&mut gateway, &FrameEvent::Message(&request), &mut out);
        if len == 0 {
            assert!(room < 12, "{room} bytes hold an error");
            continue;
        }
        let message = decode_frame(&mut out[..len - 1]).unwrap();
        let (id, response) = decode_response(message).unwrap();
        let whole = matches!(response, Response::Page(Page::Ports(_)));
        assert!(whole || response == Response::Error(Error::TooLarge));
        assert_eq!(id, 77);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Every message is answered, whatever is in it.
    #[test]
    fn any_message_is_answered(message in prop::collection::vec(any::<u8>(), 0..300), greeted: bool) {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        if greeted {
            ask(&mut gateway, &hello(1));
        }
        exchange(&mut gateway, &message);
    }

    /// A valid request with some bytes changed, cut or added is answered, and
    /// the core goes on: a frame is still forwarded or dropped, never lost.
    #[test]
    fn mutated_requests_are_answered(
        which in 0usize..8,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        ask(&mut gateway, &hello(1));
        program(&mut gateway);
        let mut message = encoded(&every_kind_of_request()[which]);
        for (at, value, edit) in edits {
            let at = at.index(message.len().max(1));
            match edit {
                0 if at < message.len() => message[at] = value,
                1 if at < message.len() => { message.remove(at); }
                _ => message.insert(at.min(message.len()), value),
            }
        }
        exchange(&mut gateway, &message);
        run(&mut gateway, POD_A, udp(MAC_A, A, B, b"x"));
        prop_assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
    }

    /// Any stream of bytes, in any pieces, with zeros often: each frame in it
    /// has one answer.
    #[test]
    fn any_stream_is_answered(
        bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..600)
    ) {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        let frames = bytes.split(|byte| *byte == 0);
        let whole = frames.clone().count() - 1;
        let expected = frames.take(whole).filter(|frame| !frame.is_empty()).count();
        prop_assert_eq!(stream(&mut gateway, &bytes).len(), expected);
    }
}

#[test]
fn the_shell_answers_what_is_for_it_with_the_requests_id() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    let mut ask = |request: &Request, knows: bool| {
        let mut message = vec![0; MAX_MESSAGE];
        let len = encode_request(77, request, &mut message).unwrap();
        let event = FrameEvent::Message(&message[..len]);
        let mut out = vec![0; MAX_FRAME];
        let len = serve_with(&mut gateway, &event, &mut out, |_, board| {
            assert_eq!(*request, Request::Board(board.clone()));
            knows.then_some(BoardAnswer::Done)
        });
        let message = decode_frame(&mut out[..len - 1]).unwrap();
        decode_response(message).unwrap()
    };
    let key = Board::SetKey { key: None };
    let request = Request::Board(key);
    assert_eq!(
        ask(&request, true),
        (77, Response::Board(BoardAnswer::Done))
    );
    let unknown = Response::Error(Error::Unsupported);
    assert_eq!(ask(&request, false), (77, unknown));
    // What is for the core does not come to the shell.
    assert_eq!(ask(&Request::Ping, true), (77, Response::Pong));
}

#[test]
fn a_mac_address_tells_its_nics_role() {
    let roles = [
        Role::Port(PortId(0)),
        Role::Port(PortId(4095)),
        Role::Trunk { base: 300 },
        Role::Management,
    ];
    for role in roles {
        assert_eq!(Role::of(role.mac()), role, "{}", role.mac());
        assert!(!role.mac().is_group());
    }
    let others = [
        [0x02, 0x63, 0x76, 9, 0, 0],
        [0x52, 0x54, 0, 1, 0, 1],
        [0; 6],
    ];
    for other in others {
        assert_eq!(Role::of(MacAddr::new(other)), Role::Unused);
    }
}
