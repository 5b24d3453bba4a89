//! Addresses and identifiers as types that cannot be mixed up.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, Immutable};

/// A 48-bit IEEE 802 MAC address, in wire order.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    FromZeros,
    Immutable,
)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// 00:00:00:00:00:00.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The address made of these bytes, first byte on the wire first.
    pub const fn new(bytes: [u8; 6]) -> Self {
        MacAddr(bytes)
    }

    /// The bytes, first byte on the wire first.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// True for broadcast and multicast addresses (the group bit).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether one device can have it: it is neither a group's nor zero.
    pub(crate) fn is_device(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// The MAC address of culvert's own VTEP at an underlay address: stable,
    /// unicast and locally administered, so that every node can derive every
    /// other node's without asking.
    ///
    /// IPv4 `a.b.c.d` gives `0a:63:a:b:c:d`; IPv6 gives `0a:66` and the low 32
    /// bits of an FNV-1a hash of the address.
    pub const fn vtep_for(underlay: IpAddr) -> Self {
        match underlay {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                MacAddr([0x0a, 0x63, a, b, c, d])
            }
            IpAddr::V6(address) => {
                let octets = address.octets();
                let mut hash: u32 = 0x811c_9dc5;
                let mut rest: &[u8] = &octets;
                while let [first, tail @ ..] = rest {
                    hash = (hash ^ *first as u32).wrapping_mul(0x0100_0193);
                    rest = tail;
                }
                let [a, b, c, d] = hash.to_be_bytes();
                MacAddr([0x0a, 0x66, a, b, c, d])
            }
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal bytes separated by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMac;

impl fmt::Display for InvalidMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: write six hexadecimal bytes such as 0a:58:0a:f4:01:02")
    }
}

impl core::error::Error for InvalidMac {}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(InvalidMac)?;
            if part.len() != 2 || part.starts_with('+') {
                return Err(InvalidMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMac)?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(InvalidMac),
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize,
            Deserialize, FromZeros, Immutable,
        )]
        pub struct $name(pub u16);

        impl $name {
            pub(crate) fn index(self) -> usize {
                usize::from(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Index of a network (an overlay) in the networks table; chosen by the shell, below its capacity.
    NetworkId
}
id! {
    /// Index of a port in the ports table; chosen by the shell, below its capacity.
    PortId
}
id! {
    /// Index of a peer (another node, in one network) in the peers table; chosen by the shell, below its capacity.
    PeerId
}

/// A VXLAN network identifier, 24 bits (RFC 7348 section 5).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Serialize,
    Deserialize,
    FromZeros,
    Immutable,
)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// The number does not fit in the 24 bits of a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVni(pub u32);

impl fmt::Display for InvalidVni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VNI {} is above 16777215, the largest of 24 bits",
            self.0
        )
    }
}

impl core::error::Error for InvalidVni {}

impl Vni {
    /// The VNI with this number.
    ///
    /// # Errors
    /// [`InvalidVni`] when it needs more than 24 bits.
    pub const fn new(number: u32) -> Result<Self, InvalidVni> {
        if number < 1 << 24 {
            Ok(Vni(number))
        } else {
            Err(InvalidVni(number))
        }
    }

    /// The number, below 2^24.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        Vni::new(number)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IPv4 or IPv6 prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "(IpAddr, u8)", into = "(IpAddr, u8)")]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// Why an address and a length make no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidPrefix {
    /// The length is above 32 (IPv4) or 128 (IPv6).
    Length(u8),
    /// A bit behind the prefix length is set.
    HostBits(IpAddr, u8),
}

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidPrefix::Length(length) => write!(f, "prefix length {length} is too large"),
            InvalidPrefix::HostBits(address, length) => {
                write!(
                    f,
                    "{address}/{length} has bits set behind the prefix length"
                )
            }
        }
    }
}

impl core::error::Error for InvalidPrefix {}

impl IpPrefix {
    /// The prefix of `length` bits at `address`.
    ///
    /// # Errors
    /// [`InvalidPrefix`] when the length is too large or host bits are set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, InvalidPrefix> {
        if length > Self::bits_of(address) {
            return Err(InvalidPrefix::Length(length));
        }
        let prefix = IpPrefix { address, length };
        let key = prefix.key();
        if key.bits & !mask(length) != 0 {
            return Err(InvalidPrefix::HostBits(address, length));
        }
        Ok(prefix)
    }

    /// The /32 or /128 that holds just this address.
    pub fn host(address: IpAddr) -> Self {
        IpPrefix {
            address,
            length: Self::bits_of(address),
        }
    }

    /// The first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether the address lies in the prefix.
    pub fn contains(self, address: IpAddr) -> bool {
        self.key().covers(Key::host(address))
    }

    const fn bits_of(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    pub(crate) fn key(self) -> Key {
        Key {
            length: self.length,
            ..Key::host(self.address)
        }
    }
}

impl TryFrom<(IpAddr, u8)> for IpPrefix {
    type Error = InvalidPrefix;

    fn try_from((address, length): (IpAddr, u8)) -> Result<Self, InvalidPrefix> {
        IpPrefix::new(address, length)
    }
}

impl From<IpPrefix> for (IpAddr, u8) {
    fn from(prefix: IpPrefix) -> (IpAddr, u8) {
        (prefix.address, prefix.length)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The address family of a [`Key`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, FromZeros, Immutable)]
#[repr(u8)]
pub(crate) enum Family {
    V4 = 0,
    V6 = 1,
}

/// A prefix as the tables keep it: its bits left-aligned in 128, whatever the family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, FromZeros, Immutable)]
pub(crate) struct Key {
    pub(crate) family: Family,
    pub(crate) bits: u128,
    pub(crate) length: u8,
}

impl Key {
    #[inline(always)]
    pub(crate) fn host(address: IpAddr) -> Key {
        match address {
            IpAddr::V4(v4) => Key::v4(v4.to_bits(), 32),
            IpAddr::V6(v6) => Key {
                family: Family::V6,
                bits: v6.to_bits(),
                length: 128,
            },
        }
    }

    /// The IPv4 prefix with these bits.
    pub(crate) fn v4(bits: u32, length: u8) -> Key {
        Key {
            family: Family::V4,
            bits: u128::from(bits) << 96,
            length,
        }
    }

    /// The bits of an IPv4 prefix.
    #[inline(always)]
    pub(crate) fn bits_v4(self) -> u32 {
        // The upper 32 bits of 128.
        u32::try_from(self.bits >> 96).unwrap_or(0)
    }

    /// The prefix of this length that holds `address`.
    pub(crate) fn holding(address: IpAddr, length: u8) -> Key {
        let host = Key::host(address);
        Key {
            bits: host.bits & mask(length),
            length,
            ..host
        }
    }

    pub(crate) fn covers(self, other: Key) -> bool {
        self.family == other.family
            && self.length <= other.length
            && (self.bits ^ other.bits) & mask(self.length) == 0
    }

    #[inline(always)]
    pub(crate) fn address(self) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(core::net::Ipv4Addr::from_bits(self.bits_v4())),
            Family::V6 => IpAddr::V6(core::net::Ipv6Addr::from_bits(self.bits)),
        }
    }

    pub(crate) fn prefix(self) -> IpPrefix {
        IpPrefix {
            address: self.address(),
            length: self.length,
        }
    }
}

/// A mask of `length` leading ones.
pub(crate) const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        1..=127 => u128::MAX << (128 - length),
        _ => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vtep_macs_are_local_unicast_and_differ() {
        let v4 = MacAddr::vtep_for("192.168.77.1".parse().unwrap());
        assert_eq!(v4, MacAddr::new([0x0a, 0x63, 192, 168, 77, 1]));
        let v6 = MacAddr::vtep_for("fd00::1".parse().unwrap());
        let other = MacAddr::vtep_for("fd00::2".parse().unwrap());
        assert_ne!(v6, other);
        for mac in [v4, v6, other] {
            assert!(!mac.is_group());
            assert_eq!(mac.bytes()[0] & 2, 2);
        }
    }

    #[test]
    fn prefixes_refuse_host_bits_and_long_lengths() {
        let address: IpAddr = "10.244.1.0".parse().unwrap();
        assert!(IpPrefix::new(address, 24).is_ok());
        assert_eq!(
            IpPrefix::new(address, 16),
            Err(InvalidPrefix::HostBits(address, 16))
        );
        assert_eq!(IpPrefix::new(address, 33), Err(InvalidPrefix::Length(33)));
        assert!(IpPrefix::new("::".parse().unwrap(), 0).is_ok());
        assert!(IpPrefix::new("0.0.0.0".parse().unwrap(), 0).is_ok());
    }

    #[test]
    fn families_never_cover_each_other() {
        let v4 = IpPrefix::new("0.0.0.0".parse().unwrap(), 0).unwrap();
        assert!(!v4.contains("::1".parse().unwrap()));
        assert!(v4.contains("255.255.255.255".parse().unwrap()));
    }

    #[test]
    fn mac_text_round_trips_and_garbage_is_refused() {
        let mac: MacAddr = "0a:58:0a:f4:01:02".parse().unwrap();
        assert_eq!(mac, MacAddr::new([0x0a, 0x58, 0x0a, 0xf4, 1, 2]));
        for bad in [
            "",
            "0a:58",
            "0a:58:0a:f4:01:02:03",
            "0a-58-0a-f4-01-02",
            "+a:58:0a:f4:01:02",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMac), "{bad}");
        }
    }
}
