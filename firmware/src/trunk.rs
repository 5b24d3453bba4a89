//! Trunks: the 802.1Q tag says which port a frame is of (IEEE 802.1Q section 9).

use culvert_core::Frame;

/// Bytes of a tag: the tag protocol identifier and the tag control information.
pub const TAG_LEN: usize = 4;
/// Bytes of both MAC addresses, which stand in front of the tag.
const ADDRESSES: usize = 12;
/// Tag protocol identifier of customer tags.
const TPID: [u8; 2] = [0x81, 0x00];
/// The VLAN identifier's twelve bits; priority and drop eligibility are the others.
const VID: u16 = 0x0fff;
/// The last identifier that a VLAN can have; 4,095 is reserved.
pub const LAST_VID: u16 = 4094;

/// Takes the tag off a frame and returns its VLAN identifier. `None`, and no change,
/// when the frame has no tag or one that is of no VLAN (0, 4,095).
pub fn untag(frame: &mut Frame<'_>) -> Option<u16> {
    let head = frame
        .bytes_mut()
        .first_chunk_mut::<{ ADDRESSES + TAG_LEN }>()?;
    let (addresses, tag) = head.split_first_chunk::<ADDRESSES>()?;
    let [a, b, high, low] = *tag.first_chunk()?;
    let vid = u16::from_be_bytes([high, low]) & VID;
    if [a, b] != TPID || vid == 0 || vid > LAST_VID {
        return None;
    }
    let addresses = *addresses;
    head.last_chunk_mut::<ADDRESSES>()?
        .copy_from_slice(&addresses);
    frame.pop_front(TAG_LEN)?;
    Some(vid)
}

/// Puts a tag with this VLAN identifier and priority 0 onto a frame. `None` when the
/// frame is no Ethernet frame or has no headroom for it.
pub fn tag(frame: &mut Frame<'_>, vid: u16) -> Option<()> {
    let addresses = *frame.bytes().first_chunk::<ADDRESSES>()?;
    frame.push_front::<TAG_LEN>()?;
    let head = frame
        .bytes_mut()
        .first_chunk_mut::<{ ADDRESSES + TAG_LEN }>()?;
    let (front, tag) = head.split_first_chunk_mut::<ADDRESSES>()?;
    *front = addresses;
    let [high, low] = (vid & VID).to_be_bytes();
    let [a, b] = TPID;
    tag.copy_from_slice(&[a, b, high, low]);
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn frame(buffer: &mut [u8], bytes: &[u8]) -> usize {
        buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    }

    #[test]
    fn a_tag_comes_off_as_it_went_on() {
        let plain: Vec<u8> = (0..60).collect();
        for vid in [1, 0x123, LAST_VID] {
            let mut buffer = [0xa5; 256];
            let len = frame(&mut buffer, &plain);
            let mut frame = Frame::new(&mut buffer, Frame::HEADROOM, len).unwrap();
            tag(&mut frame, vid).unwrap();
            let [high, low] = vid.to_be_bytes();
            assert_eq!(frame.bytes()[..12], plain[..12]);
            assert_eq!(frame.bytes()[12..16], [0x81, 0, high, low]);
            assert_eq!(frame.bytes()[16..], plain[12..]);
            assert_eq!(untag(&mut frame), Some(vid));
            assert_eq!(frame.bytes(), plain);
        }
    }

    #[test]
    fn priority_is_not_part_of_the_identifier() {
        let mut bytes = [0; 60];
        bytes[12..16].copy_from_slice(&[0x81, 0, 0xe0 | 0x01, 0x02]);
        let mut buffer = [0; 256];
        let len = frame(&mut buffer, &bytes);
        let mut frame = Frame::new(&mut buffer, Frame::HEADROOM, len).unwrap();
        assert_eq!(untag(&mut frame), Some(0x102));
    }

    #[test]
    fn what_has_no_vlan_stays_as_it_is() {
        let tags: [&[u8]; 6] = [
            &[0x08, 0, 0, 1],
            &[0x88, 0xa8, 0, 1],
            &[0x81, 0, 0, 0],
            &[0x81, 0, 0x0f, 0xff],
            &[0x81, 0, 1],
            &[],
        ];
        for tag in tags {
            let mut bytes = Vec::from([7; 12]);
            bytes.extend_from_slice(tag);
            let mut buffer = [0; 256];
            let len = frame(&mut buffer, &bytes);
            let mut frame = Frame::new(&mut buffer, Frame::HEADROOM, len).unwrap();
            assert_eq!(untag(&mut frame), None, "{tag:x?}");
            assert_eq!(frame.bytes(), bytes);
        }
    }

    #[test]
    fn no_headroom_is_no_tag() {
        let mut buffer = [0; 64];
        let mut frame = Frame::new(&mut buffer, 3, 60).unwrap();
        assert_eq!(tag(&mut frame, 1), None);
        assert_eq!(frame.len(), 60);
    }
}
