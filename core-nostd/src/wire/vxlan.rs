//! VXLAN (RFC 7348 section 5).

use crate::Vni;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// The I flag: the VNI is valid.
const FLAG_VNI: u8 = 0x08;

/// Why a VXLAN header was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Shorter than the header.
    Truncated,
    /// The I flag is not set.
    NoVni,
}

/// Reads the header's VNI. Other flags and reserved bits are ignored on
/// receipt, as the RFC demands.
///
/// # Errors
/// [`Error`] when the slice is too short or the I flag is not set.
#[inline(always)]
pub fn parse(bytes: &[u8]) -> Result<Vni, Error> {
    let h = bytes.first_chunk::<HEADER_LEN>().ok_or(Error::Truncated)?;
    if h[0] & FLAG_VNI == 0 {
        return Err(Error::NoVni);
    }
    let vni = u32::from_be_bytes([h[4], h[5], h[6], h[7]]) >> 8;
    Vni::new(vni).map_err(|_| Error::NoVni)
}

/// Writes a header with the I flag, this VNI and zero in all reserved bits.
#[inline(always)]
pub fn emit(vni: Vni, out: &mut [u8; HEADER_LEN]) {
    let [_, a, b, c] = vni.number().to_be_bytes();
    *out = [FLAG_VNI, 0, 0, 0, a, b, c, 0];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_i_flag_decides_for_every_flag_byte() {
        let vni = Vni::new(0x00ab_cdef).unwrap();
        let mut out = [0xa5; HEADER_LEN];
        emit(vni, &mut out);
        assert_eq!(out, [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        for flags in 0..=255u8 {
            let header = [flags, 0xff, 0xff, 0xff, 0xab, 0xcd, 0xef, 0xff];
            let expected = if flags & 8 != 0 {
                Ok(vni)
            } else {
                Err(Error::NoVni)
            };
            assert_eq!(parse(&header), expected, "flags {flags:#04x}");
        }
        assert_eq!(parse(&out[..7]), Err(Error::Truncated));
    }
}
