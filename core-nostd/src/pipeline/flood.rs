//! Flooding: a bounded copy of broadcast and multicast to each local port and
//! peer, for networks that want it. It stays on the overlay's link: no TTL is
//! taken off, and what came from a peer goes to no other.

use super::route::{self, Hop, Way};
use super::{Admitted, Context, Exit, Sender, onward, parse};
use crate::channel::Encap;
use crate::frame::copy;
use crate::tables::entry::{NetworkEntry, PeerEntry, PortEntry, PortRole};
use crate::{DropReason, Frame, NetworkId, PeerId, PortId};

/// Copies that are made of one packet at most.
pub(crate) const MAX_COPIES: usize = 64;

/// Somebody who gets a copy.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Port(PortId),
    Peer(PeerId),
}

/// Who gets a copy of a packet that came in by the context's port, from this peer
/// if from one: the endpoints and the host of the network and, unless it came from
/// the underlay, its peers. A look at every port and peer, once.
pub(crate) fn targets<'t>(
    context: Context<'t, '_>,
    network: NetworkId,
    from: Option<PeerId>,
) -> impl Iterator<Item = Target> + 't {
    let ports = (0..=u16::MAX).zip(context.tables.ports.iter());
    let ports = ports
        .filter(move |(id, port)| {
            let local = matches!(port.role, PortRole::Endpoint | PortRole::Host);
            local && port.network == network && PortId(*id) != context.ingress
        })
        .map(|(id, _)| Target::Port(PortId(id)));
    let peers = (0..=u16::MAX).zip(context.tables.peers.iter());
    let peers = peers
        .filter(move |(_, peer)| from.is_none() && peer.present && peer.network == network)
        .filter(|(_, peer)| tunnel(peer).is_some())
        .map(|(id, _)| Target::Peer(PeerId(id)));
    ports.chain(peers)
}

/// How copies get to a peer; `None` when it takes no tunnel.
fn tunnel(peer: &PeerEntry) -> Option<Encap> {
    let mut tunnels = [Encap::Vxlan, Encap::Ipip].into_iter();
    tunnels.find(|encap| peer.accepts.contains(*encap))
}

/// Copies a packet into an empty frame and sends that to a target; returns the
/// port it leaves by.
pub(crate) fn send(
    context: Context<'_, '_>,
    network_id: NetworkId,
    target: Target,
    (whole, spare): (&Frame<'_>, &mut Frame<'_>),
) -> Result<PortId, Exit> {
    let network = context
        .tables
        .network(network_id)
        .ok_or(DropReason::NoRoute)?;
    let hop = hop(context, network, target)?;
    spare.copy_marks(whole);
    spare.resize(whole.len()).ok_or(DropReason::NoHeadroom)?;
    copy(spare.bytes_mut(), whole.bytes()).ok_or(DropReason::NoHeadroom)?;
    let mut room = None;
    let packet = parse::ip(spare, &mut room)?.with(Admitted { network });
    onward(context, packet, Sender::Copy(hop))
}

fn hop<'t>(
    context: Context<'t, '_>,
    network: &'t NetworkEntry,
    target: Target,
) -> Result<Hop<'t>, Exit> {
    let tables = context.tables;
    match target {
        Target::Port(id) => {
            let port: &PortEntry = tables.port(id).ok_or(DropReason::NoRoute)?;
            Ok(route::local(network, id, port, Way::Endpoint))
        }
        Target::Peer(id) => {
            let peer = tables.peer(id).ok_or(DropReason::NoRoute)?;
            let encap = tunnel(peer).ok_or(DropReason::NoRoute)?;
            route::to_peer(context, network, id, encap)
        }
    }
}
