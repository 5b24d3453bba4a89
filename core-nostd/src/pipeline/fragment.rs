//! IPv4 fragmentation (RFC 791 section 3.2).

use super::{Context, Exit, Ip, Parsed, deliver, parse};
use crate::frame::copy;
use crate::wire::{ethernet, ipv4};
use crate::{DropReason, Frame, NetworkId, PortId};

/// Options of the first fragment that the others have too (RFC 791 section 3.1)
/// have this bit.
const COPIED: u8 = 0x80;

/// How a packet is cut.
pub(crate) struct Plan {
    header: ipv4::Header,
    /// Payload bytes of the first fragment, a multiple of eight.
    first: usize,
    /// Payload bytes of each fragment but the first and the last.
    step: usize,
    /// The header of the other fragments, with the options that are copied.
    later_header: [u8; 60],
    later_header_len: usize,
}

impl Plan {
    /// Plans the cutting of a packet that is larger than `mtu`, and finishes its
    /// checksum, which its fragments cannot carry unfinished.
    ///
    /// # Errors
    /// A drop when the MTU has no room for any payload.
    pub(crate) fn new(mtu: u16, frame: &mut Frame<'_>) -> Result<Plan, Exit> {
        let mut room = None;
        let mut packet: Ip<'_, '_, Parsed> = parse::ip(frame, &mut room)?;
        deliver::finish_checksum(&mut packet)?;
        let bytes = packet.packet_mut();
        let header = ipv4::Header::parse(bytes).map_err(|_| DropReason::TooBig)?;
        let options = bytes.get(ipv4::HEADER_LEN..usize::from(header.header_len));
        let mut later_header = [0; 60];
        let later_header_len = copy_options(options.unwrap_or_default(), &mut later_header);
        let room = |len: usize| usize::from(mtu).saturating_sub(len) & !7;
        let plan = Plan {
            header,
            first: room(usize::from(header.header_len)),
            step: room(later_header_len),
            later_header,
            later_header_len,
        };
        match plan.first > 0 && plan.step > 0 {
            true => Ok(plan),
            false => Err(DropReason::TooBig.into()),
        }
    }

    fn payload_len(&self) -> usize {
        usize::from(self.header.total_len - u16::from(self.header.header_len))
    }

    /// Fragments besides the first.
    pub(crate) fn further(&self) -> usize {
        self.payload_len()
            .saturating_sub(self.first)
            .div_ceil(self.step)
    }

    /// Writes fragment `index` (0: the second one) of the packet in `whole` into
    /// an empty frame.
    pub(crate) fn write(&self, index: usize, whole: &Frame<'_>, out: &mut Frame<'_>) -> Option<()> {
        let offset = self.first + index * self.step;
        let len = self.step.min(self.payload_len().checked_sub(offset)?);
        let start = ethernet::HEADER_LEN + usize::from(self.header.header_len) + offset;
        let payload = whole.bytes().get(start..start + len)?;
        out.copy_marks(whole);
        out.resize(ethernet::HEADER_LEN + self.later_header_len + len)?;
        let (link, rest) = out
            .bytes_mut()
            .split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
        *link = *whole.bytes().first_chunk()?;
        let (header, rest) = rest.split_at_mut_checked(self.later_header_len)?;
        copy(header, self.later_header.get(..self.later_header_len)?)?;
        copy(rest, payload)?;
        let more = offset + len < self.payload_len() || self.header.more_fragments;
        self.emit(offset, more, header, len)
    }

    /// Cuts the packet in `whole` down to the first fragment.
    pub(crate) fn cut(&self, whole: &mut Frame<'_>) -> Option<()> {
        let header_len = usize::from(self.header.header_len);
        whole.truncate(ethernet::HEADER_LEN + header_len + self.first);
        let packet = whole.bytes_mut().get_mut(ethernet::HEADER_LEN..)?;
        let more = self.first < self.payload_len() || self.header.more_fragments;
        self.emit(0, more, packet.get_mut(..header_len)?, self.first)
    }

    /// Writes the fields of the fragment at `offset` of this packet into a header
    /// whose options are in place.
    fn emit(&self, offset: usize, more: bool, header: &mut [u8], payload: usize) -> Option<()> {
        let fields = ipv4::Header {
            more_fragments: more,
            fragment_offset: self.header.fragment_offset + u16::try_from(offset / 8).ok()?,
            total_len: u16::try_from(header.len() + payload).ok()?,
            ..self.header
        };
        fields.emit_before_options(header)
    }
}

/// Copies those options that every fragment has, padded to four bytes; returns
/// the header's length. Behind a malformed option nothing is copied.
fn copy_options(mut options: &[u8], out: &mut [u8; 60]) -> usize {
    let mut at = ipv4::HEADER_LEN;
    loop {
        let len = match *options {
            [1, ..] => 1,
            [kind, len, ..] if kind != 0 && len >= 2 && usize::from(len) <= options.len() => {
                usize::from(len)
            }
            _ => return at.next_multiple_of(4),
        };
        let (option, rest) = options.split_at(len);
        if option.first().is_some_and(|kind| kind & COPIED != 0)
            && let Some(room) = out.get_mut(at..at + len)
        {
            room.copy_from_slice(option);
            at += len;
        }
        options = rest;
    }
}

/// Sends a fragment on its way; the packet that it is part of was checked.
pub(crate) fn send(
    context: Context<'_, '_>,
    network: NetworkId,
    frame: &mut Frame<'_>,
) -> Result<PortId, Exit> {
    super::send(context, network, frame, true)
}
