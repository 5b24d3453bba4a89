//! The 24-byte virtio-net header of a TAP that is offered whole tunnel packets.
//!
//! Layout: `struct virtio_net_hdr_v1_hash_tunnel` of Linux 6.17, of which a TAP uses the
//! first ten bytes, as in [`VirtioNetHeader`], and the last four; all fields little endian.

use super::{VirtioNetHeader, VnetError};

/// `VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM`.
const OUTER_CHECKSUM: u8 = 8;
/// `VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4`.
const OVER_V4: u8 = 0x20;
/// `VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6`.
const OVER_V6: u8 = 0x40;

/// Where the outer and inner headers of a tunnel super-frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VnetTunnel {
    /// The outer IP header is IPv6.
    pub over_v6: bool,
    /// Each segment is to have an outer UDP checksum; the field holds the sum of the
    /// pseudo-header. Otherwise it is zero.
    pub checksum: bool,
    /// Octets from the frame's first byte to the outer UDP header.
    pub outer_transport: u16,
    /// Octets from the frame's first byte to the inner IP header.
    pub inner_network: u16,
}

/// A header of 24 bytes, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TunnelNetHeader {
    /// As without tunnels; of a tunnel super-frame checksum and segmentation are those
    /// of the inner packet, counted from the frame's first byte.
    pub frame: VirtioNetHeader,
    /// Where the headers of a super-frame in a UDP tunnel are.
    pub tunnel: Option<VnetTunnel>,
}

impl TunnelNetHeader {
    /// Octets of a header.
    pub const LEN: usize = 24;

    /// Parses the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`VnetError`] when there are too few bytes, for a segmentation type that was not
    /// agreed on, a tunnel over both IP versions, and one whose frame is no super-frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, VnetError> {
        let Some(header) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(VnetError::Truncated {
                len: bytes.len(),
                wanted: Self::LEN,
            });
        };
        let [flags, gso_type, ..] = *header;
        let mut plain = *header;
        plain[1] = gso_type & !(OVER_V4 | OVER_V6);
        let frame = VirtioNetHeader::parse(&plain)?;
        let over_v6 = match gso_type & (OVER_V4 | OVER_V6) {
            0 => {
                return Ok(Self {
                    frame,
                    tunnel: None,
                });
            }
            OVER_V4 if frame.gso.is_some() => false,
            OVER_V6 if frame.gso.is_some() => true,
            _ => return Err(VnetError::UnknownSegmentation { gso_type }),
        };
        let [.., th0, th1, nh0, nh1] = *header;
        Ok(Self {
            frame,
            tunnel: Some(VnetTunnel {
                over_v6,
                checksum: flags & OUTER_CHECKSUM != 0,
                outer_transport: u16::from_le_bytes([th0, th1]),
                inner_network: u16::from_le_bytes([nh0, nh1]),
            }),
        })
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..VirtioNetHeader::LEN].copy_from_slice(&self.frame.emit());
        if let Some(tunnel) = &self.tunnel {
            bytes[0] |= if tunnel.checksum { OUTER_CHECKSUM } else { 0 };
            bytes[1] |= if tunnel.over_v6 { OVER_V6 } else { OVER_V4 };
            bytes[20..22].copy_from_slice(&tunnel.outer_transport.to_le_bytes());
            bytes[22..24].copy_from_slice(&tunnel.inner_network.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::{VnetChecksum, VnetGso, VnetSegmentation};
    use super::*;

    fn super_frame(over_v6: bool, checksum: bool) -> TunnelNetHeader {
        TunnelNetHeader {
            frame: VirtioNetHeader {
                checksum: VnetChecksum::Partial {
                    start: 84,
                    offset: 16,
                },
                gso: Some(VnetGso {
                    kind: VnetSegmentation::Tcp4,
                    ecn: false,
                    size: 0x0582,
                }),
                hdr_len: 104,
            },
            tunnel: Some(VnetTunnel {
                over_v6,
                checksum,
                outer_transport: 34,
                inner_network: 64,
            }),
        }
    }

    #[test]
    fn fields_are_where_linux_has_them() {
        let mut bytes = [0; 24];
        bytes[..10].copy_from_slice(&[1 | 8, 1 | 0x20, 104, 0, 0x82, 5, 84, 0, 16, 0]);
        bytes[20..].copy_from_slice(&[34, 0, 64, 0]);
        assert_eq!(super_frame(false, true).emit(), bytes);
        assert_eq!(TunnelNetHeader::parse(&bytes), Ok(super_frame(false, true)));
        bytes[0] = 1;
        bytes[1] = 1 | 0x40;
        assert_eq!(super_frame(true, false).emit(), bytes);
        assert_eq!(TunnelNetHeader::parse(&bytes), Ok(super_frame(true, false)));
    }

    #[test]
    fn without_a_tunnel_it_is_the_short_header_and_zeros() {
        let frame = super_frame(false, false).frame;
        let header = TunnelNetHeader {
            frame,
            tunnel: None,
        };
        let bytes = header.emit();
        assert_eq!(bytes[..10], frame.emit());
        assert_eq!(bytes[10..], [0; 14]);
        assert_eq!(TunnelNetHeader::parse(&bytes), Ok(header));
        assert_eq!(TunnelNetHeader::default().emit(), [0; 24]);
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        for len in 0..24 {
            assert!(matches!(
                TunnelNetHeader::parse(&[0; 24][..len]),
                Err(VnetError::Truncated { .. })
            ));
        }
        // Both IP versions, a tunnel of no super-frame, and types that are none.
        for gso_type in [0x61, 0x20, 0x40, 0xa0, 0x22, 0x43, 0x07] {
            let mut bytes = [0; 24];
            bytes[1] = gso_type;
            assert!(
                matches!(
                    TunnelNetHeader::parse(&bytes),
                    Err(VnetError::UnknownSegmentation { .. })
                ),
                "{gso_type:#x}"
            );
        }
    }
}
