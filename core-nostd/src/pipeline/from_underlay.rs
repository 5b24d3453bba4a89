//! From the underlay: a tunnel packet of another node.
//!
//! outer → decap → peer guard → parse inner → route → TTL, MTU → [local | host] → fate

use super::{Exit, decap, deliver, forward, guard, parse, route};
use crate::tables::Tables;
use crate::{DropReason, Fate, Frame, NetworkId, PortId};

/// `network_id` receives the packet's network as soon as it is known, for ICMP errors.
pub(super) fn run(
    tables: &Tables<'_>,
    ingress: PortId,
    frame: &mut Frame<'_>,
    network_id: &mut NetworkId,
) -> Result<Fate, Exit> {
    let decap::Opened {
        network,
        peer,
        outer_tos,
    } = decap::open(tables, ingress, frame)?;
    *network_id = network.id;

    let packet = parse::ip(frame)?;
    let packet = guard::peer(tables, network, peer, packet)?;
    let packet = decap::restore_offload(tables, network, packet)?;
    let packet = decap::merge_ecn(packet, outer_tos)?;

    let packet = route::lookup(tables, packet)?;
    if forward::is_tunnel(&packet) {
        return Err(DropReason::TransitDenied.into());
    }
    let packet = forward::check(packet)?;
    deliver::deliver(packet).map(Fate::Forward)
}
