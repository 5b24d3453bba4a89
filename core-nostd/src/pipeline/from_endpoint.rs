//! From a pod.
//!
//! parse → source guard → (ARP/ND proxy | ping to the gateway) → route → TTL, MTU → [local | host | encap] → fate

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{Arrival, Exit, deliver, forward, guard, local, parse, route};
use crate::tables::entry::{Lookup, NetworkEntry};
use crate::wire::ethernet;
use crate::{DropReason, Fate, Frame};

#[inline(always)]
pub(super) fn run(arrival: &Arrival<'_, '_>, frame: &mut Frame<'_>) -> Result<Fate, Exit> {
    let network = arrival.network.ok_or(DropReason::PortUnknown)?;
    let ethernet = parse::ethernet(frame)?;
    match ethernet.ethertype {
        ethernet::IPV4 => ip::<Ipv4Addr>(arrival, network, &ethernet, frame),
        ethernet::IPV6 => ip::<Ipv6Addr>(arrival, network, &ethernet, frame),
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
fn ip<A: Lookup>(
    arrival: &Arrival<'_, '_>,
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    frame: &mut Frame<'_>,
) -> Result<Fate, Exit> {
    let (context, port) = (arrival.context, arrival.port);
    let packet = parse::ip::<A>(frame)?;
    guard::source_mac(port, ethernet)?;
    if local::is_discovery(&packet) {
        let packet = packet.of_either();
        let message = local::discovery(&packet)?;
        guard::discovery(port, &packet, &message)?;
        return local::discover(network, port, packet, &message);
    }
    let packet = guard::endpoint(context.tables, (network, port), packet)?;
    guard::addressed(network, ethernet, &packet)?;
    if local::is_for_gateway(network, &packet) {
        return local::ip(network, ethernet, packet.of_either());
    }

    let packet = route::lookup(context, packet)?;
    let packet = forward::check(packet)?;
    deliver::deliver(packet).map(Fate::Forward)
}
