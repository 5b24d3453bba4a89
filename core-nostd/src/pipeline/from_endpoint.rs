//! From a pod.
//!
//! parse → source guard → (ARP/ND proxy | ping to the gateway) → route → TTL, MTU → [local | host | encap] → fate

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
        ethernet::ARP => arp(arrival, network, &ethernet, frame),
        other => Err(parse::refuse(other)),
    }
}

#[cold]
#[inline(never)]
fn arp(
    arrival: &Arrival<'_, '_>,
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let packet = parse::arp(frame)?;
    guard::arp(arrival.port, ethernet, &packet)?;
    local::arp(network, arrival.port, frame, &packet)
}

#[inline(always)]
fn ip(
    arrival: &Arrival<'_, '_>,
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let (context, port) = (arrival.context, arrival.port);
    let mut room = None;
    let packet = parse::ip_of(frame, &mut room, ethernet.ethertype == ethernet::IPV6)?;
    guard::source_mac(port, ethernet)?;
    if local::is_discovery(&packet) {
        let message = local::discovery(&packet)?;
        guard::discovery(port, &packet, &message)?;
        return local::discover(network, port, packet, &message);
    }
    let packet = guard::endpoint(context.tables, (network, port), packet)?;
    guard::addressed(network, ethernet, &packet)?;
    if local::is_for_gateway(network, &packet) {
        return local::ip(network, ethernet, packet);
    }

    onward(context, packet, Sender::Endpoint).map(Fate::Forward)
}
