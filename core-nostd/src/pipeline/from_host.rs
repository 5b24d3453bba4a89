//! From the host's own network stack, which is trusted with its sources.
//!
//! parse → (ARP/ND proxy | ping to the gateway) → route → TTL, MTU → [local | encap] → fate

use super::{Arrival, Exit, Sender, guard, local, onward, parse};
use crate::tables::entry::NetworkEntry;
use crate::wire::ethernet;
use crate::{DropReason, Fate, Frame};

#[inline(always)]
pub(super) fn run(arrival: &Arrival<'_, '_>, frame: &mut Frame<'_>) -> Result<Fate, Exit> {
    let network = arrival.network.ok_or(DropReason::PortUnknown)?;
    let ethernet = parse::ethernet(frame)?;
    match ethernet.ethertype {
        ethernet::IPV4 | ethernet::IPV6 => ip(arrival, network, &ethernet, frame),
        ethernet::ARP => local::arp(network, arrival.port, frame, &parse::arp(frame)?),
        other => Err(parse::refuse(other)),
    }
}

#[inline(always)]
fn ip(
    arrival: &Arrival<'_, '_>,
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let mut room = None;
    let packet = parse::ip_of(frame, &mut room, ethernet.ethertype == ethernet::IPV6)?;
    if local::is_discovery(&packet) {
        let message = local::discovery(&packet)?;
        return local::discover(network, arrival.port, packet, &message);
    }
    let packet = guard::host(network, packet)?;
    guard::addressed(network, ethernet, &packet)?;
    if local::is_for_gateway(network, &packet) {
        return local::ip(network, ethernet, packet);
    }

    onward(arrival.context, packet, Sender::Host).map(Fate::Forward)
}
