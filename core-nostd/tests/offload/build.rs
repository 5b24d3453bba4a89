//! Super-frames and the segments that they stand for, each built from nothing by
//! etherparse.

use culvert_core::offload::Layout;
use culvert_core::{Checksum, Frame, Segmentation};
use etherparse::*;

/// What stands in front of the packet that is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nothing: the frame is an IP packet.
    Ip,
    /// An Ethernet header.
    Ethernet,
    /// VXLAN and Ethernet headers.
    VxlanSocket,
    /// Ethernet, IP, UDP, VXLAN, Ethernet.
    Vxlan { outer_v6: bool, checksum: bool },
    /// Ethernet, IP.
    Ipip { outer_v6: bool },
}

pub const PLACES: [Place; 9] = [
    Place::Ip,
    Place::Ethernet,
    Place::VxlanSocket,
    Place::Vxlan {
        outer_v6: false,
        checksum: false,
    },
    Place::Vxlan {
        outer_v6: false,
        checksum: true,
    },
    Place::Vxlan {
        outer_v6: true,
        checksum: false,
    },
    Place::Vxlan {
        outer_v6: true,
        checksum: true,
    },
    Place::Ipip { outer_v6: false },
    Place::Ipip { outer_v6: true },
];

/// A flow at one moment: all that its packets' headers have.
#[derive(Clone, Debug)]
pub struct Flow {
    pub place: Place,
    pub v6: bool,
    pub tcp: bool,
    pub number: u8,
    pub tos: u8,
    pub ttl: u8,
    pub ident: u16,
    pub df: bool,
    pub flow_label: u32,
    pub ip_options: usize,
    /// Whether IPv6 has destination options.
    pub extension: bool,
    pub tcp_options: usize,
    pub sequence: u32,
    pub window: u16,
    pub fin: bool,
    pub psh: bool,
    pub cwr: bool,
    pub outer_ident: u16,
}

impl Flow {
    /// A flow of full-sized packets without anything unusual.
    pub fn plain(v6: bool, tcp: bool) -> Flow {
        Flow {
            place: Place::Ethernet,
            v6,
            tcp,
            number: 1,
            tos: 0,
            ttl: 64,
            ident: 7,
            df: true,
            flow_label: 0,
            ip_options: 0,
            extension: false,
            tcp_options: 12,
            sequence: 1000,
            window: 512,
            fin: false,
            psh: false,
            cwr: false,
            outer_ident: 1,
        }
    }

    pub fn layout(&self) -> Layout {
        let (inner, outer) = match self.place {
            Place::Ip => return Layout::IP,
            Place::Ethernet => return Layout::ETHERNET,
            Place::VxlanSocket => return Layout::VXLAN,
            Place::Vxlan {
                outer_v6: false, ..
            } => (14 + 20 + 8 + 8 + 14, 14),
            Place::Vxlan { outer_v6: true, .. } => (14 + 40 + 8 + 8 + 14, 14),
            Place::Ipip { outer_v6: false } => (14 + 20, 14),
            Place::Ipip { outer_v6: true } => (14 + 40, 14),
        };
        Layout {
            inner,
            outer: Some(outer),
        }
    }

    /// Offset of the TCP or UDP header.
    pub fn transport(&self) -> usize {
        let ip = match (self.v6, self.extension) {
            (false, _) => 20 + self.ip_options,
            (true, false) => 40,
            (true, true) => 48,
        };
        usize::from(self.layout().inner) + ip
    }

    /// Offset of the payload.
    pub fn payload(&self) -> usize {
        self.transport() + if self.tcp { 20 + self.tcp_options } else { 8 }
    }

    pub fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    pub fn partial(&self) -> Checksum {
        Checksum::Partial {
            start: u16::try_from(self.transport()).unwrap(),
            offset: u16::try_from(self.checksum_offset()).unwrap(),
        }
    }

    pub fn mark(&self, size: u16) -> Segmentation {
        match (self.tcp, self.v6) {
            (true, false) => Segmentation::TcpV4 { size },
            (true, true) => Segmentation::TcpV6 { size },
            (false, _) => Segmentation::Udp { size },
        }
    }

    fn ip_header(&self, index: u16) -> IpHeaders {
        if self.v6 {
            let mut source = [0xfd; 16];
            source[15] = self.number;
            let header = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                hop_limit: self.ttl,
                source,
                destination: [0xfc; 16],
                ..Default::default()
            };
            let mut extensions = Ipv6Extensions::default();
            if self.extension {
                // One option that pads.
                let options = Ipv6RawExtHeader::new_raw(IpNumber(0), &[1, 4, 0, 0, 0, 0]);
                extensions.destination_options = Some(options.unwrap());
            }
            return IpHeaders::Ipv6(header, extensions);
        }
        let header = Ipv4Header {
            dscp: IpDscp::try_new(self.tos >> 2).unwrap(),
            ecn: IpEcn::try_new(self.tos & 3).unwrap(),
            identification: self.ident.wrapping_add(index),
            dont_fragment: self.df,
            time_to_live: self.ttl,
            source: [10, 0, 0, self.number],
            destination: [10, 9, 9, 9],
            // No-operation options.
            options: Ipv4Options::try_from(&[1; 40][..self.ip_options]).unwrap(),
            ..Default::default()
        };
        IpHeaders::Ipv4(header, Default::default())
    }

    /// The `index`-th segment, whose payload begins at `sent`, with all checksums.
    pub fn segment(&self, index: u16, sent: usize, last: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ip(self.ip_header(index));
        if self.tcp {
            let mut header = TcpHeader::new(
                40_000 + u16::from(self.number),
                5201,
                self.sequence.wrapping_add(u32::try_from(sent).unwrap()),
                self.window,
            );
            header.ack = true;
            header.acknowledgment_number = 77;
            header.fin = self.fin && last;
            header.psh = self.psh && last;
            header.cwr = self.cwr && index == 0;
            header
                .set_options_raw(&[1; 40][..self.tcp_options])
                .unwrap();
            ip.tcp_header(header).write(&mut packet, payload).unwrap();
        } else {
            let ports = (40_000 + u16::from(self.number), 5201);
            ip.udp(ports.0, ports.1)
                .write(&mut packet, payload)
                .unwrap();
        }
        self.enclose(index, &packet)
    }

    /// Puts the place's headers in front of a packet.
    fn enclose(&self, index: u16, packet: &[u8]) -> Vec<u8> {
        let ethertype: [u8; 2] = if self.v6 { [0x86, 0xdd] } else { [8, 0] };
        let ethernet = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype[..]].concat();
        let vxlan = [8, 0, 0, 0, 0, 0, 1, 0];
        let outer = |outer_v6: bool| -> IpHeaders {
            let outer = Flow {
                v6: outer_v6,
                ident: self.outer_ident,
                number: 200,
                ip_options: 0,
                extension: false,
                ..self.clone()
            };
            outer.ip_header(index)
        };
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut out = Vec::new();
        match self.place {
            Place::Ip => packet.to_vec(),
            Place::Ethernet => [&ethernet, packet].concat(),
            Place::VxlanSocket => [&vxlan[..], &ethernet, packet].concat(),
            Place::Ipip { outer_v6 } => {
                let number = if self.v6 {
                    ip_number::IPV6
                } else {
                    ip_number::IPV4
                };
                let builder = builder.ip(outer(outer_v6));
                builder.write(&mut out, number, packet).unwrap();
                out
            }
            Place::Vxlan { outer_v6, checksum } => {
                let payload = [&vxlan[..], &ethernet, packet].concat();
                let builder = builder.ip(outer(outer_v6)).udp(50_000, 4789);
                builder.write(&mut out, &payload).unwrap();
                if !checksum {
                    let at = if outer_v6 { 14 + 40 + 6 } else { 14 + 20 + 6 };
                    out[at..at + 2].fill(0);
                }
                out
            }
        }
    }

    /// The super-frame with its checksum finished.
    pub fn whole(&self, payload: &[u8]) -> Vec<u8> {
        self.segment(0, 0, true, payload)
    }

    /// The super-frame with the pseudo-header's sum in the checksum field.
    pub fn unfinished(&self, payload: &[u8]) -> Vec<u8> {
        self.unfinish(self.whole(payload))
    }

    /// Puts the pseudo-header's sum into a packet's checksum field.
    pub fn unfinish(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let transport = self.transport();
        let len = u16::try_from(bytes.len() - transport).unwrap();
        let inner = usize::from(self.layout().inner);
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        let sum = checksum::Sum16BitWords::new()
            .add_slice(&bytes[inner..][addresses])
            .add_2bytes([0, if self.tcp { 6 } else { 17 }])
            .add_2bytes(len.to_be_bytes())
            .ones_complement();
        let field = transport + self.checksum_offset();
        bytes[field..field + 2].copy_from_slice(&(!sum).to_ne_bytes());
        bytes
    }

    /// What the super-frame stands for.
    pub fn segments(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let count = payload.len().div_ceil(size).max(1);
        let segment = |index: usize| {
            let end = payload.len().min((index + 1) * size);
            let sent = index * size;
            let index16 = u16::try_from(index).unwrap();
            self.segment(index16, sent, index + 1 == count, &payload[sent..end])
        };
        (0..count).map(segment).collect()
    }
}

/// Bytes that look like anything and follow from `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// A frame in `buffer` with these bytes.
pub fn frame<'b>(buffer: &'b mut [u8], bytes: &[u8]) -> Frame<'b> {
    buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(bytes);
    Frame::new(buffer, Frame::HEADROOM, bytes.len()).unwrap()
}
