//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use crate::MacAddr;

/// Length of an ARP packet for IPv4 over Ethernet in bytes.
pub const PACKET_LEN: usize = 28;

/// The `ar$op` field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// 1.
    Request,
    /// 2.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Request or reply.
    pub operation: Operation,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address; 0.0.0.0 in a probe (RFC 5227 section 1.1).
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: MacAddr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

impl Packet {
    /// Reads a packet; `None` when it is truncated, not for IPv4 over Ethernet,
    /// or neither request nor reply.
    pub fn parse(bytes: &[u8]) -> Option<Packet> {
        let p = bytes.first_chunk::<PACKET_LEN>()?;
        // Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
        if p[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let operation = match [p[6], p[7]] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        Some(Packet {
            operation,
            sender_mac: MacAddr::new([p[8], p[9], p[10], p[11], p[12], p[13]]),
            sender_ip: Ipv4Addr::new(p[14], p[15], p[16], p[17]),
            target_mac: MacAddr::new([p[18], p[19], p[20], p[21], p[22], p[23]]),
            target_ip: Ipv4Addr::new(p[24], p[25], p[26], p[27]),
        })
    }

    /// Writes the packet.
    pub fn emit(&self, out: &mut [u8; PACKET_LEN]) {
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        out[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
        out[8..14].copy_from_slice(&self.sender_mac.bytes());
        out[14..18].copy_from_slice(&self.sender_ip.octets());
        out[18..24].copy_from_slice(&self.target_mac.bytes());
        out[24..28].copy_from_slice(&self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_then_parse_is_identity_and_other_kinds_are_refused() {
        let packet = Packet {
            operation: Operation::Reply,
            sender_mac: MacAddr::new([1, 2, 3, 4, 5, 6]),
            sender_ip: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: MacAddr::new([7, 8, 9, 10, 11, 12]),
            target_ip: Ipv4Addr::new(10, 0, 0, 2),
        };
        let mut out = [0xa5; PACKET_LEN];
        packet.emit(&mut out);
        assert_eq!(Packet::parse(&out), Some(packet));
        assert_eq!(Packet::parse(&out[..27]), None);
        for index in 0..8 {
            let mut wrong = out;
            wrong[index] ^= 0x40;
            assert_eq!(Packet::parse(&wrong), None, "byte {index}");
        }
    }
}
