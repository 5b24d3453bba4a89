//! Batches of datagrams: `recvmmsg` and `sendmmsg`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::AsRawFd;

use super::errors::{self, PeerErrors};
use super::wire::{ADDRESS_SIZE, CONTROL_SIZE, IpInfo, RawAddress, RawControl};
use super::{DEFAULT_TTL, Socket, socklen};

/// The most that the kernel takes in one call (`UIO_MAXIOV`).
const KERNEL_LIMIT: usize = 1024;

/// The most datagrams of one size that one [`Datagram`] is cut into: what every kernel
/// with `UDP_SEGMENT` takes (`UDP_MAX_SEGMENTS`, 128 since Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;

/// A datagram that was received, or several of one flow that the kernel has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Where in its buffer it starts: behind the outer header that the kernel leaves
    /// on IPv4 packets of an IP protocol of their own, else at the first octet.
    pub start: usize,
    /// Octets of it that are in its buffer.
    pub len: usize,
    /// Who sent it; the port is UDP's.
    pub source: SocketAddr,
    /// The IP header's destination address; that of the socket when the kernel
    /// does not tell.
    pub destination: IpAddr,
    /// The IP header's TOS octet or traffic class: DSCP and ECN.
    pub tos: u8,
    /// The IP header's TTL or hop limit at arrival.
    pub ttl: u8,
    /// It did not fit its buffer: the rest is lost.
    pub truncated: bool,
    /// Octets of each datagram but the last, which may have fewer, when several of one
    /// flow stand one behind the other (`UDP_GRO`).
    pub segment: Option<NonZeroUsize>,
}

/// A datagram to be sent, or several of one size.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// What is behind the UDP header, or the IP header of an IP protocol of its own, in
    /// as many places as it lies, 1,024 at most.
    pub pieces: &'a [IoSlice<'a>],
    /// Octets of each datagram but the last, which may have fewer, when there are
    /// several: at most [`MAX_SEGMENTS`], and 65,507 octets in all. Only where
    /// [`Socket::can_segment`].
    pub segment: Option<NonZeroU16>,
    /// Where to; of the socket's address family. Raw sockets want the port 0.
    pub destination: SocketAddr,
    /// The IP header's TOS octet or traffic class: DSCP and ECN.
    pub tos: u8,
    /// The IP header's TTL or hop limit; [`DEFAULT_TTL`] costs least.
    pub ttl: u8,
}

/// What became of a batch to be sent.
#[derive(Debug)]
pub struct SendReport {
    /// How many datagrams the kernel took, counted from the first.
    pub sent: usize,
    /// Why the next one was not taken; `None` when all were.
    pub stop: Option<SendStop>,
}

/// Why sending stopped.
#[derive(Debug)]
pub enum SendStop {
    /// The socket's send buffer is full: try this one and the rest again when the
    /// socket is writable.
    WouldBlock,
    /// This one failed; the rest has not been tried. `EMSGSIZE`: larger than the
    /// underlay device's MTU. `ENOBUFS`: the device's queue was full and dropped
    /// it. `EPERM`: a packet filter dropped it.
    Failed(io::Error),
}

/// The kernel's structures for a batch.
///
/// The pointers among them are written anew before each call, and nothing reads
/// them after it.
struct Headers {
    messages: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    addresses: Box<[RawAddress]>,
    controls: Box<[RawControl]>,
}

// SAFETY: the raw pointers in it are only used in calls that first write them, on the
// thread that makes the call; between calls they are mere numbers.
unsafe impl Send for Headers {}

impl Headers {
    fn new(capacity: usize) -> Self {
        assert!(
            (1..=KERNEL_LIMIT).contains(&capacity),
            "a batch has 1 to {KERNEL_LIMIT} datagrams"
        );
        let iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            messages: (0..capacity).map(|_| empty_message()).collect(),
            iovecs: vec![iovec; capacity].into_boxed_slice(),
            addresses: vec![RawAddress::EMPTY; capacity].into_boxed_slice(),
            controls: vec![RawControl::EMPTY; capacity].into_boxed_slice(),
        }
    }

    /// Points the `index`-th header at its own iovec, address and control buffer,
    /// of which `address_len` and `control_len` octets are used.
    fn point(&mut self, index: usize, address_len: usize, control_len: usize) {
        let header = &mut self.messages[index].msg_hdr;
        header.msg_name = (&raw mut self.addresses[index]).cast();
        header.msg_namelen = socklen(address_len);
        header.msg_iov = &raw mut self.iovecs[index];
        header.msg_iovlen = 1;
        header.msg_control = match control_len {
            0 => std::ptr::null_mut(),
            _ => (&raw mut self.controls[index]).cast(),
        };
        header.msg_controllen = control_len as _;
        header.msg_flags = 0;
    }
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

/// What is needed to receive batches; made once, used for every call.
pub struct RecvBatch {
    headers: Headers,
    received: Vec<Received>,
}

impl RecvBatch {
    /// Room for `capacity` datagrams a call.
    ///
    /// # Panics
    /// When `capacity` is 0 or above 1,024, which is the kernel's limit.
    pub fn new(capacity: usize) -> Self {
        Self {
            headers: Headers::new(capacity),
            received: Vec::with_capacity(capacity),
        }
    }

    /// How many datagrams a call receives at most.
    pub fn capacity(&self) -> usize {
        self.headers.messages.len()
    }
}

/// What is needed to send batches; made once, used for every call.
pub struct SendBatch {
    headers: Headers,
}

impl SendBatch {
    /// Room for `capacity` datagrams a system call; a longer list takes several.
    ///
    /// # Panics
    /// When `capacity` is 0 or above 1,024, which is the kernel's limit.
    pub fn new(capacity: usize) -> Self {
        Self {
            headers: Headers::new(capacity),
        }
    }
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBatch").finish_non_exhaustive()
    }
}

pub(super) fn receive<'r, 'b>(
    socket: &Socket,
    batch: &'r mut RecvBatch,
    buffers: impl IntoIterator<Item = &'b mut [u8]>,
    errors: &mut PeerErrors,
) -> io::Result<&'r [Received]> {
    let headers = &mut batch.headers;
    batch.received.clear();
    let mut count = 0;
    for (index, buffer) in buffers.into_iter().take(headers.messages.len()).enumerate() {
        headers.iovecs[index].iov_base = buffer.as_mut_ptr().cast();
        headers.iovecs[index].iov_len = buffer.len();
        count = index + 1;
    }
    let got = despite_errors(socket, errors, || {
        for index in 0..count {
            headers.point(index, ADDRESS_SIZE, CONTROL_SIZE);
        }
        receive_once(socket, headers, count)
    })?;
    let cuts_header = socket.has_outer_header();
    for index in 0..got {
        let mut received = received(socket, headers, index);
        if cuts_header && received.len > 0 {
            // SAFETY: the kernel has just written at least one octet to this buffer,
            // which the caller has lent for `'b`, that is for all of this call.
            let first = unsafe { headers.iovecs[index].iov_base.cast::<u8>().read() };
            received.start = outer_header_len(first).min(received.len);
            received.len -= received.start;
        }
        batch.received.push(received);
    }
    Ok(&batch.received)
}

/// One datagram, or several that the kernel has joined, into `pieces` one after the
/// other; `None` when none waits.
pub(super) fn receive_scattered(
    socket: &Socket,
    batch: &mut RecvBatch,
    pieces: &mut [IoSliceMut<'_>],
    errors: &mut PeerErrors,
) -> io::Result<Option<Received>> {
    let headers = &mut batch.headers;
    let got = despite_errors(socket, errors, || {
        headers.point(0, ADDRESS_SIZE, CONTROL_SIZE);
        // An `IoSliceMut` is an `iovec` as to its bytes.
        headers.messages[0].msg_hdr.msg_iov = pieces.as_mut_ptr().cast();
        headers.messages[0].msg_hdr.msg_iovlen = pieces.len().min(KERNEL_LIMIT) as _;
        receive_once(socket, headers, 1)
    })?;
    Ok((got > 0).then(|| received(socket, headers, 0)))
}

/// Receives again after a peer's error, which goes to `errors`; gives how many there
/// are, none of which is no error.
fn despite_errors(
    socket: &Socket,
    errors: &mut PeerErrors,
    mut receive: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let of_peer = |error: &io::Error| error.raw_os_error().is_some_and(errors::is_from_icmp);
    let got = receive().or_else(|error| {
        if !of_peer(&error) {
            return Err(error);
        }
        errors::drain(socket, errors)?;
        receive()
    });
    match got {
        // A second error of a peer is one that came just now: what waits is received next time.
        Err(error) if of_peer(&error) || error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        got => got,
    }
}

/// Octets of the IPv4 header that begins with `first`, options included (RFC 791).
fn outer_header_len(first: u8) -> usize {
    usize::from(first & 0x0f) * 4
}

/// One `recvmmsg` of the first `count` messages, whose buffers the caller has borrowed
/// and which it has pointed at them.
fn receive_once(socket: &Socket, headers: &mut Headers, count: usize) -> io::Result<usize> {
    if count == 0 {
        return Ok(0);
    }
    loop {
        // SAFETY: the first `count` headers point at live buffers of the lengths beside
        // them, each its own, and the kernel may write any bytes to those.
        let result = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                headers.messages.as_mut_ptr(),
                socklen(count),
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(result) {
            Ok(got) => return Ok(got),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn received(socket: &Socket, headers: &Headers, index: usize) -> Received {
    let message = &headers.messages[index];
    let mut info = IpInfo::default();
    headers.controls[index]
        .messages(message.msg_hdr.msg_controllen as _)
        .for_each(|control| info.add(control));
    let source = usize::try_from(message.msg_hdr.msg_namelen)
        .ok()
        .and_then(|len| headers.addresses[index].get(len));
    Received {
        start: 0,
        len: usize::try_from(message.msg_len).unwrap_or(usize::MAX),
        // The kernel always tells the source of a datagram; the unspecified
        // address is no peer, should it ever not.
        source: source.unwrap_or_else(|| unspecified(socket.local)),
        destination: info.destination.unwrap_or(socket.local.ip()),
        tos: info.tos.unwrap_or(0),
        ttl: info.ttl.unwrap_or(0),
        truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        segment: info.segment,
    }
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    if like.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    }
}

pub(super) fn send(
    socket: &Socket,
    batch: &mut SendBatch,
    datagrams: &[Datagram<'_>],
    errors: &mut PeerErrors,
) -> SendReport {
    let mut sent = 0;
    let mut tried_twice = false;
    while sent < datagrams.len() {
        match send_once(socket, &mut batch.headers, &datagrams[sent..]) {
            Ok(count) => {
                sent += count;
                tried_twice = false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return SendReport {
                    sent,
                    stop: Some(SendStop::WouldBlock),
                };
            }
            Err(error) => {
                let of_peer = error.raw_os_error().is_some_and(errors::is_from_icmp);
                // What cannot be drained stays for the next call; the error to tell is this one.
                let drained = of_peer && errors::drain(socket, errors).is_ok();
                if !drained || tried_twice {
                    return SendReport {
                        sent,
                        stop: Some(SendStop::Failed(error)),
                    };
                }
                tried_twice = true;
            }
        }
    }
    SendReport { sent, stop: None }
}

/// One `sendmmsg` of as many of `datagrams` as fit; gives how many were taken, at least one.
fn send_once(
    socket: &Socket,
    headers: &mut Headers,
    datagrams: &[Datagram<'_>],
) -> io::Result<usize> {
    let mut count = 0;
    for (index, datagram) in datagrams.iter().take(headers.messages.len()).enumerate() {
        if datagram.destination.is_ipv4() != socket.local.is_ipv4() {
            // Found out here: an IPv6 socket would take an IPv4 address for another error.
            break;
        }
        fill(headers, index, datagram);
        count = index + 1;
    }
    if count == 0 {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    }
    // SAFETY: the first `count` headers point at live buffers of the lengths beside them;
    // the kernel only reads what they point at.
    let result = unsafe {
        libc::sendmmsg(
            socket.fd.as_raw_fd(),
            headers.messages.as_mut_ptr(),
            socklen(count),
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn fill(headers: &mut Headers, index: usize, datagram: &Datagram<'_>) {
    let address_len = headers.addresses[index].set(datagram.destination);
    let (level, tos_kind, ttl_kind) = if datagram.destination.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT)
    };
    let control = &mut headers.controls[index];
    let mut used = 0;
    if let Some(segment) = datagram.segment {
        used = control.push(
            used,
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &segment.get().to_ne_bytes(),
        );
    }
    if datagram.tos != 0 {
        used = control.push_int(used, level, tos_kind, datagram.tos);
    }
    if datagram.ttl != DEFAULT_TTL {
        used = control.push_int(used, level, ttl_kind, datagram.ttl);
    }
    headers.point(index, address_len, used);
    let header = &mut headers.messages[index].msg_hdr;
    // An `IoSlice` is an `iovec` as to its bytes, and what is sent is only read.
    header.msg_iov = datagram.pieces.as_ptr().cast_mut().cast();
    header.msg_iovlen = datagram.pieces.len() as _;
}
