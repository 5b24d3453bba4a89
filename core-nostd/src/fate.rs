//! What can happen to a frame, and the counters that tell how often it did.
//!
//! To add a drop reason: add one entry to the `drop_reasons!` list below and
//! return it from the one place where it happens. Its counter, its name and its
//! text in `culvert counters` follow from the entry; `tests/fates/` fails
//! until a test reaches it.

use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, Immutable};

use crate::PortId;

/// The verdict on one received frame. Each frame has exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Send it out of this port.
    Forward(PortId),
    /// It was turned round: send it out of the port it came from.
    Reply,
    /// It was for the gateway and is done.
    Consume,
    /// Copies of it are among the frames that the gateway made; it is done itself.
    Flood,
    /// It is for the shell: it came in by a raw port for this node's own underlay
    /// address and is as it was.
    Punt,
    /// The core keeps it until the neighbor that it goes to has answered; its
    /// buffer is free.
    Queue,
    /// Discard it; the reason is counted.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($( $variant:ident $name:literal $help:literal )*) => {
        /// Why a frame was dropped. One reason for one place in the code.
        ///
        /// The numbers are part of the control channel: append, never reorder.
        #[derive(
            Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, FromZeros, Immutable,
        )]
        #[repr(u16)]
        pub enum DropReason {
            $( #[doc = $help] $variant, )*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$( DropReason::$variant, )*];

            /// The reason's name, as `culvert counters` prints it.
            pub const fn name(self) -> &'static str {
                match self { $( DropReason::$variant => $name, )* }
            }

            /// What happened, and what an operator may do about it.
            pub const fn help(self) -> &'static str {
                match self { $( DropReason::$variant => $help, )* }
            }
        }
    };
}

drop_reasons! {
    PortUnknown "port-unknown" "The frame came in by a port that the core has no entry for; its attachment is being added or removed."
    FrameTruncated "frame-truncated" "Shorter than its Ethernet header."
    VlanTagged "vlan-tagged" "The frame has an 802.1Q or 802.1ad tag; pods send untagged frames."
    NotIp "not-ip" "Neither IPv4, IPv6 nor ARP."
    ArpMalformed "arp-malformed" "An ARP packet that is truncated or not for IPv4 over Ethernet (RFC 826)."
    ArpSenderMac "arp-sender-mac" "Source guard: the ARP sender's hardware address is not the endpoint's."
    ArpSenderIp "arp-sender-ip" "Source guard: the ARP sender's address is not one of the endpoint's."
    ArpTarget "arp-target" "An ARP request for an address that the gateway does not answer for."
    Ipv4Truncated "ipv4-truncated" "Shorter than an IPv4 header."
    Ipv4Version "ipv4-version" "The version field is not 4."
    Ipv4HeaderLength "ipv4-header-length" "The header length (IHL) is below 20 bytes or beyond the packet."
    Ipv4TotalLength "ipv4-total-length" "The total length is below the header's or beyond the frame, or the fragment reaches beyond 65,535 bytes."
    Ipv4Checksum "ipv4-checksum" "The IPv4 header checksum is wrong."
    Ipv6Truncated "ipv6-truncated" "Shorter than an IPv6 header."
    Ipv6Version "ipv6-version" "The version field is not 6."
    Ipv6PayloadLength "ipv6-payload-length" "The payload length goes beyond the frame."
    Ipv6Extension "ipv6-extension" "An IPv6 extension header goes beyond the packet, stands in a wrong place, or there are more than eight."
    SourceMac "source-mac" "Source guard: the Ethernet source is not the endpoint's MAC address."
    SourceIp "source-ip" "Source guard: the IP source is not one of the endpoint's addresses or allowed prefixes, or is the gateway's or no single host's."
    TunnelSpoof "tunnel-spoof" "A pod sent a tunnel packet (a network's UDP port, or protocol 4 or 41) to a node's underlay address."
    DestinationGroup "destination-group" "The destination is broadcast or multicast, which this network does not flood, or the packet is for one host in a frame for all."
    DestinationMac "destination-mac" "The frame is not addressed to the gateway's MAC address."
    GatewayProtocol "gateway-protocol" "Sent to the gateway's own address, which only answers ping; ICMP unreachable was sent."
    NoRoute "no-route" "No route to the destination, or it is a loopback or link-local address; ICMP net unreachable was sent."
    Blackhole "blackhole" "The route is a blackhole: an address of this node's block that no pod has. ICMP host unreachable was sent."
    TtlExceeded "ttl-exceeded" "TTL was 1 or 0; ICMP time exceeded was sent (traceroute does this on purpose)."
    TooBig "too-big" "Larger than the next hop's MTU with DF set; ICMP fragmentation needed was sent."
    FragmentSpares "fragment-spares" "The packet had to be fragmented and the shell's spare buffers were all in use or too small."
    TooBigSuperFrame "too-big-super-frame" "The segments of a super-frame without DF are larger than the next hop's MTU; they were cut for good by the sender."
    HostLoop "host-loop" "The host sent a packet that routes back to the host; check the host's routes to the pod prefix."
    HostMissing "host-missing" "The route leads to the host, but the network has no host port."
    NoHeadroom "no-headroom" "The shell gave a buffer without room for the tunnel header."
    BadOffload "bad-offload" "The device's checksum or segmentation marks do not fit the frame."
    OuterMissing "outer-missing" "A frame from the underlay came without its outer addresses or with those of no known tunnel."
    VxlanTruncated "vxlan-truncated" "Shorter than a VXLAN header (RFC 7348)."
    VxlanFlags "vxlan-flags" "The VXLAN header's I flag is not set (RFC 7348 section 5)."
    UnknownVni "unknown-vni" "No network has this VNI on this UDP port and underlay port."
    UnknownPeer "unknown-peer" "The outer source is not the underlay address of a peer in this network."
    EncapNotAllowed "encap-not-allowed" "The peer's entry does not accept this encapsulation."
    VtepMac "vtep-mac" "The inner Ethernet destination is not this node's VTEP MAC address."
    InnerNotIp "inner-not-ip" "The decapsulated frame is neither IPv4 nor IPv6, and VTEP neighbors are static."
    PeerGuard "peer-guard" "The inner source neither routes back to the peer it came from nor is one of its node addresses."
    EcnCe "ecn-ce" "The underlay marked congestion on a packet that cannot carry the mark (RFC 6040 section 4.2)."
    TransitDenied "transit-denied" "A decapsulated packet would leave through another tunnel; this node is no transit."
    SourceRoute "source-route" "Source guard: the packet chooses its own route past the guard (IPv4 loose or strict source route, RFC 7126 section 4.3; IPv6 routing header, RFC 5095)."
    LinkLocalSource "link-local-source" "Source guard: an IPv6 link-local or unspecified source outside neighbor discovery and multicast listener discovery."
    NdMalformed "nd-malformed" "A neighbor discovery message that is truncated, has a wrong checksum or came through a router or another node (RFC 4861 section 7.1)."
    NdSenderMac "nd-sender-mac" "Source guard: the link-layer address in a neighbor discovery message is not the endpoint's."
    NdSenderIp "nd-sender-ip" "Source guard: the sender or target of a neighbor discovery message is not one of the endpoint's addresses."
    NdTarget "nd-target" "A neighbor solicitation for an address that the gateway does not answer for."
    NdRouter "nd-router" "A pod sent a router advertisement or a redirect, which only routers may."
    Dhcp "dhcp" "A pod or the host asked for DHCP; addresses come from CNI."
    DirectLoop "direct-loop" "The host sent a packet whose route is direct, without a tunnel; check the host's own route for the prefix."
    TunnelLoop "tunnel-loop" "A decapsulated packet would go back to the peer that it came from."
    WireMac "wire-mac" "A raw port got a frame that is addressed to another MAC address; it should not be promiscuous."
    WireGroup "wire-group" "Broadcast or multicast on a raw port besides ARP and neighbor discovery; nobody here listens to it."
    WireDestination "wire-destination" "A packet on a raw port that is neither for this node's underlay address nor from a pod of a peer without a tunnel."
    OuterMalformed "outer-malformed" "The outer IP or UDP header on a raw port is truncated, has impossible lengths or a wrong IPv4 header checksum."
    OuterFragment "outer-fragment" "A fragment for this node on a raw port, where nothing is reassembled; the path to the sender is too narrow for its tunnel's MTU."
    OuterChecksum "outer-checksum" "The outer UDP checksum of a tunnel packet on a raw port is wrong."
    OuterChecksumZero "outer-checksum-zero" "A tunnel packet over IPv6 without UDP checksum, in a network that does not agree to that (RFC 6935)."
    UnderlayNoRoute "underlay-no-route" "A raw port has neither the tunnel's other end on its link nor a gateway of its IP version."
    NeighborTableFull "neighbor-table-full" "The table of neighbors has no room for another one."
    NeighborPending "neighbor-pending" "The neighbor's MAC address is being asked for, and another packet waits for the answer already."
    NeighborFailed "neighbor-failed" "The neighbor does not answer ARP or neighbor solicitations; it is asked again after a second."
    QueueFull "queue-full" "A packet had to wait for its neighbor, and all slots for waiting packets were taken."
    QueueTooLong "queue-too-long" "A packet had to wait for its neighbor and is a super-frame or longer than a slot (2048 bytes)."
    AddressConflict "address-conflict" "Another device on the link uses this node's underlay address."
    NeighborOffLink "neighbor-off-link" "ARP or neighbor discovery on a raw port from an address that is not on its link."
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// The counters of the core that are not drop reasons, followed by one for each
/// [`DropReason`].
///
/// `rx = forward-endpoint + forward-host + forward-underlay + reply + consume + flood + punt + queue + Σ drops`
/// holds after every batch. What the core makes or lets wait itself is not in it:
/// it counts as `originated` when it is sent, as `originated-lost` or `queue-lost`
/// when it never is.
/// A super-frame counts as the packets that it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    /// Frames handed to the core.
    Rx,
    /// Frames forwarded to a pod of this node.
    ForwardEndpoint,
    /// Frames forwarded to the host.
    ForwardHost,
    /// Frames encapsulated and forwarded to another node.
    ForwardUnderlay,
    /// Frames turned round (ARP replies, echo replies).
    Reply,
    /// Frames that were for the gateway and needed no answer.
    Consume,
    /// Broadcast and multicast frames that were copied to other ports.
    Flood,
    /// Frames that the gateway made itself: ICMP errors, fragments but the first,
    /// copies, questions to neighbors, and packets that had waited for one.
    Originated,
    /// ICMP errors not sent because of the rate limit.
    IcmpRateLimited,
    /// ICMP errors and copies not sent because the shell's spare buffers were all in use or too small,
    /// and copies beyond the 64 that are made of one frame.
    SparesExhausted,
    /// ICMP errors not sent because nothing routes back to the sender.
    IcmpNoRoute,
    /// Copies of flooded frames that were too large for the port or peer.
    FloodTooBig,
    /// Frames handed to the shell.
    Punt,
    /// Frames that wait or waited for a neighbor. Those that are sent later count
    /// as [`Counter::Originated`], too.
    Queue,
    /// Frames that waited for a neighbor that never answered, or whose port went.
    QueueLost,
    /// Frames of the gateway's own making that a raw port could not send.
    OriginatedLost,
    /// Frames dropped for this reason.
    Drop(DropReason),
}

impl Counter {
    const PLAIN: &'static [Counter] = &[
        Counter::Rx,
        Counter::ForwardEndpoint,
        Counter::ForwardHost,
        Counter::ForwardUnderlay,
        Counter::Reply,
        Counter::Consume,
        Counter::Flood,
        Counter::Originated,
        Counter::IcmpRateLimited,
        Counter::SparesExhausted,
        Counter::IcmpNoRoute,
        Counter::FloodTooBig,
        Counter::Punt,
        Counter::Queue,
        Counter::QueueLost,
        Counter::OriginatedLost,
    ];

    /// Numbers below this are not drop reasons. Some are unused, so that plain
    /// counters can be appended without moving the reasons.
    const FIRST_DROP: u16 = 32;

    /// Length of an array indexed by [`Counter::number`].
    pub const SLOTS: usize = Self::FIRST_DROP as usize + DropReason::ALL.len();

    /// The number of this counter on the control channel, stable between versions.
    pub const fn number(self) -> u16 {
        match self {
            Counter::Rx => 0,
            Counter::ForwardEndpoint => 1,
            Counter::ForwardHost => 2,
            Counter::ForwardUnderlay => 3,
            Counter::Reply => 4,
            Counter::Consume => 5,
            Counter::Flood => 6,
            Counter::Originated => 7,
            Counter::IcmpRateLimited => 8,
            Counter::SparesExhausted => 9,
            Counter::IcmpNoRoute => 10,
            Counter::FloodTooBig => 11,
            Counter::Punt => 12,
            Counter::Queue => 13,
            Counter::QueueLost => 14,
            Counter::OriginatedLost => 15,
            Counter::Drop(reason) => Self::FIRST_DROP + reason as u16,
        }
    }

    /// The counter with this number, if this version knows it.
    pub fn from_number(number: u16) -> Option<Counter> {
        match number.checked_sub(Self::FIRST_DROP) {
            None => Self::PLAIN.get(usize::from(number)).copied(),
            Some(drop) => DropReason::ALL
                .get(usize::from(drop))
                .map(|reason| Counter::Drop(*reason)),
        }
    }

    /// All counters in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Counter> {
        let drops = DropReason::ALL.iter().map(|reason| Counter::Drop(*reason));
        Self::PLAIN.iter().copied().chain(drops)
    }

    /// The name that `culvert counters` prints; drop reasons have `drop-` in front there.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::Rx => "rx",
            Counter::ForwardEndpoint => "forward-endpoint",
            Counter::ForwardHost => "forward-host",
            Counter::ForwardUnderlay => "forward-underlay",
            Counter::Reply => "reply",
            Counter::Consume => "consume",
            Counter::Flood => "flood",
            Counter::Originated => "originated",
            Counter::IcmpRateLimited => "icmp-rate-limited",
            Counter::SparesExhausted => "spares-exhausted",
            Counter::IcmpNoRoute => "icmp-no-route",
            Counter::FloodTooBig => "flood-too-big",
            Counter::Punt => "punt",
            Counter::Queue => "queue",
            Counter::QueueLost => "queue-lost",
            Counter::OriginatedLost => "originated-lost",
            Counter::Drop(reason) => reason.name(),
        }
    }

    /// What the counter counts, for the person who reads it.
    pub const fn help(self) -> &'static str {
        match self {
            Counter::Rx => "Frames handed to the core.",
            Counter::ForwardEndpoint => "Frames forwarded to a pod of this node.",
            Counter::ForwardHost => "Frames forwarded to the host.",
            Counter::ForwardUnderlay => "Frames encapsulated and forwarded to another node.",
            Counter::Reply => "Frames turned round: ARP, neighbor discovery and echo replies.",
            Counter::Consume => "Frames for the gateway that needed no answer.",
            Counter::Flood => "Broadcast and multicast frames that were copied to other ports.",
            Counter::Originated => {
                "Frames that the gateway made itself (ICMP errors, further fragments, copies, ARP) or sent after they had waited."
            }
            Counter::IcmpRateLimited => "ICMP errors not sent because of the rate limit.",
            Counter::SparesExhausted => {
                "ICMP errors and copies not sent for want of a spare buffer, and copies beyond 64."
            }
            Counter::IcmpNoRoute => "ICMP errors not sent because nothing routes to the sender.",
            Counter::FloodTooBig => "Copies of flooded frames too large for the port or peer.",
            Counter::Punt => "Frames handed to the shell: for this node's own underlay address.",
            Counter::Queue => "Frames that had to wait for a neighbor's MAC address.",
            Counter::QueueLost => {
                "Frames that waited for a neighbor that never answered, or whose port went."
            }
            Counter::OriginatedLost => {
                "Frames of the gateway's own making that a raw port could not send."
            }
            Counter::Drop(reason) => reason.help(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_counters_are_one_to_one() {
        let mut seen = [false; Counter::SLOTS];
        for counter in Counter::all() {
            let slot = &mut seen[usize::from(counter.number())];
            assert!(!*slot, "{counter:?} shares its number");
            *slot = true;
            assert_eq!(Counter::from_number(counter.number()), Some(counter));
            assert!(!counter.help().is_empty() && !counter.name().contains(' '));
        }
        assert_eq!(Counter::from_number(31), None);
        assert_eq!(Counter::from_number(u16::MAX), None);
    }
}
