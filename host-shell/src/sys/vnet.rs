//! The 10-byte virtio-net header that a TAP with `IFF_VNET_HDR` puts before each frame.
//!
//! Layout: `struct virtio_net_hdr` of the virtio specification 1.2, section
//! 5.1.6; all fields little endian, which [`super::tap::Tap`] asks for
//! (`TUNSETVNETLE`).

mod tunnel;

pub use tunnel::{TunnelNetHeader, VnetTunnel};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_ECN`, a bit beside the type.
const GSO_ECN: u8 = 0x80;

/// Why bytes are no header that this side understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Fewer bytes than a header has.
    #[error("a virtio-net header has {wanted} bytes, only {len} are there")]
    Truncated {
        /// How many bytes there were.
        len: usize,
        /// How many a header has.
        wanted: usize,
    },
    /// A segmentation type that was not agreed on.
    #[error("unknown virtio-net segmentation type {gso_type:#04x}")]
    UnknownSegmentation {
        /// The `gso_type` byte.
        gso_type: u8,
    },
}

/// The state of a frame's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VnetChecksum {
    /// Nothing is known: the checksum in the frame is whatever it is.
    #[default]
    None,
    /// The field holds the pseudo-header sum only; the sum over the bytes from
    /// `start` to the frame's end is to be stored at `start + offset`.
    Partial {
        /// Octets from the frame's first byte to where summing starts.
        start: u16,
        /// Octets from `start` to the checksum field.
        offset: u16,
    },
    /// The checksum was verified.
    Valid,
}

/// What a frame larger than the MTU is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VnetSegmentation {
    /// TCP over IPv4 (`GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`GSO_TCPV6`).
    Tcp6,
    /// UDP datagrams over IPv4 or IPv6 (`GSO_UDP_L4`).
    Udp,
}

/// A super-frame's segmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VnetGso {
    /// The kind of segments.
    pub kind: VnetSegmentation,
    /// The TCP segments carry ECN's CWR in the first one only (RFC 3168).
    pub ecn: bool,
    /// Octets of payload in each segment but the last.
    pub size: u16,
}

/// A virtio-net header, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtioNetHeader {
    /// The transport checksum's state.
    pub checksum: VnetChecksum,
    /// How the frame is to be segmented; `None` for an ordinary frame.
    pub gso: Option<VnetGso>,
    /// Octets of headers, Ethernet to transport; a hint, 0 when not known.
    pub hdr_len: u16,
}

impl VirtioNetHeader {
    /// Octets of a header.
    pub const LEN: usize = 10;

    /// Parses the header at the start of `bytes`.
    ///
    /// Flag bits other than the two checksum bits are ignored, as the
    /// specification demands of a side that has not agreed on them. When both are
    /// set the checksum is partial.
    ///
    /// # Errors
    /// [`VnetError`] when there are too few bytes, or a segmentation type that is
    /// not one of those in [`VnetSegmentation`].
    pub fn parse(bytes: &[u8]) -> Result<Self, VnetError> {
        let Some(header) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(VnetError::Truncated {
                len: bytes.len(),
                wanted: Self::LEN,
            });
        };
        let [flags, gso_type, hl0, hl1, gs0, gs1, cs0, cs1, co0, co1] = *header;
        let kind = match gso_type & !GSO_ECN {
            0 => None,
            1 => Some(VnetSegmentation::Tcp4),
            4 => Some(VnetSegmentation::Tcp6),
            5 => Some(VnetSegmentation::Udp),
            _ => return Err(VnetError::UnknownSegmentation { gso_type }),
        };
        let checksum = if flags & NEEDS_CSUM != 0 {
            VnetChecksum::Partial {
                start: u16::from_le_bytes([cs0, cs1]),
                offset: u16::from_le_bytes([co0, co1]),
            }
        } else if flags & DATA_VALID != 0 {
            VnetChecksum::Valid
        } else {
            VnetChecksum::None
        };
        Ok(Self {
            checksum,
            gso: kind.map(|kind| VnetGso {
                kind,
                ecn: gso_type & GSO_ECN != 0,
                size: u16::from_le_bytes([gs0, gs1]),
            }),
            hdr_len: u16::from_le_bytes([hl0, hl1]),
        })
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let (flags, start, offset) = match self.checksum {
            VnetChecksum::None => (0, 0, 0),
            VnetChecksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
            VnetChecksum::Valid => (DATA_VALID, 0, 0),
        };
        let (gso_type, gso_size) = match self.gso {
            None => (0, 0),
            Some(gso) => {
                let kind = match gso.kind {
                    VnetSegmentation::Tcp4 => 1,
                    VnetSegmentation::Tcp6 => 4,
                    VnetSegmentation::Udp => 5,
                };
                (if gso.ecn { kind | GSO_ECN } else { kind }, gso.size)
            }
        };
        let [hl0, hl1] = self.hdr_len.to_le_bytes();
        let [gs0, gs1] = gso_size.to_le_bytes();
        let [cs0, cs1] = start.to_le_bytes();
        let [co0, co1] = offset.to_le_bytes();
        [flags, gso_type, hl0, hl1, gs0, gs1, cs0, cs1, co0, co1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_frame_has_an_all_zero_header() {
        assert_eq!(VirtioNetHeader::default().emit(), [0; 10]);
        assert_eq!(
            VirtioNetHeader::parse(&[0; 10]),
            Ok(VirtioNetHeader::default())
        );
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let header = VirtioNetHeader {
            checksum: VnetChecksum::Partial {
                start: 0x0122,
                offset: 0x0010,
            },
            gso: Some(VnetGso {
                kind: VnetSegmentation::Tcp4,
                ecn: true,
                size: 0x05a8,
            }),
            hdr_len: 0x0042,
        };
        let bytes = [1, 0x81, 0x42, 0, 0xa8, 5, 0x22, 1, 0x10, 0];
        assert_eq!(header.emit(), bytes);
        assert_eq!(VirtioNetHeader::parse(&bytes), Ok(header));
    }

    #[test]
    fn every_combination_survives_the_round_trip() {
        for checksum in [
            VnetChecksum::None,
            VnetChecksum::Valid,
            VnetChecksum::Partial {
                start: 34,
                offset: 16,
            },
        ] {
            for kind in [
                VnetSegmentation::Tcp4,
                VnetSegmentation::Tcp6,
                VnetSegmentation::Udp,
            ] {
                for ecn in [false, true] {
                    let gso = Some(VnetGso {
                        kind,
                        ecn,
                        size: 1448,
                    });
                    let header = VirtioNetHeader {
                        checksum,
                        gso,
                        hdr_len: 66,
                    };
                    assert_eq!(VirtioNetHeader::parse(&header.emit()), Ok(header));
                }
            }
        }
    }

    #[test]
    fn short_and_unknown_headers_are_errors() {
        for len in 0..10 {
            assert_eq!(
                VirtioNetHeader::parse(&[0; 10][..len]),
                Err(VnetError::Truncated { len, wanted: 10 })
            );
        }
        // 3 is UFO, 0x20 and 0x40 are tunnels: neither is agreed on.
        for gso_type in [2, 3, 6, 0x20, 0x21, 0x40, 0x7f] {
            let bytes = [0, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(
                VirtioNetHeader::parse(&bytes),
                Err(VnetError::UnknownSegmentation { gso_type })
            );
        }
    }

    #[test]
    fn any_ten_bytes_parse_or_are_refused_and_what_follows_does_not_matter() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let bytes = [first, second, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff];
                assert_eq!(
                    VirtioNetHeader::parse(&bytes),
                    VirtioNetHeader::parse(&bytes[..10])
                );
            }
        }
    }
}
