//! From the underlay: a packet of another node, in a tunnel or, by a raw port, not.
//!
//! (outer headers |) outer → decap → parse inner → peer guard → route → TTL, MTU → [local | host | transit] → fate

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{Arrival, Context, Exit, decap, deliver, forward, guard, outer, parse, route};
use crate::tables::entry::{Lookup, PortRole};
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
    match opened.v6 {
        false => ip::<Ipv4Addr>(context, &opened, frame),
        true => ip::<Ipv6Addr>(context, &opened, frame),
    }
}

#[inline(always)]
fn ip<A: Lookup>(
    context: Context<'_, '_>,
    opened: &decap::Opened<'_>,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let packet = parse::ip::<A>(frame)?;
    let packet = guard::peer(context.tables, opened, packet)?;
    let packet = decap::restore_offload(context.tables, opened, packet)?;
    let packet = decap::merge_ecn(packet, opened.outer_tos)?;
    let from = Some(opened.peer.0);
    guard::floods(opened.network, opened.for_all, &packet, from)?;

    let packet = route::lookup(context, packet)?;
    forward::transits(&packet, opened.peer)?;
    let packet = forward::check(packet)?;
    deliver::deliver(packet).map(Fate::Forward)
}
