//! From the underlay: a packet of another node, in a tunnel or, by a raw port, not.
//!
//! (outer headers |) outer → decap → parse inner → peer guard → route → TTL, MTU → [local | host | transit] → fate

use super::{Arrival, Exit, Sender, decap, guard, onward, outer, parse};
use crate::tables::entry::PortRole;
use crate::{Fate, Frame, NetworkId};

/// `network_id` receives the packet's network as soon as it is known, for ICMP errors.
#[inline(always)]
pub(super) fn run(
    arrival: &Arrival<'_, '_>,
    frame: &mut Frame<'_>,
    network_id: &mut NetworkId,
) -> Result<Fate, Exit> {
    let context = arrival.context;
    let direct = match arrival.port.role {
        PortRole::Wire => match outer::receive(context, arrival.port, frame)? {
            outer::Arrival::Local(fate) => return Ok(fate),
            outer::Arrival::Direct(opened) => Some(opened),
            outer::Arrival::Tunnel => None,
        },
        _ => None,
    };
    let opened = match direct {
        Some(opened) => opened,
        None => decap::open(context, frame)?,
    };
    *network_id = opened.network.id;

    let mut room = None;
    let packet = parse::ip_of(frame, &mut room, opened.v6)?;
    let packet = guard::peer(context.tables, &opened, packet)?;
    let packet = decap::restore_offload(context.tables, &opened, packet)?;
    let packet = decap::merge_ecn(packet, opened.outer_tos)?;
    let (from, peer) = opened.peer;
    guard::floods(opened.network, opened.for_all, &packet, Some(from))?;

    onward(context, packet, Sender::Peer(from, peer)).map(Fate::Forward)
}
