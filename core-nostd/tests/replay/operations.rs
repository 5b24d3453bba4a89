//! The channel's operations as text: serde's derive for types of another crate,
//! with addresses, prefixes and sets as people write them. What goes over the
//! channel is the operations' own encoding, which nothing here touches.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::heapless;
use culvert_core::{IpPrefix, MacAddr, NetworkId, PeerId, PortId, Vni};
use serde::{Deserialize, Serialize};

/// An operation in its text form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(#[serde(with = "OperationText")] pub Operation);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Owner", rename_all = "kebab-case")]
pub enum OwnerText {
    Attachment,
    Cluster,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Operation", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "as the type that it stands for")]
enum OperationText {
    UpsertNetwork(#[serde(with = "NetworkText")] Network),
    RemoveNetwork(NetworkId),
    UpsertPort(#[serde(with = "PortText")] Port),
    RemovePort(PortId),
    UpsertPeer(#[serde(with = "PeerText")] Peer),
    RemovePeer(PeerId),
    UpsertRoute(#[serde(with = "RouteText")] Route),
    RemoveRoute {
        network: NetworkId,
        #[serde(with = "prefix")]
        prefix: IpPrefix,
    },
    SetPathMtu {
        peer: PeerId,
        mtu: u16,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Network", rename_all = "kebab-case", deny_unknown_fields)]
struct NetworkText {
    id: NetworkId,
    vni: Vni,
    udp_port: u16,
    local: IpAddr,
    #[serde(with = "mac")]
    vtep_mac: MacAddr,
    gateways: heapless::Vec<IpAddr, MAX_ADDRESSES>,
    #[serde(with = "mac")]
    gateway_mac: MacAddr,
    node_addresses: heapless::Vec<IpAddr, MAX_ADDRESSES>,
    #[serde(with = "prefixes")]
    prefixes: heapless::Vec<IpPrefix, MAX_ADDRESSES>,
    #[serde(with = "ProxyText")]
    proxy: Proxy,
    #[serde(with = "options")]
    options: NetworkOptions,
    underlay: PortId,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Proxy", rename_all = "kebab-case")]
enum ProxyText {
    LinkLocal,
    Network,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Port", rename_all = "kebab-case", deny_unknown_fields)]
struct PortText {
    id: PortId,
    mtu: u16,
    #[serde(with = "mac")]
    mac: MacAddr,
    #[serde(with = "offloads")]
    offloads: Offloads,
    #[serde(with = "PortKindText")]
    kind: PortKind,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PortKind", rename_all = "kebab-case")]
enum PortKindText {
    Endpoint(#[serde(with = "EndpointText")] Endpoint),
    Host { network: NetworkId },
    Underlay,
    Wire(#[serde(with = "WireText")] Wire),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Wire", rename_all = "kebab-case", deny_unknown_fields)]
struct WireText {
    #[serde(with = "wire_addresses")]
    addresses: heapless::Vec<WireAddress, MAX_ADDRESSES>,
    gateways: heapless::Vec<IpAddr, 2>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Endpoint", rename_all = "kebab-case", deny_unknown_fields)]
struct EndpointText {
    network: NetworkId,
    addresses: heapless::Vec<IpAddr, MAX_ADDRESSES>,
    #[serde(with = "prefixes")]
    allowed: heapless::Vec<IpPrefix, MAX_ADDRESSES>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Peer", rename_all = "kebab-case", deny_unknown_fields)]
struct PeerText {
    id: PeerId,
    network: NetworkId,
    underlay: IpAddr,
    #[serde(with = "mac")]
    vtep_mac: MacAddr,
    node_addresses: heapless::Vec<IpAddr, MAX_ADDRESSES>,
    #[serde(with = "encaps")]
    accepts: EncapSet,
    transit: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Encap", rename_all = "kebab-case")]
enum EncapText {
    Vxlan,
    Ipip,
    Direct,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Route", rename_all = "kebab-case", deny_unknown_fields)]
struct RouteText {
    network: NetworkId,
    #[serde(with = "prefix")]
    prefix: IpPrefix,
    #[serde(with = "NextHopText")]
    next_hop: NextHop,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "NextHop", rename_all = "kebab-case")]
enum NextHopText {
    Blackhole,
    Host,
    Endpoint(PortId),
    Peer {
        peer: PeerId,
        #[serde(with = "EncapText")]
        encap: Encap,
    },
}

/// `address/length`, as prefixes and addresses on a link are written.
fn slashed(text: &str) -> Result<(IpAddr, u8), String> {
    let parts = text
        .split_once('/')
        .and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
    parts.ok_or_else(|| format!("{text:?} is not address/length"))
}

fn parse_prefix(text: &str) -> Result<IpPrefix, String> {
    let (address, length) = slashed(text)?;
    IpPrefix::new(address, length).map_err(|e| e.to_string())
}

fn collected<T, const N: usize>(
    items: impl Iterator<Item = Result<T, String>>,
) -> Result<heapless::Vec<T, N>, String> {
    let mut all = heapless::Vec::new();
    for item in items {
        all.push(item?)
            .map_err(|_| format!("more than {N} items"))?;
    }
    Ok(all)
}

/// A module for `serde(with)`: a type as what `to` makes of it, read by `from`.
macro_rules! text {
    ($name:ident, $type:ty, $text:ty, $to:expr, $from:expr) => {
        mod $name {
            use super::*;
            use serde::de::Error;

            pub(super) fn serialize<S: serde::Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let to: fn(&$type) -> $text = $to;
                to(value).serialize(serializer)
            }

            pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let text = <$text>::deserialize(deserializer)?;
                let from: fn($text) -> Result<$type, String> = $from;
                from(text).map_err(D::Error::custom)
            }
        }
    };
}

type Prefixes = heapless::Vec<IpPrefix, MAX_ADDRESSES>;
type WireAddresses = heapless::Vec<WireAddress, MAX_ADDRESSES>;

text!(mac, MacAddr, String, ToString::to_string, |text| {
    text.parse().map_err(|e| format!("{text:?}: {e}"))
});
text!(prefix, IpPrefix, String, ToString::to_string, |text| {
    parse_prefix(&text)
});
text!(
    prefixes,
    Prefixes,
    Vec<String>,
    |all| all.iter().map(ToString::to_string).collect(),
    |all| collected(all.iter().map(|text| parse_prefix(text)))
);
text!(
    wire_addresses,
    WireAddresses,
    Vec<String>,
    |all| {
        let one = |a: &WireAddress| format!("{}/{}", a.address, a.prefix_length);
        all.iter().map(one).collect()
    },
    |all| {
        let one = |text: &String| {
            slashed(text).map(|(address, prefix_length)| WireAddress {
                address,
                prefix_length,
            })
        };
        collected(all.iter().map(one))
    }
);

/// The names of the switches that are on.
fn named<T: Copy>(all: &[(&'static str, T)], on: impl Fn(T) -> bool) -> Vec<String> {
    let on = all.iter().filter(|(_, item)| on(*item));
    on.map(|(name, _)| (*name).to_owned()).collect()
}

/// What the names stand for.
fn meant<T: Copy>(all: &[(&'static str, T)], names: &[String]) -> Result<Vec<T>, String> {
    let one = |name: &String| {
        let found = all.iter().find(|(known, _)| known == name);
        let known = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        found
            .map(|(_, item)| *item)
            .ok_or_else(|| format!("{name:?} is none of {:?}", known()))
    };
    names.iter().map(one).collect()
}

const OPTIONS: &[(&str, NetworkOptions)] = &[
    ("flood", NetworkOptions::FLOOD),
    ("clamp-mss", NetworkOptions::CLAMP_MSS),
    ("zero-udp-checksum", NetworkOptions::ZERO_UDP_CHECKSUM),
    ("outer-may-fragment", NetworkOptions::OUTER_MAY_FRAGMENT),
];
const OFFLOADS: &[(&str, Offloads)] = &[
    ("checksum", Offloads::CHECKSUM),
    ("tunnel-checksum", Offloads::TUNNEL_CHECKSUM),
];
const ENCAPS: &[(&str, Encap)] = &[
    ("vxlan", Encap::Vxlan),
    ("ipip", Encap::Ipip),
    ("direct", Encap::Direct),
];

text!(
    options,
    NetworkOptions,
    Vec<String>,
    |set| named(OPTIONS, |one| set.has(one)),
    |names| {
        let all = meant(OPTIONS, &names)?.into_iter();
        Ok(all.fold(NetworkOptions::NONE, NetworkOptions::with))
    }
);
text!(
    offloads,
    Offloads,
    Vec<String>,
    |set| named(OFFLOADS, |one| set.has(one)),
    |names| {
        let all = meant(OFFLOADS, &names)?.into_iter();
        Ok(all.fold(Offloads::NONE, Offloads::with))
    }
);
text!(
    encaps,
    EncapSet,
    Vec<String>,
    |set| named(ENCAPS, |one| set.contains(one)),
    |names| Ok(EncapSet::of(&meant(ENCAPS, &names)?))
);
