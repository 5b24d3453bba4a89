//! The core's segmentation against the kernel's own: the kernel forwards a
//! super-frame from one TAP to another that takes none, bare and through its
//! vxlan device, and the core cuts the same.

use culvert_core::offload::{Layout, Segments};
use culvert_core::{Checksum, Frame, Segmentation};
use culvert_host::sys::tap::{Tap, TapOffloads, TapOptions};
use culvert_host::sys::vnet::{VirtioNetHeader, VnetChecksum, VnetGso, VnetSegmentation};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader, ip_number};

use crate::lab::{Namespace, eventually};
use crate::packets::{PEER_MAC, checksum};

const IN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const VXLAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// A namespace that forwards what is written into `input`.
struct Router {
    namespace: Namespace,
    input: Tap,
    output: Tap,
}

impl Router {
    fn new() -> Router {
        let namespace = Namespace::new();
        let offloads = TapOffloads::NONE;
        let tap = |name| namespace.run(|| Tap::create(name, TapOptions { offloads }));
        let (input, output) = (tap("t0").unwrap(), tap("t1").unwrap());
        namespace.run(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
        });
        for (name, last) in [("t0", 1), ("t1", 2)] {
            let mac = format!("02:00:00:00:00:0{last}");
            namespace.ip(&["link", "set", name, "address", &mac, "up"]);
        }
        let router = Router {
            namespace,
            input,
            output,
        };
        router.neighbor("t0", 78);
        router.neighbor("t1", 79);
        router
    }

    /// Gives a device the networks 10.`net`.0.0/24 and fd`net`::/64, with
    /// [`PEER_MAC`] as the second address of both.
    fn neighbor(&self, device: &str, net: u8) {
        let ip = |args: &[&str]| drop(self.namespace.ip(args));
        let (v4, v6) = (format!("10.{net}.0.1/24"), format!("fd{net}::1/64"));
        ip(&["addr", "add", &v4, "dev", device]);
        ip(&["addr", "add", &v6, "dev", device, "nodad"]);
        let mac = "02:00:00:00:00:99";
        for peer in [format!("10.{net}.0.2"), format!("fd{net}::2")] {
            ip(&["neigh", "replace", &peer, "lladdr", mac, "dev", device]);
        }
    }

    /// Adds a vxlan device whose packets leave by `output`.
    fn vxlan(&self, remote: &str, options: &[&str]) {
        let device = "link add vx0 address 02:00:00:00:00:03 type vxlan id 5 dstport 4789 dev t1";
        let mut args: Vec<_> = device.split(' ').collect();
        args.extend(["remote", remote]);
        args.extend(options);
        self.namespace.ip(&args);
        self.namespace.ip(&["link", "set", "vx0", "up"]);
        self.neighbor("vx0", 80);
    }

    /// What the kernel makes of a super-frame: the frames that pass `wanted`.
    fn forward(
        &self,
        packet: &Super,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Vec<Vec<u8>> {
        let mut bytes = packet.header().emit().to_vec();
        bytes.extend(packet.bytes(IN_MAC, PEER_MAC, 64));
        assert_eq!(self.input.write(&bytes).unwrap(), bytes.len());
        let mut buffer = [0; 4096];
        let mut frames = Vec::new();
        let all = eventually(|| {
            while let Ok(len) = self.output.read(&mut buffer) {
                let frame = &buffer[VirtioNetHeader::LEN..len];
                if wanted(frame) {
                    frames.push(frame.to_vec());
                }
            }
            (frames.len() >= count).then_some(())
        });
        assert!(
            all.is_some(),
            "{} of {count} segments of {packet:?}",
            frames.len()
        );
        frames
    }
}

/// A super-frame from 10.78.0.2 or fd78::2.
#[derive(Clone, Copy, Debug)]
struct Super {
    v6: bool,
    tcp: bool,
    /// The network that it goes to.
    net: u8,
    len: u16,
    size: u16,
    ident: u16,
    /// TCP's FIN, PSH and CWR.
    flags: bool,
}

impl Super {
    fn all(net: u8) -> impl Iterator<Item = Super> {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        // At most 128 datagrams, and segments that fit VXLAN over IPv6.
        let lengths = [
            (3000, 1000, 5),
            (2999, 1000, 0xfffe),
            (60_000, 1350, 0xffff),
            (100, 1, 9),
        ];
        kinds.into_iter().flat_map(move |(v6, tcp)| {
            lengths.into_iter().flat_map(move |(len, size, ident)| {
                [false, true].map(|flags| Super {
                    v6,
                    tcp,
                    net,
                    len,
                    size: if tcp && size == 1 { 8 } else { size },
                    ident,
                    flags,
                })
            })
        })
    }

    fn segments(&self) -> usize {
        usize::from(self.len.div_ceil(self.size))
    }

    fn transport(&self) -> usize {
        14 + if self.v6 { 40 } else { 20 }
    }

    /// The frame between two Ethernet addresses, its checksum unfinished.
    fn bytes(&self, dst: [u8; 6], src: [u8; 6], ttl: u8) -> Vec<u8> {
        let payload: Vec<u8> = (0..self.len)
            .map(|n| n.wrapping_mul(40_503).to_be_bytes()[0])
            .collect();
        let builder = PacketBuilder::ethernet2(src, dst);
        let builder = if self.v6 {
            let address = |net: u8, last| {
                let net = u8::from_str_radix(&net.to_string(), 16).unwrap();
                [0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
            };
            let header = Ipv6Header {
                traffic_class: 0x28,
                flow_label: 0x12345.try_into().unwrap(),
                hop_limit: ttl,
                source: address(78, 2),
                destination: address(self.net, 2),
                ..Default::default()
            };
            builder.ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
        } else {
            let mut header =
                Ipv4Header::new(0, ttl, IpNumber(0), [10, 78, 0, 2], [10, self.net, 0, 2]).unwrap();
            header.identification = self.ident;
            builder.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        };
        let mut bytes = Vec::new();
        if self.tcp {
            let mut header = TcpHeader::new(4000, 5000, u32::MAX - 2000, 512);
            header.ack = true;
            (header.fin, header.psh, header.cwr) = (self.flags, self.flags, self.flags);
            header
                .set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9])
                .unwrap();
            builder
                .tcp_header(header)
                .write(&mut bytes, &payload)
                .unwrap();
        } else {
            builder.udp(4000, 5000).write(&mut bytes, &payload).unwrap();
        }
        self.unfinish(&mut bytes);
        bytes
    }

    /// Puts the pseudo-header's sum into the checksum field.
    fn unfinish(&self, bytes: &mut [u8]) {
        let addresses = if self.v6 { 22..54 } else { 26..34 };
        let protocol = if self.tcp {
            ip_number::TCP
        } else {
            ip_number::UDP
        };
        let len = u32::try_from(bytes.len() - self.transport()).unwrap();
        let sum = !checksum(len + u32::from(protocol.0), &bytes[addresses]);
        let field = self.transport() + self.checksum_offset();
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn header(&self) -> VirtioNetHeader {
        let Checksum::Partial { start, offset } = self.partial(0) else {
            unreachable!();
        };
        let kind = match (self.tcp, self.v6) {
            (true, false) => VnetSegmentation::Tcp4,
            (true, true) => VnetSegmentation::Tcp6,
            (false, _) => VnetSegmentation::Udp,
        };
        VirtioNetHeader {
            checksum: VnetChecksum::Partial { start, offset },
            gso: Some(VnetGso {
                kind,
                ecn: self.tcp && self.flags,
                size: self.size,
            }),
            hdr_len: 0,
        }
    }

    fn partial(&self, before: usize) -> Checksum {
        Checksum::Partial {
            start: u16::try_from(before + self.transport()).unwrap(),
            offset: u16::try_from(self.checksum_offset()).unwrap(),
        }
    }

    /// The core's segments of `bytes`, which has `before` bytes in front of the
    /// super-frame.
    fn cut(&self, bytes: &[u8], before: usize) -> Vec<Vec<u8>> {
        let size = self.size;
        let mut buffer = bytes.to_vec();
        let mut frame = Frame::new(&mut buffer, 0, bytes.len()).unwrap();
        frame.checksum = self.partial(before);
        frame.segmentation = match (self.tcp, self.v6) {
            (true, false) => Segmentation::TcpV4 { size },
            (true, true) => Segmentation::TcpV6 { size },
            (false, _) => Segmentation::Udp { size },
        };
        let layout = Layout {
            inner: u16::try_from(before + 14).unwrap(),
            outer: (before > 0).then_some(14),
        };
        let mut segments = Segments::new(&frame, layout).unwrap();
        let mut all = Vec::new();
        while let Some(len) = segments.next_len() {
            let mut out = vec![0; len];
            segments.write_next(&mut out).unwrap();
            all.push(out);
        }
        all
    }
}

#[test]
fn the_core_cuts_super_frames_as_the_kernel_does() {
    let router = Router::new();
    for packet in Super::all(79) {
        let segments = router.forward(&packet, packet.segments(), |frame| {
            frame[..6] == PEER_MAC && frame[packet.transport()..][..2] == 4000u16.to_be_bytes()
        });
        let expected = packet.cut(&packet.bytes(PEER_MAC, OUT_MAC, 63), 0);
        assert!(segments == expected, "{packet:?}");
    }
}

#[test]
fn the_core_cuts_tunnel_super_frames_as_the_kernel_does() {
    for (remote, options, outer) in [
        ("10.79.0.2", &["noudpcsum"][..], 20),
        ("10.79.0.2", &["udpcsum"], 20),
        ("fd79::2", &["noudp6zerocsumtx"], 40),
        ("fd79::2", &["udp6zerocsumtx", "udp6zerocsumrx"], 40),
    ] {
        let router = Router::new();
        router.vxlan(remote, options);
        let before = 14 + outer + 8 + 8;
        for packet in Super::all(80) {
            let segments = router.forward(&packet, packet.segments(), |frame| {
                let at = before + packet.transport();
                frame.len() > at + 8 && frame[at..][..2] == 4000u16.to_be_bytes()
            });
            // The tunnel's headers are what the kernel chose, with the lengths of
            // the whole; the checksum's value does not matter unless it is zero.
            let mut bytes = segments[0][..before].to_vec();
            bytes.extend(packet.bytes(PEER_MAC, VXLAN_MAC, 63));
            let len = u16::try_from(bytes.len() - 14 - outer).unwrap();
            bytes[14 + outer + 4..][..2].copy_from_slice(&len.to_be_bytes());
            if outer == 40 {
                bytes[18..20].copy_from_slice(&len.to_be_bytes());
            } else {
                bytes[16..18].copy_from_slice(&(len + 20).to_be_bytes());
                bytes[24..26].fill(0);
                let sum = checksum(0, &bytes[14..34]);
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            let expected = packet.cut(&bytes, before);
            assert!(
                segments == expected,
                "{packet:?} through {remote} {options:?}"
            );
        }
    }
}
