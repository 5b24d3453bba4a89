//! A shell: hands frames to the core with spare frames beside them, and keeps what
//! the core made of them.

use culvert_core::*;

/// A frame with what a device said about it.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segmentation: Segmentation,
    pub outer: Option<Outer>,
    pub headroom: Option<usize>,
}

impl From<Vec<u8>> for Input {
    fn from(bytes: Vec<u8>) -> Self {
        Input {
            bytes,
            ..Input::default()
        }
    }
}

/// What the core made of a frame.
#[derive(Debug, Clone)]
pub struct Output {
    pub fate: Fate,
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segmentation: Segmentation,
    pub outer: Option<Outer>,
    pub made: Vec<Made>,
}

/// What a shell gives to the core besides the frame.
#[derive(Clone, Debug)]
pub struct Shell {
    pub now: Instant,
    /// Sizes of the spare frames' buffers.
    pub spares: Vec<usize>,
}

/// Spare frames that [`Shell::default`] gives.
pub const SPARES: usize = 6;
/// Free bytes behind a frame that [`Shell::run`] hands in.
const TAILROOM: usize = 16;

impl Default for Shell {
    fn default() -> Self {
        Shell {
            now: Instant::from_micros(1_000_000),
            spares: vec![2048; SPARES],
        }
    }
}

impl Shell {
    /// So many spares.
    pub fn with_spares(count: usize) -> Shell {
        Shell {
            spares: vec![2048; count],
            ..Shell::default()
        }
    }

    pub fn run(&self, gateway: &mut Gateway<'_>, port: PortId, input: impl Into<Input>) -> Output {
        let mut outputs = self.run_batch(gateway, port, vec![input.into()]);
        outputs.0.remove(0).with(outputs.1)
    }

    /// Runs several frames in one batch; returns them and what the gateway made.
    pub fn run_batch(
        &self,
        gateway: &mut Gateway<'_>,
        port: PortId,
        inputs: Vec<Input>,
    ) -> (Vec<Output>, Vec<Made>) {
        let mut buffers: Vec<_> = inputs.iter().map(Input::buffer).collect();
        let mut batch: Vec<_> = inputs
            .iter()
            .zip(&mut buffers)
            .map(|(input, buffer)| Packet::new(input.frame(buffer)))
            .collect();
        let made = self.collect(|originated| {
            gateway.process(self.now, port, &mut batch, originated);
        });
        (batch.iter().map(Output::new).collect(), made)
    }

    /// What the gateway makes when time goes on.
    pub fn tick(&self, gateway: &mut Gateway<'_>) -> Vec<Made> {
        self.collect(|originated| gateway.tick(self.now, originated))
    }

    fn collect(&self, make: impl FnOnce(&mut Originated<'_, '_>)) -> Vec<Made> {
        let mut spare: Vec<_> = self.spares.iter().map(|len| vec![0xa5; *len]).collect();
        let mut spares: Vec<_> = spare
            .iter_mut()
            .map(|bytes| {
                let start = Frame::HEADROOM.min(bytes.len());
                Packet::new(Frame::new(bytes, start, 0).unwrap())
            })
            .collect();
        let mut originated = Originated::new(&mut spares);
        make(&mut originated);
        originated.into_made().iter().map(made).collect()
    }
}

/// A frame of the gateway's own: port, bytes, outer.
pub type Made = (PortId, Vec<u8>, Option<Outer>);

fn made(packet: &Packet<'_>) -> Made {
    let Fate::Forward(port) = packet.fate else {
        panic!("originated frames are forwarded, not {:?}", packet.fate)
    };
    (port, packet.frame.bytes().to_vec(), packet.frame.outer)
}

impl Input {
    fn headroom(&self) -> usize {
        self.headroom.unwrap_or(Frame::HEADROOM)
    }

    /// A buffer with the bytes in it; shells read into larger ones than needed.
    fn buffer(&self) -> Vec<u8> {
        let mut buffer = vec![0xa5; self.headroom() + self.bytes.len() + TAILROOM];
        buffer[self.headroom()..][..self.bytes.len()].copy_from_slice(&self.bytes);
        buffer
    }

    fn frame<'b>(&self, buffer: &'b mut [u8]) -> Frame<'b> {
        let mut frame = Frame::new(buffer, self.headroom(), self.bytes.len()).unwrap();
        frame.checksum = self.checksum;
        frame.segmentation = self.segmentation;
        frame.outer = self.outer;
        frame
    }
}

impl Output {
    fn new(packet: &Packet<'_>) -> Output {
        Output {
            fate: packet.fate,
            bytes: packet.frame.bytes().to_vec(),
            checksum: packet.frame.checksum,
            segmentation: packet.frame.segmentation,
            outer: packet.frame.outer,
            made: Vec::new(),
        }
    }

    fn with(self, made: Vec<Made>) -> Output {
        Output { made, ..self }
    }

    /// The frame that goes on, and those that were made beside it.
    pub fn all(&self) -> Vec<Made> {
        let Fate::Forward(port) = self.fate else {
            panic!("{:?} is not forwarded", self.fate)
        };
        let first = (port, self.bytes.clone(), self.outer);
        [vec![first], self.made.clone()].concat()
    }
}

/// The IP packet in a frame that leaves by a port.
pub fn ip_packet((_, bytes, outer): &Made) -> &[u8] {
    match outer.map(|outer| outer.l4) {
        None => &bytes[14..],
        Some(OuterL4::Udp { .. }) => &bytes[8 + 14..],
        Some(OuterL4::Ip { .. }) => bytes,
    }
}

/// That packet behind an Ethernet header, whichever way it leaves.
pub fn inner_frame(made: &Made) -> Vec<u8> {
    let packet = ip_packet(made);
    let ethertype: [u8; 2] = match packet[0] >> 4 {
        4 => [8, 0],
        _ => [0x86, 0xdd],
    };
    [&[0; 12], &ethertype[..], packet].concat()
}

pub fn run(gateway: &mut Gateway<'_>, port: PortId, input: impl Into<Input>) -> Output {
    Shell::default().run(gateway, port, input)
}

pub fn run_at(
    gateway: &mut Gateway<'_>,
    now: Instant,
    port: PortId,
    input: impl Into<Input>,
) -> Output {
    let shell = Shell {
        now,
        ..Shell::default()
    };
    shell.run(gateway, port, input)
}
