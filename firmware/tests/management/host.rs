//! A host at the TCP port: the other end of the handshake, by snow.

use culvert_core::channel::noise::{GREETING_LEN, PATTERN, PROLOGUE};
use culvert_core::channel::{FrameDecoder, FrameEvent, Request, Response, decode_response};
use smoltcp::iface::SocketHandle;
use snow::{Builder, HandshakeState, TransportState};

use crate::station::Station;
use crate::world::{World, framed};

pub(crate) struct Host {
    pub(crate) handle: SocketHandle,
    pub(crate) noise: TransportState,
    received: Vec<u8>,
    decoder: FrameDecoder,
    next_id: u32,
}

/// A message behind its length.
pub(crate) fn record(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&length[..], message].concat()
}

/// A handshake and its first message.
pub(crate) fn greet(key: &[u8; 32]) -> (HandshakeState, Vec<u8>) {
    let builder = Builder::new(PATTERN.parse().unwrap());
    let builder = builder.prologue(PROLOGUE).unwrap().psk(0, key).unwrap();
    let mut handshake = builder.build_initiator().unwrap();
    let mut greeting = vec![0; 100];
    let len = handshake.write_message(&[], &mut greeting).unwrap();
    greeting.truncate(len);
    (handshake, greeting)
}

impl Host {
    /// Connects and shakes hands; `None` when that fails.
    pub(crate) fn connect(
        world: &mut World,
        station: &mut Station,
        (to, port): (&str, u16),
        key: &[u8; 32],
    ) -> Option<Self> {
        let handle = station.connect(to, port);
        if !station.is_connected(world, handle) {
            return None;
        }
        let (mut handshake, greeting) = greet(key);
        station
            .socket(handle)
            .send_slice(&record(&greeting))
            .unwrap();
        let len = 2 + GREETING_LEN;
        station.until(world, 1_000, |station| {
            let socket = station.socket(handle);
            socket.recv_queue() >= len || !socket.may_recv()
        });
        let mut answer = vec![0; len];
        if station.socket(handle).recv_slice(&mut answer) != Ok(len) {
            return None;
        }
        assert_eq!(answer[..2], [0, 48]);
        handshake.read_message(&answer[2..], &mut []).ok()?;
        Some(Host {
            handle,
            noise: handshake.into_transport_mode().unwrap(),
            received: Vec::new(),
            decoder: FrameDecoder::new(),
            next_id: 0,
        })
    }

    /// Sends bytes of the stream in messages of this size.
    pub(crate) fn say(&mut self, station: &mut Station, bytes: &[u8], size: usize) {
        let socket = station.socket(self.handle);
        let mut message = vec![0; 4096];
        for part in bytes.chunks(size) {
            let len = self.noise.write_message(part, &mut message).unwrap();
            socket.send_slice(&record(&message[..len])).unwrap();
        }
    }

    /// Sends a message without a payload.
    pub(crate) fn nod(&mut self, station: &mut Station) {
        let mut message = [0; 16];
        self.noise.write_message(&[], &mut message).unwrap();
        let socket = station.socket(self.handle);
        socket.send_slice(&record(&message)).unwrap();
    }

    /// The bytes of the stream that have come back.
    pub(crate) fn hear(&mut self, station: &mut Station) -> Vec<u8> {
        let socket = station.socket(self.handle);
        let mut bytes = vec![0; socket.recv_queue()];
        if !bytes.is_empty() {
            socket.recv_slice(&mut bytes).unwrap();
        }
        self.received.extend(bytes);
        let mut heard = Vec::new();
        while let Some((length, rest)) = self.received.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*length));
            let Some(message) = rest.get(..len) else {
                break;
            };
            let mut payload = vec![0; len];
            let payload_len = self.noise.read_message(message, &mut payload).unwrap();
            heard.extend(&payload[..payload_len]);
            self.received.drain(..2 + len);
        }
        heard
    }

    /// Asks, and waits a second for the answer; `None` when none comes.
    pub(crate) fn ask(
        &mut self,
        world: &mut World,
        station: &mut Station,
        request: &Request,
    ) -> Option<Response> {
        self.next_id += 1;
        self.say(station, &framed(self.next_id, request), 300);
        self.answer(world, station, self.next_id)
    }

    /// Waits a second for the answer to a question; those to others are passed over.
    pub(crate) fn answer(
        &mut self,
        world: &mut World,
        station: &mut Station,
        of: u32,
    ) -> Option<Response> {
        let mut found = None;
        station.until(world, 1_000, |station| {
            let heard = self.hear(station);
            self.decoder.feed(&heard, |event| {
                if let FrameEvent::Message(message) = event
                    && let Ok((id, response)) = decode_response(message)
                    && id == of
                {
                    found = Some(response);
                }
            });
            found.is_some()
        });
        found
    }
}
