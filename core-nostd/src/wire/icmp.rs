//! What ICMP for IPv4 (RFC 792) and for IPv6 (RFC 4443) have in common.

/// Length of the header of echo messages and errors in bytes.
pub const HEADER_LEN: usize = 8;

/// The errors that a gateway sends, under whichever type and code each version
/// of ICMP has for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// There is no route to the destination.
    NoRoute,
    /// There is a route, and nobody with this address.
    HostUnreachable,
    /// The destination does not know the protocol.
    ProtocolUnreachable {
        /// Where the packet names the protocol, in bytes from its start.
        named_at: u16,
    },
    /// Nobody listens on the port.
    PortUnreachable,
    /// The packet is too large for the next hop and may not be fragmented.
    TooBig {
        /// Largest IP packet that fits, in bytes.
        mtu: u16,
    },
    /// TTL or hop limit ran out.
    TtlExceeded,
}
