//! From the host's own network stack, which is trusted with its sources.
//!
//! parse → (ARP/ND proxy | ping to the gateway) → route → TTL, MTU → [local | encap] → fate

use super::{Context, Exit, deliver, forward, guard, local, parse, route};
use crate::tables::entry::PortEntry;
use crate::{DropReason, Fate, Frame};

#[inline(always)]
pub(super) fn run(
    context: Context<'_, '_>,
    port: &PortEntry,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let network = context
        .tables
        .network(port.network)
        .ok_or(DropReason::PortUnknown)?;

    let (ethernet, packet) = match parse::frame(frame)? {
        parse::Kind::Arp(frame, _, arp) => return local::arp(network, port, frame, &arp),
        parse::Kind::Ip(ethernet, packet) => (ethernet, packet),
    };

    if let Some(message) = local::discovery(&packet)? {
        return local::discover(network, port, packet, &message);
    }
    let packet = guard::host(network, packet)?;
    guard::addressed(network, &ethernet, &packet)?;
    if local::is_for_gateway(network, &packet) {
        return local::ip(network, &ethernet, packet);
    }

    let packet = route::lookup(context, packet)?;
    forward::leaves_host(&packet)?;
    let packet = forward::check(packet)?;
    deliver::deliver(packet).map(Fate::Forward)
}
