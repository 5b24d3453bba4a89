//! UDP (RFC 768).

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// A header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Header and payload in bytes.
    pub len: u16,
    /// Checksum as it is in the header; 0: none.
    pub checksum: u16,
}

impl Header {
    /// Reads the header of a datagram; `None` when it is truncated or its length
    /// is below the header's or beyond the slice.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let h = bytes.first_chunk::<HEADER_LEN>()?;
        let len = u16::from_be_bytes([h[4], h[5]]);
        let fits = (HEADER_LEN..=bytes.len()).contains(&usize::from(len));
        fits.then_some(Header {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            len,
            checksum: u16::from_be_bytes([h[6], h[7]]),
        })
    }

    /// Writes the header.
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..6].copy_from_slice(&self.len.to_be_bytes());
        out[6..].copy_from_slice(&self.checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_then_parse_is_identity_and_wrong_lengths_are_refused() {
        let mut out = [0xa5; 12];
        for len in 0..20 {
            let header = Header {
                src_port: 49_153,
                dst_port: 4789,
                len,
                checksum: 0xbeef,
            };
            header.emit(out.first_chunk_mut().unwrap());
            let expected = (8..=12).contains(&len).then_some(header);
            assert_eq!(Header::parse(&out), expected, "{len}");
        }
        assert_eq!(Header::parse(&out[..7]), None);
    }
}
