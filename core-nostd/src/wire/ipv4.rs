//! IPv4 (RFC 791).

use core::net::Ipv4Addr;

use super::checksum;

/// Length of a header without options in bytes.
pub const HEADER_LEN: usize = 20;
/// Version and header length of a header without options.
const WITHOUT_OPTIONS: u8 = 0x45;

/// Why a header was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Shorter than 20 bytes.
    Truncated,
    /// The version is not 4.
    Version,
    /// IHL is below 5 or beyond the packet.
    HeaderLength,
    /// The total length is below the header's or beyond the slice, or the
    /// fragment reaches beyond the largest packet.
    TotalLength,
    /// The header checksum is wrong.
    Checksum,
}

/// An IPv4 header; options are passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Type of service octet: DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub ident: u16,
    /// Don't-fragment flag.
    pub dont_fragment: bool,
    /// More-fragments flag.
    pub more_fragments: bool,
    /// Fragment offset in units of eight bytes.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Header length in bytes, 20 to 60.
    pub header_len: u8,
    /// Header and payload in bytes.
    pub total_len: u16,
}

impl Header {
    /// Reads and checks a header: version, lengths within the slice, checksum.
    ///
    /// # Errors
    /// [`Error`] says which check failed, in the order of its variants.
    #[inline(always)]
    pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
        let h = bytes.first_chunk::<HEADER_LEN>().ok_or(Error::Truncated)?;
        let total_len = u16::from_be_bytes([h[2], h[3]]);
        let header_len = match h[0] {
            WITHOUT_OPTIONS => 20,
            first => header_len_with_options(first, bytes)?,
        };
        if total_len < u16::from(header_len) || usize::from(total_len) > bytes.len() {
            return Err(Error::TotalLength);
        }
        let right = match header_len {
            20 => checksum::is_right(h),
            _ => has_right_checksum(bytes.get(..usize::from(header_len)).unwrap_or_default()),
        };
        if !right {
            return Err(Error::Checksum);
        }
        let fragment = u16::from_be_bytes([h[6], h[7]]);
        // Cut once more, its parts would have offsets that begin anew.
        if u32::from(fragment & 0x1fff) * 8 + u32::from(total_len) > u32::from(u16::MAX) {
            return Err(Error::TotalLength);
        }
        Ok(Header {
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]),
            tos: h[1],
            ident: u16::from_be_bytes([h[4], h[5]]),
            dont_fragment: fragment & 0x4000 != 0,
            more_fragments: fragment & 0x2000 != 0,
            fragment_offset: fragment & 0x1fff,
            ttl: h[8],
            protocol: h[9],
            header_len,
            total_len,
        })
    }

    /// Writes a header without options and with a correct checksum;
    /// `header_len` is not looked at.
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let fragment = u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment_offset & 0x1fff;
        out[0] = 0x45;
        out[1] = self.tos;
        out[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        out[4..6].copy_from_slice(&self.ident.to_be_bytes());
        out[6..8].copy_from_slice(&fragment.to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[10..12].fill(0);
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
        let sum = checksum::finish(checksum::sum(out));
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    /// Writes the fields into a header whose options are in place, and with them a
    /// correct checksum; the header's length is the slice's. `None`, and no
    /// change, when that is impossible.
    pub fn emit_before_options(&self, header: &mut [u8]) -> Option<()> {
        let words = u8::try_from(header.len() / 4).ok()?;
        if !header.len().is_multiple_of(4) || !(5..=15).contains(&words) {
            return None;
        }
        let fixed = header.first_chunk_mut::<HEADER_LEN>()?;
        self.emit(fixed);
        fixed[0] = 0x40 | words;
        fixed[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(header));
        let field = header.get_mut(10..12)?;
        field.copy_from_slice(&sum.to_be_bytes());
        Some(())
    }

    /// Whether this is a fragment of a larger packet.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// Whether the checksum of a header with options is right.
#[cold]
fn has_right_checksum(header: &[u8]) -> bool {
    checksum::fold(checksum::sum(header)) == 0xffff
}

/// The length in bytes of a header that begins with this byte and may have options.
#[cold]
fn header_len_with_options(first: u8, bytes: &[u8]) -> Result<u8, Error> {
    if first >> 4 != 4 {
        return Err(Error::Version);
    }
    let header_len = (first & 0x0f) * 4;
    match usize::from(header_len) {
        HEADER_LEN.. if usize::from(header_len) <= bytes.len() => Ok(header_len),
        _ => Err(Error::HeaderLength),
    }
}

/// Whether a single host can have this address as seen from another: not
/// 0.0.0.0/8, loopback, multicast or broadcast (RFC 1122 section 3.2.1.3).
/// 240.0.0.0/4 counts as hosts: networks use it.
#[inline(always)]
pub fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast()
}

/// Whether the header's options route the packet by its sender's wish (loose or
/// strict source route, RFC 791 section 3.1). `header` ends where the options
/// end; behind a malformed option nothing is read.
pub fn has_source_route(header: &[u8]) -> bool {
    let mut options = header.get(HEADER_LEN..).unwrap_or_default();
    loop {
        options = match *options {
            [131 | 137, ..] => return true,
            [1, ref rest @ ..] => rest,
            [kind, len, ..] if kind != 0 && len >= 2 => {
                options.get(usize::from(len)..).unwrap_or_default()
            }
            _ => return false,
        };
    }
}

/// Lowers the TTL of the header at the front of `bytes` by one and updates its
/// checksum (RFC 1624). A TTL of 0 and a truncated header are left alone.
#[inline(always)]
pub fn decrement_ttl(bytes: &mut [u8]) {
    if let Some(header) = bytes.first_chunk_mut::<HEADER_LEN>()
        && header[8] != 0
    {
        lower_ttl(header);
    }
}

/// As [`decrement_ttl`], at the front of bytes that are known to have a header whose
/// TTL is not 0.
#[inline(always)]
pub(crate) fn lower_ttl<const N: usize>(bytes: &mut [u8; N]) {
    let rest = bytes.get_mut(8..);
    let Some(place) = rest.and_then(|rest| rest.first_chunk_mut()) else {
        return;
    };
    // Read backwards, the TTL is the lowest byte and the checksum the upper half, in
    // which what is 0x100 on the wire is 1: it rises by that, and its carry goes round.
    let word = u32::from_le_bytes(*place);
    let (_, carry) = word.overflowing_add(0x0002_0000);
    let word = word.wrapping_add(0x0001_0000 - 1 + (u32::from(carry) << 16));
    *place = word.to_le_bytes();
}

/// Sets the ECN field (RFC 3168) of the header at the front of `bytes` and
/// updates its checksum. A truncated header is left alone.
pub fn set_ecn(bytes: &mut [u8], ecn: u8) {
    if let Some(h) = bytes.first_chunk_mut::<HEADER_LEN>() {
        let tos = h[1] & !3 | ecn & 3;
        replace_word(h, 0, [h[0], tos]);
    }
}

/// Replaces addresses and TTL of the header at the front of `bytes` and updates
/// its checksum. A truncated header is left alone.
pub fn set_addresses_and_ttl(bytes: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, ttl: u8) {
    let Some(h) = bytes.first_chunk_mut::<HEADER_LEN>() else {
        return;
    };
    let [a, b, c, d] = src.octets();
    replace_word(h, 12, [a, b]);
    replace_word(h, 14, [c, d]);
    let [a, b, c, d] = dst.octets();
    replace_word(h, 16, [a, b]);
    replace_word(h, 18, [c, d]);
    replace_word(h, 8, [ttl, h[9]]);
}

/// Sets total length and identification of the header at the front of `bytes` and
/// updates its checksum. A truncated header is left alone.
pub fn set_length_and_ident(bytes: &mut [u8], total_len: u16, ident: u16) {
    if let Some(h) = bytes.first_chunk_mut::<HEADER_LEN>() {
        replace_word(h, 2, total_len.to_be_bytes());
        replace_word(h, 4, ident.to_be_bytes());
    }
}

/// Replaces the 16-bit word at an even offset and updates the header checksum.
fn replace_word(h: &mut [u8; HEADER_LEN], at: usize, new: [u8; 2]) {
    let checksum = u16::from_be_bytes([h[10], h[11]]);
    let Some(word) = h.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return;
    };
    let old = core::mem::replace(word, new);
    let updated = checksum::update(checksum, u16::from_be_bytes(old), u16::from_be_bytes(new));
    h[10..12].copy_from_slice(&updated.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Header {
        Header {
            src: Ipv4Addr::new(10, 244, 1, 2),
            dst: Ipv4Addr::new(10, 244, 2, 3),
            tos: 0x2a,
            ident: 0xbeef,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: crate::wire::ip::UDP,
            header_len: 20,
            total_len: 20,
        }
    }

    #[test]
    fn emit_then_parse_is_identity() {
        let mut out = [0xa5; HEADER_LEN];
        let header = example();
        header.emit(&mut out);
        assert_eq!(Header::parse(&out), Ok(header));
        let fragment = Header {
            dont_fragment: false,
            more_fragments: true,
            fragment_offset: 0x1ffd,
            ..header
        };
        fragment.emit(&mut out);
        assert_eq!(Header::parse(&out), Ok(fragment));
        assert!(fragment.is_fragment() && !header.is_fragment());
    }

    #[test]
    fn every_version_and_header_length() {
        let mut out = [0; 60];
        example().emit(out.first_chunk_mut().unwrap());
        for first in 0..=255u8 {
            for len in [0, 19, 20, 24, 59, 60] {
                let mut bytes = out;
                bytes[0] = first;
                let ihl = usize::from(first & 15) * 4;
                let expected = if len < 20 {
                    Err(Error::Truncated)
                } else if first >> 4 != 4 {
                    Err(Error::Version)
                } else if ihl < 20 || ihl > len {
                    Err(Error::HeaderLength)
                } else if ihl > 20 {
                    Err(Error::TotalLength)
                } else {
                    Ok(())
                };
                assert_eq!(Header::parse(&bytes[..len]).map(|_| ()), expected);
            }
        }
    }

    #[test]
    fn a_single_wrong_bit_is_seen() {
        let mut out = [0; HEADER_LEN];
        example().emit(&mut out);
        for bit in 0..160 {
            let mut bytes = out;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lowering_a_ttl_updates_every_checksum_as_rfc_1624_says() {
        let mut out = [0; HEADER_LEN];
        for old in 0..=u16::MAX {
            [out[8], out[9]] = [0x40, 0x11];
            [out[10], out[11]] = old.to_be_bytes();
            decrement_ttl(&mut out);
            let expected = checksum::update(old, 0x4011, 0x3f11);
            assert_eq!(u16::from_be_bytes([out[10], out[11]]), expected, "{old:#x}");
        }
    }

    #[test]
    fn ttl_and_ecn_updates_keep_the_checksum_right() {
        let mut out = [0; HEADER_LEN];
        for ttl in 1..=255u8 {
            Header { ttl, ..example() }.emit(&mut out);
            decrement_ttl(&mut out);
            assert_eq!(Header::parse(&out).unwrap().ttl, ttl - 1);
            set_ecn(&mut out, 3);
            assert_eq!(Header::parse(&out).unwrap().tos, 0x2b);
        }
        Header {
            ttl: 0,
            ..example()
        }
        .emit(&mut out);
        decrement_ttl(&mut out);
        assert_eq!(Header::parse(&out).unwrap().ttl, 0);
    }
}
