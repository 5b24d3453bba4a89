//! The channel by TCP: the host's end against an appliance on a board that is not there.
//! Between the kernel's TCP and the appliance's stands a bridge, which carries bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_core::channel::{
    Board as Ask, BoardAnswer, FrameDecoder, FrameEvent, Management, PresharedKey, Request,
    Response, WireAddress, decode_response,
};
use culvert_host::appliance::key::Key;
use culvert_host::appliance::noise::{NoiseError, connect};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use station::Station;
use world::{World, framed};

#[expect(dead_code, reason = "the firmware's tests use all of it")]
#[path = "../../firmware/tests/management/station.rs"]
mod station;
#[expect(dead_code, reason = "the firmware's tests use all of it")]
#[path = "../../firmware/tests/management/world.rs"]
mod world;

const KEY: [u8; 32] = [0x42; 32];
const TO: (&str, u16) = ("192.0.2.9", 7373);

/// An appliance in a thread, and a port of this machine that leads to it.
struct Bridge {
    address: String,
    ask: Sender<Ask>,
    answers: Receiver<BoardAnswer>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    fn new(key: Option<[u8; 32]>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (ask, asked) = channel::<Ask>();
        let (answer, answers) = channel();
        let work = move || {
            let mut world = World::new();
            let mut station = Station::new(1, &["192.0.2.50/24"]);
            world.ask_board(Ask::SetManagement(Management {
                addresses: [WireAddress {
                    address: TO.0.parse().unwrap(),
                    prefix_length: 24,
                }]
                .into_iter()
                .collect(),
                tcp_port: TO.1,
                ..Management::default()
            }));
            assert_eq!(
                world.ask_board(Ask::SetKey {
                    key: key.map(PresharedKey)
                }),
                BoardAnswer::Done
            );
            let mut pairs: Vec<Pair> = Vec::new();
            loop {
                match asked.try_recv() {
                    Ok(ask) => answer.send(world.ask_board(ask)).unwrap(),
                    Err(std::sync::mpsc::TryRecvError::Empty) => {}
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    let handle = station.connect(TO.0, TO.1);
                    pairs.push(Pair { stream, handle });
                }
                pairs.retain_mut(|pair| pair.carry(&mut station));
                station.step(&mut world);
                std::thread::sleep(Duration::from_micros(500));
            }
        };
        Bridge {
            address,
            ask,
            answers,
            thread: Some(std::thread::spawn(work)),
        }
    }

    fn ask(&self, ask: Ask) -> BoardAnswer {
        self.ask.send(ask).unwrap();
        self.answers.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    fn refused(&self) -> u32 {
        match self.ask(Ask::Health) {
            BoardAnswer::Health(health) => health.refused,
            other => panic!("{other:?}"),
        }
    }

    fn stop(mut self) {
        drop(self.ask);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A connection of this machine's, and its other half towards the appliance.
struct Pair {
    stream: TcpStream,
    handle: SocketHandle,
}

impl Pair {
    /// Carries what there is; returns whether there may be more.
    fn carry(&mut self, station: &mut Station) -> bool {
        let socket = station.socket(self.handle);
        if matches!(socket.state(), State::SynSent) {
            return true;
        }
        let mut bytes = [0; 4096];
        let room = socket.send_capacity() - socket.send_queue();
        let room = room.min(bytes.len());
        let here_ends = match self.stream.read(&mut bytes[..room]) {
            Ok(0) => room > 0,
            Ok(len) => socket.send_slice(&bytes[..len]).is_err(),
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        };
        while socket.can_recv() {
            let len = socket.recv_slice(&mut bytes).unwrap();
            if self.stream.write_all(&bytes[..len]).is_err() {
                break;
            }
        }
        let there_ends = !socket.may_recv();
        if here_ends || there_ends {
            socket.close();
            return false;
        }
        true
    }
}

async fn ask(stream: &mut UnixStream, id: u32, request: &Request) -> io::Result<Response> {
    stream.write_all(&framed(id, request)).await?;
    let mut decoder = FrameDecoder::new();
    loop {
        let mut bytes = [0; 777];
        let len = stream.read(&mut bytes).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut found = None;
        decoder.feed(&bytes[..len], |event| {
            if let FrameEvent::Message(message) = event {
                found = decode_response(message).ok();
            }
        });
        if let Some((to, response)) = found {
            assert_eq!(to, id);
            return Ok(response);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

#[test]
fn the_key_opens_the_channel() {
    let bridge = Bridge::new(Some(KEY));
    runtime().block_on(async {
        let key = Key::new(KEY);
        let mut stream = connect(&bridge.address, &key).await.unwrap();
        for id in 1..=50 {
            let answer = ask(&mut stream, id, &Request::Ping).await.unwrap();
            assert_eq!(answer, Response::Pong);
        }
        let described = ask(&mut stream, 51, &Request::Board(Ask::Describe)).await;
        let Ok(Response::Board(BoardAnswer::Description(description))) = described else {
            panic!("{described:?}");
        };
        assert!(description.management);
        // Who comes later goes before.
        let mut other = connect(&bridge.address, &key).await.unwrap();
        let answer = ask(&mut other, 1, &Request::Ping).await.unwrap();
        assert_eq!(answer, Response::Pong);
        assert!(ask(&mut stream, 52, &Request::Ping).await.is_err());
        // The appliance ends it: the stream ends too.
        let close = Ask::SetKey { key: None };
        assert_eq!(bridge.ask(close), BoardAnswer::Done);
        assert_eq!(other.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(bridge.refused(), 0);
    });
    bridge.stop();
}

#[test]
fn another_key_is_told() {
    let bridge = Bridge::new(Some(KEY));
    let error = runtime().block_on(connect(&bridge.address, &Key::new([1; 32])));
    let error = error.unwrap_err();
    assert!(matches!(error, NoiseError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("another key"), "{error}");
    assert_eq!(bridge.refused(), 1);
    bridge.stop();
}

/// Something at a port of this machine that is no appliance.
fn impostor(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}

#[test]
fn what_is_no_appliance_is_told() {
    let key = Key::new(KEY);
    let runtime = runtime();
    // Nobody.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = runtime
        .block_on(connect(&free.to_string(), &key))
        .unwrap_err();
    assert!(matches!(error, NoiseError::Connect { .. }), "{error}");
    // Someone who answers anything.
    let address = impostor(|mut stream| {
        let mut greeting = [0; 50];
        stream.read_exact(&mut greeting).unwrap();
        stream
            .write_all(&[&[0, 48][..], &[9; 48]].concat())
            .unwrap();
        let _ = stream.read(&mut greeting);
    });
    let error = runtime
        .block_on(connect(&address.to_string(), &key))
        .unwrap_err();
    assert!(matches!(error, NoiseError::OtherKey { .. }), "{error}");
    // Someone who sends the greeting back.
    let address = impostor(|mut stream| {
        let mut greeting = [0; 50];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&greeting).unwrap();
        let _ = stream.read(&mut greeting);
    });
    let error = runtime
        .block_on(connect(&address.to_string(), &key))
        .unwrap_err();
    assert!(matches!(error, NoiseError::OtherKey { .. }), "{error}");
    // Someone who says nothing.
    let address = impostor(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let began = Instant::now();
    let error = runtime
        .block_on(connect(&address.to_string(), &key))
        .unwrap_err();
    assert!(matches!(error, NoiseError::Silent { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(7));
}
