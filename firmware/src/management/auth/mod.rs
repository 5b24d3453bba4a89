//! Hosts at the TCP port: who shows the pre-shared key speaks the control channel.
//!
//! One host speaks at a time. Several may connect, and the last one that has shown the
//! key is the one that speaks: a host that comes back after a crash is not kept out by
//! its own dead connection. Strangers have five seconds, and when all places are taken
//! one of those makes room who have come least far, the one who has been there longest.
//! Who only says that he wants to connect, perhaps with another's address, has come
//! nowhere; while several do, one must say so twice ([`knocks`]). Nobody without the key
//! ends a host's connection.

mod knocks;
mod noise;
mod record;

use core::time::Duration;

use culvert_core::Instant;
use culvert_core::channel::noise::{GREETING_LEN, MAX_RECORD, PROLOGUE};
use culvert_core::channel::{FrameEvent, KEY_LEN};
use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State as TcpState};

use self::knocks::Knocks;
use self::noise::{EPHEMERAL_LEN, Noise, Refused};
use self::record::{Opened, Sealed, Wire};
use crate::control::Conversation;
use crate::log::log;

/// Connections at a time: one that speaks, and others that are about to.
const PLACES: usize = 4;
/// Bytes that wait in each direction of each.
const BUFFER: usize = 4_096;
// A message must fit as a whole.
const _: () = assert!(BUFFER >= 2 * MAX_RECORD);

/// For how long somebody may be connected without having shown the key.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a host that says nothing is asked whether it is there, and after which
/// silence it is not: it takes its place for less than 30 seconds.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(5);
const SILENCE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(20);
/// Between two greetings that were right. The answer to one takes two multiplications on
/// a curve, for which frames wait, and somebody who has heard one can say it again.
const PAUSE: Duration = Duration::from_millis(50);
/// For how long a source of randomness that has given none is let alone: everything
/// waits while it is asked.
const PAUSE_WITHOUT_RANDOMNESS: Duration = Duration::from_secs(10);
/// Strangers who may be about to connect before others have to say so twice.
const CROWD: usize = 2;

/// What the TCP port's connections and their conversation take, for a static.
pub struct Room {
    /// Filled when it is used: until then all of this is zero, and takes no room in an
    /// image.
    sockets: heapless::Vec<SocketStorage<'static>, PLACES>,
    received: [[u8; BUFFER]; PLACES],
    sending: [[u8; BUFFER]; PLACES],
    knocks: Knocks,
    talk: Talk,
}

/// The conversation of the host that speaks.
struct Talk {
    conversation: Conversation,
    opened: Opened,
    /// The first message of a stranger, who may be lying: what the host has said is not
    /// touched by it.
    first: Opened,
    sealed: Sealed,
}

impl Room {
    /// Room in which nobody has connected.
    pub const fn new() -> Self {
        Room {
            sockets: heapless::Vec::new(),
            received: [[0; BUFFER]; PLACES],
            sending: [[0; BUFFER]; PLACES],
            knocks: Knocks::new(),
            talk: Talk {
                conversation: Conversation::new(),
                opened: Opened::new(),
                first: Opened::new(),
                sealed: Sealed::new(),
            },
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

/// The TCP port.
pub(super) struct Auth {
    places: heapless::Vec<Place, PLACES>,
    talk: &'static mut Talk,
    knocks: &'static mut Knocks,
    key: Option<[u8; KEY_LEN]>,
    /// The TCP port; 0 is none.
    port: u16,
    refused: u32,
    /// Randomness for the next right greeting: wrong ones use none up.
    ephemeral: Option<[u8; EPHEMERAL_LEN]>,
    /// Before this time no greeting is answered.
    pause: Instant,
}

/// A socket, and who is there.
struct Place {
    handle: SocketHandle,
    who: Who,
}

enum Who {
    /// Nobody, or nobody any more.
    Nobody,
    /// Somebody who has not shown the key. There is a [`Noise`] when the greeting was
    /// right, which may have been a copy of an old one.
    Stranger {
        since: Instant,
        connected: bool,
        noise: Option<Noise>,
    },
    /// The host that speaks.
    Host(Noise),
}

impl Auth {
    /// A closed port, and its sockets.
    pub(super) fn new(room: &'static mut Room) -> (Self, SocketSet<'static>) {
        room.sockets.clear();
        room.sockets.extend([SocketStorage::EMPTY; PLACES]);
        let mut sockets = SocketSet::new(room.sockets.as_mut_slice());
        let mut places = heapless::Vec::new();
        for (received, sending) in room.received.iter_mut().zip(&mut room.sending) {
            let (received, sending) = (&mut received[..], &mut sending[..]);
            let socket = Socket::new(SocketBuffer::new(received), SocketBuffer::new(sending));
            let handle = sockets.add(socket);
            let who = Who::Nobody;
            // There are as many places as buffers.
            let _ = places.push(Place { handle, who });
        }
        let auth = Auth {
            places,
            talk: &mut room.talk,
            knocks: &mut room.knocks,
            key: None,
            port: 0,
            refused: 0,
            ephemeral: None,
            pause: Instant::ZERO,
        };
        (auth, sockets)
    }

    /// Connections that ended before they had shown the key.
    pub(super) fn refused(&self) -> u32 {
        self.refused
    }

    /// Takes another TCP port, 0 for none, and ends all connections.
    pub(super) fn set_port(&mut self, sockets: &mut SocketSet<'static>, port: u16) {
        self.port = port;
        self.end_all(sockets);
    }

    /// Takes another key, and ends the connections under the one before.
    pub(super) fn set_key(&mut self, sockets: &mut SocketSet<'static>, key: Option<[u8; KEY_LEN]>) {
        // Who may set keys may know how much of them is alike.
        if self.key == key {
            return;
        }
        log!(info, "the management port has a key: {}", key.is_some());
        self.key = key;
        self.end_all(sockets);
    }

    fn end_all(&mut self, sockets: &mut SocketSet<'static>) {
        for place in &mut self.places {
            let socket = sockets.get_mut::<Socket>(place.handle);
            match place.who {
                // What it was answered last still goes out.
                Who::Host(_) => socket.close(),
                Who::Nobody | Who::Stranger { .. } => socket.abort(),
            }
            place.who = Who::Nobody;
        }
    }

    /// The port, where it is open.
    fn port(&self) -> Option<u16> {
        (self.key.is_some() && self.port != 0).then_some(self.port)
    }

    /// Lets free sockets listen while the port is open.
    pub(super) fn open(&mut self, sockets: &mut SocketSet<'static>) {
        let Some(port) = self.port() else {
            return;
        };
        for place in &self.places {
            if place.is_free(sockets) {
                listen(sockets.get_mut(place.handle), port);
            }
        }
    }

    /// Whether a frame that has come in is for the stack: while several strangers are
    /// about to connect, a wish to connect is not before it comes again.
    pub(super) fn admits(
        &mut self,
        sockets: &SocketSet<'static>,
        frame: &[u8],
        now: Instant,
    ) -> bool {
        let Some(port) = self.port() else {
            return true;
        };
        let knocking =
            |place: &&Place| sockets.get::<Socket>(place.handle).state() == TcpState::SynReceived;
        self.places.iter().filter(knocking).count() < CROWD || self.knocks.admits(frame, port, now)
    }

    /// Looks who has connected, after each frame: there must be a socket that listens
    /// when the next comes in.
    pub(super) fn notice(&mut self, sockets: &mut SocketSet<'static>, now: Instant) {
        let Some(port) = self.port() else {
            return;
        };
        let mut listens = false;
        let mut newest = None;
        for (index, place) in self.places.iter_mut().enumerate() {
            let socket = sockets.get_mut::<Socket>(place.handle);
            listens |= socket.is_listening();
            if matches!(place.who, Who::Nobody) && socket.state() == TcpState::SynReceived {
                place.who = Who::Stranger {
                    since: now,
                    connected: false,
                    noise: None,
                };
                newest = Some(index);
            }
        }
        if listens {
            return;
        }
        // How far somebody has come, and since when he is there.
        let standing = |(index, place): &(usize, &mut Place)| match &place.who {
            // Or nobody new would ever be heard.
            _ if newest == Some(*index) => None,
            // It has been told to end, and need not be waited for.
            Who::Nobody => Some((0, Instant::ZERO)),
            Who::Stranger { since, noise, .. } => {
                let is_connected = sockets.get::<Socket>(place.handle).may_send();
                Some((
                    1 + u8::from(is_connected) + u8::from(noise.is_some()),
                    *since,
                ))
            }
            Who::Host(_) => None,
        };
        let strangers = self.places.iter_mut().enumerate();
        let strangers = strangers.filter(|place| standing(place).is_some());
        if let Some((_, place)) = strangers.min_by_key(standing) {
            place.refuse(sockets, &mut self.refused);
            listen(sockets.get_mut(place.handle), port);
        }
    }

    /// Looks after everybody who is connected, and answers one right greeting at most.
    pub(super) fn greet(
        &mut self,
        sockets: &mut SocketSet<'static>,
        now: Instant,
        random: &mut dyn FnMut(&mut [u8]) -> bool,
    ) {
        let Some(key) = self.key else {
            return;
        };
        let mut host = None;
        for (index, place) in self.places.iter_mut().enumerate() {
            let socket = sockets.get_mut::<Socket>(place.handle);
            let Who::Stranger {
                since,
                connected,
                noise,
            } = &mut place.who
            else {
                place.leave(socket);
                continue;
            };
            *connected |= socket.may_send();
            let stays = socket.is_active() && now < since.after(PATIENCE);
            let shown = match noise {
                _ if !stays => Err(Refused),
                Some(noise) => self.talk.first.take(socket, noise),
                None if now < self.pause => Ok(false),
                None => greeting(socket).and_then(|greeting| {
                    let Some(greeting) = greeting else {
                        return Ok(false);
                    };
                    if self.ephemeral.is_none() {
                        self.ephemeral = draw(random);
                    }
                    if self.ephemeral.is_none() {
                        log!(warn, "no randomness: nobody can be authenticated");
                        self.pause = now.after(PAUSE_WITHOUT_RANDOMNESS);
                    }
                    *noise = Some(welcome(socket, &key, &greeting, &mut self.ephemeral)?);
                    self.pause = now.after(PAUSE);
                    Ok(false)
                }),
            };
            match shown {
                Ok(true) => host = Some(index),
                Ok(false) => {}
                Err(Refused) => place.refuse(sockets, &mut self.refused),
            }
            if host.is_some() {
                break;
            }
        }
        if let Some(index) = host {
            self.enter(sockets, index);
        }
    }

    /// Lets a stranger who has shown the key speak, instead of who spoke before.
    fn enter(&mut self, sockets: &mut SocketSet<'static>, index: usize) {
        for place in &mut self.places {
            if let Who::Host(_) = place.who {
                log!(info, "another host speaks on the management port");
                sockets.get_mut::<Socket>(place.handle).close();
                place.who = Who::Nobody;
            }
        }
        self.talk.conversation.restart();
        core::mem::swap(&mut self.talk.opened, &mut self.talk.first);
        if let Some(place) = self.places.get_mut(index)
            && let Who::Stranger { noise, .. } = &mut place.who
            && let Some(noise) = noise.take()
        {
            place.who = Who::Host(noise);
        }
    }

    /// Answers one request of the host that speaks; returns whether there was anything
    /// to do.
    pub(super) fn converse(
        &mut self,
        sockets: &mut SocketSet<'static>,
        serve: impl FnOnce(&FrameEvent<'_>, &mut [u8]) -> usize,
    ) -> bool {
        let is_host = |place: &&mut Place| matches!(place.who, Who::Host(_));
        let Some(place) = self.places.iter_mut().find(is_host) else {
            return false;
        };
        let Who::Host(noise) = &mut place.who else {
            return false;
        };
        let socket = sockets.get_mut::<Socket>(place.handle);
        let mut wire = Wire {
            socket,
            noise,
            opened: &mut self.talk.opened,
            sealed: &mut self.talk.sealed,
            is_broken: false,
        };
        let worked = self.talk.conversation.turn(&mut wire, serve);
        let is_broken = wire.is_broken;
        if is_broken {
            log!(
                warn,
                "a message on the management port was forged or damaged"
            );
            socket.abort();
            place.who = Who::Nobody;
        } else if !worked && socket.state() == TcpState::CloseWait && socket.send_queue() == 0 {
            // It has said all, and has been answered all.
            socket.close();
            place.who = Who::Nobody;
        }
        worked
    }

    /// When somebody's patience ends, a greeting may be answered, or a socket can listen
    /// again.
    pub(super) fn deadline(&self, sockets: &SocketSet<'static>, now: Instant) -> Option<Instant> {
        self.port()?;
        let of = |place: &Place| match &place.who {
            Who::Nobody if place.is_free(sockets) => Some(Instant::ZERO),
            Who::Stranger { since, noise, .. } => {
                let socket = sockets.get::<Socket>(place.handle);
                let end = match socket.is_active() {
                    true => since.after(PATIENCE),
                    false => Instant::ZERO,
                };
                let waits = noise.is_none() && socket.can_recv() && now < self.pause;
                Some(if waits { end.min(self.pause) } else { end })
            }
            Who::Host(_) | Who::Nobody => None,
        };
        self.places.iter().filter_map(of).min()
    }
}

impl Place {
    /// Whether nobody uses the socket.
    fn is_free(&self, sockets: &SocketSet<'static>) -> bool {
        let socket = sockets.get::<Socket>(self.handle);
        matches!(self.who, Who::Nobody) && !socket.is_open()
    }

    /// Ends a connection that has not shown the key.
    fn refuse(&mut self, sockets: &mut SocketSet<'static>, refused: &mut u32) {
        sockets.get_mut::<Socket>(self.handle).abort();
        if let Who::Stranger {
            connected: true, ..
        } = self.who
        {
            *refused = refused.saturating_add(1);
            // Fewer words the more there are: strangers do not fill the log.
            if refused.is_power_of_two() {
                log!(
                    warn,
                    "{} connections to the management port were refused",
                    *refused
                );
            }
        }
        self.who = Who::Nobody;
    }

    /// Notices that a host has gone.
    fn leave(&mut self, socket: &Socket<'static>) {
        if !socket.is_open() {
            self.who = Who::Nobody;
        }
    }
}

/// Lets a socket wait for a connection, whatever it was used for.
fn listen(socket: &mut Socket<'static>, port: u16) {
    socket.abort();
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_timeout(Some(SILENCE));
    socket.set_keep_alive(Some(KEEP_ALIVE));
    // It is closed, and the port is not 0.
    let _ = socket.listen(port);
}

/// The greeting that a stranger has sent, when it is whole.
fn greeting(socket: &mut Socket<'static>) -> Result<Option<[u8; GREETING_LEN]>, Refused> {
    let mut greeting = [0; GREETING_LEN];
    match record::take(socket, &mut greeting)? {
        None => Ok(None),
        Some(record) if record.len() == GREETING_LEN => Ok(Some(greeting)),
        Some(_) => Err(Refused),
    }
}

/// Randomness for one connection, where there is any.
fn draw(random: &mut dyn FnMut(&mut [u8]) -> bool) -> Option<[u8; EPHEMERAL_LEN]> {
    let mut ephemeral = [0; EPHEMERAL_LEN];
    random(&mut ephemeral).then_some(ephemeral)
}

/// Answers a greeting; a right one takes the randomness.
fn welcome(
    socket: &mut Socket<'static>,
    key: &[u8; KEY_LEN],
    greeting: &[u8; GREETING_LEN],
    ephemeral: &mut Option<[u8; EPHEMERAL_LEN]>,
) -> Result<Noise, Refused> {
    let (noise, answer) = Noise::answer(key, PROLOGUE, ephemeral, greeting)?;
    record::put(socket, &answer)?;
    Ok(noise)
}
