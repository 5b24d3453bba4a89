//! Frames put together by hand, to be broken by hand.

/// An Ethernet frame; addresses as in `02:00:00:00:00:01`.
pub(crate) fn ethernet(to: &str, from: &str, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mac = |text: &str| -> Vec<u8> {
        let bytes = text.split(':');
        bytes
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    };
    [&mac(to), &mac(from), &kind.to_be_bytes()[..], payload].concat()
}

/// What an IPv4 header says.
#[derive(Clone)]
pub(crate) struct Ip {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}

impl Ip {
    /// UDP between two addresses.
    pub(crate) fn udp(from: impl ToString, to: impl ToString) -> Self {
        Self {
            from: from.to_string(),
            to: to.to_string(),
            protocol: 17,
            ttl: 64,
            tos: 0,
        }
    }

    /// The packet around a payload, with a right checksum.
    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let address = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let start = [0x45, self.tos, length[0], length[1], 0, 0, 0x40, 0];
        let middle = [self.ttl, self.protocol, 0, 0];
        let ends = [address(&self.from), address(&self.to)].concat();
        let mut header = [&start[..], &middle, &ends].concat();
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [&header, payload].concat()
    }
}

/// A datagram without a checksum.
pub(crate) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let fields = [from, to, length, 0];
    let header: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect();
    [&header, payload].concat()
}

/// An ARP request of `sender` (hardware address, protocol address) for `target`.
pub(crate) fn arp_request((mac, ip): (&str, &str), target: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let start = [0, 1, 8, 0, 6, 4, 0, 1];
    let sender = ethernet(mac, mac, 0, &[]);
    [
        &start,
        &sender[..6],
        &address(ip),
        &[0; 6],
        &address(target),
    ]
    .concat()
}

/// A VXLAN header and what is inside.
pub(crate) fn vxlan(flags: u8, vni: u8, inner: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0, 0, 0, vni, 0], inner].concat()
}

/// The bytes as `culvert-lab inject` takes them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    (!folded).to_be_bytes()
}
