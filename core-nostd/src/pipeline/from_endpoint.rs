//! From a pod.
//!
//! parse → source guard → (ARP proxy | ping to the gateway) → route → TTL, MTU → [local | host | encap] → fate

use super::{Exit, deliver, forward, guard, local, parse, route};
use crate::tables::Tables;
use crate::tables::entry::PortEntry;
use crate::{DropReason, Fate, Frame};

pub(super) fn run(
    tables: &Tables<'_>,
    port: &PortEntry,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let network = tables
        .network(port.network)
        .ok_or(DropReason::PortUnknown)?;

    let (ethernet, packet) = match parse::frame(frame)? {
        parse::Kind::Arp(frame, ethernet, arp) => {
            guard::arp(port, &ethernet, &arp)?;
            return local::arp(network, frame, &arp);
        }
        parse::Kind::Ip(ethernet, packet) => (ethernet, packet),
    };

    let packet = guard::endpoint(tables, (network, port), &ethernet, packet)?;
    guard::addressed(network, &ethernet)?;
    if local::is_for_gateway(network, &packet) {
        return local::ip(network, &ethernet, packet);
    }

    let packet = route::lookup(tables, packet)?;
    let packet = forward::check(packet)?;
    deliver::deliver(packet).map(Fate::Forward)
}
