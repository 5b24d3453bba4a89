//! What a socket takes of the datagrams that arrive: classic BPF programs, which the
//! kernel runs before a datagram gets into the receive buffer.

use std::io;
use std::os::fd::AsRawFd;

use super::{Socket, socklen};

/// Takes all of a datagram.
const TAKE: u32 = u32::MAX;
/// Takes nothing of it.
const REFUSE: u32 = 0;

/// Spreads values that differ in few bits over the uppermost bits of the product (Knuth,
/// volume 3, section 6.4). No others will do: the source port is in the upper half.
const GOLDEN: u32 = 0x9e37_79b1;

/// Opcodes, by their names in the kernel's documentation.
mod op {
    pub(super) const LD_WORD: u16 = 0x40;
    pub(super) const LD_HALF: u16 = 0x48;
    pub(super) const LD_BYTE: u16 = 0x50;
    pub(super) const LD_MEM: u16 = 0x60;
    pub(super) const LDX_IMM: u16 = 0x01;
    pub(super) const LDX_MEM: u16 = 0x61;
    /// The length of the IPv4 header at this offset.
    pub(super) const LDX_IP_LEN: u16 = 0xb1;
    pub(super) const ST: u16 = 0x02;
    pub(super) const XOR_X: u16 = 0xac;
    pub(super) const AND: u16 = 0x54;
    pub(super) const MUL: u16 = 0x24;
    pub(super) const SHIFT_RIGHT: u16 = 0x74;
    pub(super) const MOD: u16 = 0x94;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
}

/// Where an inner header has what tells its flow.
struct Inner {
    /// A word of each address that differs among pods.
    addresses: [u32; 2],
    protocol: u32,
    /// The half with fragment offset and flags, and the bits that are not set in a
    /// packet that is whole.
    fragment: Option<(u32, u32)>,
    /// The header's length in bytes, when it has no options.
    len: u32,
}

const V4: Inner = Inner {
    addresses: [12, 16],
    protocol: 9,
    fragment: Some((6, 0x3fff)),
    len: 20,
};

const V6: Inner = Inner {
    addresses: [20, 36],
    protocol: 6,
    fragment: None,
    len: 40,
};

impl Socket {
    /// Makes the socket drop whatever arrives, so that strangers cannot fill its
    /// receive buffer. Errors of peers still arrive.
    pub(super) fn refuse_datagrams(&self) -> io::Result<()> {
        self.attach_filter(&mut [instruction(op::RETURN, REFUSE)])
    }

    /// Of raw sockets for the same IP-in-IP protocol (4 or 41), each of which is given a
    /// copy of every packet, makes this one take only its part of the inner flows: the
    /// one numbered `part` of `parts`.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// When there is no such part.
    pub fn take_part(&self, part: u8, parts: u8) -> io::Result<()> {
        assert!(part < parts, "part {part} of {parts}");
        let inner = match self.has_inner_v6() {
            true => V6,
            false => V4,
        };
        let outer = match self.has_outer_header() {
            true => instruction(op::LDX_IP_LEN, 0),
            false => instruction(op::LDX_IMM, 0),
        };
        self.attach_filter(&mut part_of_flows(&inner, outer, (part, parts)))
    }

    fn attach_filter(&self, program: &mut [libc::sock_filter]) -> io::Result<()> {
        let filter = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_mut_ptr(),
        };
        let size = socklen(size_of::<libc::sock_fprog>());
        // SAFETY: the pointers are to a live filter of as many instructions as it says,
        // which the kernel checks and copies.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn instruction(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Jumps so many instructions further when it holds, and when it does not.
fn jump(code: u16, k: u32, (jt, jf): (u8, u8)) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// A program that takes the packets whose hash has this rest. `outer` loads the offset
/// of the inner header. The hash is of the addresses and, of TCP and UDP packets that
/// are no fragments and have no options, of the ports.
fn part_of_flows(
    inner: &Inner,
    outer: libc::sock_filter,
    (part, parts): (u8, u8),
) -> Vec<libc::sock_filter> {
    let [one, other] = inner.addresses;
    let mut with_ports = vec![
        instruction(op::LD_WORD, inner.len),
        instruction(op::LDX_MEM, 0),
        instruction(op::XOR_X, 0),
        instruction(op::ST, 0),
    ];
    if let Some((offset, bits)) = inner.fragment {
        let rest = jump_over(&with_ports);
        let mut checks = vec![
            instruction(op::LD_BYTE, 0),
            instruction(op::AND, 0xf),
            jump(op::JUMP_EQUAL, inner.len / 4, (0, rest)),
        ];
        let rest = rest + jump_over(&checks);
        checks.splice(
            0..0,
            [
                instruction(op::LD_HALF, offset),
                jump(op::JUMP_ANY_BIT, bits, (rest, 0)),
            ],
        );
        checks.append(&mut with_ports);
        with_ports = checks;
    }
    let rest = jump_over(&with_ports);
    let mut program = vec![
        outer,
        instruction(op::LD_WORD, one),
        instruction(op::ST, 0),
        instruction(op::LD_WORD, other),
        instruction(op::LDX_MEM, 0),
        instruction(op::XOR_X, 0),
        instruction(op::ST, 0),
        outer,
        instruction(op::LD_BYTE, inner.protocol),
        jump(op::JUMP_EQUAL, libc::IPPROTO_TCP.cast_unsigned(), (1, 0)),
        jump(op::JUMP_EQUAL, libc::IPPROTO_UDP.cast_unsigned(), (0, rest)),
    ];
    program.append(&mut with_ports);
    program.extend([
        instruction(op::LD_MEM, 0),
        instruction(op::MUL, GOLDEN),
        instruction(op::SHIFT_RIGHT, 24),
        instruction(op::MOD, u32::from(parts)),
        jump(op::JUMP_EQUAL, u32::from(part), (0, 1)),
        instruction(op::RETURN, TAKE),
        instruction(op::RETURN, REFUSE),
    ]);
    program
}

fn jump_over(program: &[libc::sock_filter]) -> u8 {
    u8::try_from(program.len()).unwrap_or(u8::MAX)
}
