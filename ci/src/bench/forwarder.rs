//! The tunnel that one would write first: a TAP, a socket, a frame at a time. culvert
//! is measured beside it to show what all the rest is worth.
//!
//! Both nodes know each other and nothing else: whatever a pod sends goes to the other
//! node's pod, ARP too.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use culvert_host::sys::tap::{Tap, TapOffloads, TapOptions};
use culvert_host::sys::vnet::VirtioNetHeader;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What it prints when it forwards.
pub const READY: &str = "forwarding";
/// UDP port of the tunnel.
const PORT: u16 = 4789;
/// Bytes of a VXLAN header (RFC 7348, section 5).
const VXLAN: usize = 8;
/// Bytes before a frame on the TAP; all zero, they ask nothing of the kernel.
const VNET: usize = VirtioNetHeader::LEN;
/// Where a frame begins in the buffer: both headers end there.
const FRAME: usize = VNET;
/// Frames of one direction before the other has its turn.
const TURN: u32 = 64;
/// More than the largest frame.
const SIZE: usize = 10_240;

/// Moves frames between the TAP device, which it makes, and the peer until the process is
/// ended. Calls `ready` when both are there.
///
/// # Errors
/// When the device or the socket cannot be made, or the kernel refuses one for good.
pub fn forward(
    device: &str,
    (local, peer): (Ipv4Addr, Ipv4Addr),
    vni: u32,
    ready: impl FnOnce(),
) -> Result<()> {
    let options = TapOptions {
        offloads: TapOffloads::NONE,
    };
    let tap = Tap::create(device, options)?;
    let socket = UdpSocket::bind((local, PORT)).context("no socket")?;
    socket.connect((peer, PORT))?;
    socket.set_nonblocking(true)?;
    ready();
    let mut header = [0; VXLAN];
    header[0] = 8;
    header[4..].copy_from_slice(&(vni << 8).to_be_bytes());
    let mut buffer = vec![0; SIZE];
    loop {
        let mut either = [
            PollFd::new(tap.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut either, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for _ in 0..TURN {
            if !encapsulate(&tap, &socket, header, &mut buffer)? {
                break;
            }
        }
        for _ in 0..TURN {
            if !decapsulate(&socket, &tap, header, &mut buffer)? {
                break;
            }
        }
    }
}

/// A frame from the pod to the peer; whether there was one.
fn encapsulate(
    tap: &Tap,
    socket: &UdpSocket,
    header: [u8; VXLAN],
    buffer: &mut [u8],
) -> Result<bool> {
    let length = match tap.read(buffer) {
        Ok(length) => length,
        Err(error) if is_empty(&error) => return Ok(false),
        Err(error) => return Err(error).context("cannot read the TAP"),
    };
    buffer[FRAME - VXLAN..FRAME].copy_from_slice(&header);
    // A full queue or a peer that is gone loses the frame, as a wire would.
    let _ = socket.send(&buffer[FRAME - VXLAN..length]);
    Ok(true)
}

/// A frame from the peer to the pod; whether there was one.
fn decapsulate(
    socket: &UdpSocket,
    tap: &Tap,
    header: [u8; VXLAN],
    buffer: &mut [u8],
) -> Result<bool> {
    let length = match socket.recv(&mut buffer[FRAME - VXLAN..]) {
        Ok(length) => length,
        Err(error) if is_empty(&error) => return Ok(false),
        Err(error) => return Err(error).context("cannot read the socket"),
    };
    if length > VXLAN && buffer[FRAME - VXLAN..FRAME] == header {
        buffer[..FRAME].fill(0);
        let _ = tap.write(&buffer[..FRAME - VXLAN + length]);
    }
    Ok(true)
}

/// Nothing there; refused is what a peer that is not up yet answered to a send.
fn is_empty(error: &std::io::Error) -> bool {
    // A TAP says EIO while its interface is down, as it is until it is in its pod.
    let down = error.raw_os_error() == Some(Errno::EIO as i32);
    down || matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::ConnectionRefused
    )
}
