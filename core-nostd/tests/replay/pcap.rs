//! Captures with several ports in one file: pcapng, an interface for each port.

use std::borrow::Cow;
use std::time::Duration;

use culvert_core::PortId;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, Endianness};

/// A port, as the capture's interface block has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its number in the tables.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
}

/// A frame on a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// Microseconds since the case began.
    pub micros: u64,
    /// By which port it came or went.
    pub port: PortId,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Whether frames come in or go out: a capture has one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Into the gateway.
    In = 1,
    /// Out of it.
    Out = 2,
}

/// The frames of all ports in the order of their times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capture {
    /// Every port, whether it has frames or not.
    pub ports: Vec<Port>,
    /// The frames.
    pub frames: Vec<Captured>,
}

impl Capture {
    /// The file, whose bytes depend on nothing but the capture and the direction.
    pub fn file(&self, direction: Direction) -> Vec<u8> {
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            ..SectionHeaderBlock::default()
        };
        let mut writer = PcapNgWriter::with_section_header(Vec::new(), section).unwrap();
        for port in &self.ports {
            let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
            interface.options = vec![
                InterfaceDescriptionOption::IfName(Cow::from(&port.name)),
                InterfaceDescriptionOption::IfDescription(Cow::from(&port.description)),
            ];
            writer.write_pcapng_block(interface).unwrap();
        }
        for frame in &self.frames {
            let port = self.ports.iter().position(|port| port.id == frame.port);
            let port = port.unwrap_or_else(|| panic!("port {} has no name", frame.port));
            let packet = EnhancedPacketBlock {
                interface_id: port.try_into().unwrap(),
                timestamp: Duration::from_micros(frame.micros),
                original_len: frame.bytes.len().try_into().unwrap(),
                data: Cow::from(&frame.bytes),
                options: vec![EnhancedPacketOption::Flags(direction as u32)],
            };
            writer.write_pcapng_block(packet).unwrap();
        }
        writer.into_inner()
    }

    /// Reads a file, which may be one that another program wrote, with interfaces
    /// named like these ports.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8], ports: &[Port]) -> Result<Capture, String> {
        let mut reader = PcapNgReader::new(bytes).map_err(|e| e.to_string())?;
        let (mut interfaces, mut frames) = (Vec::new(), Vec::<Captured>::new());
        while let Some(block) = reader.next_block() {
            match block.map_err(|e| e.to_string())?.0 {
                Block::InterfaceDescription(interface) => {
                    if interface.linktype != DataLink::ETHERNET {
                        return Err("an interface that is not Ethernet".into());
                    }
                    interfaces.push(port_of(&interface, ports)?);
                }
                Block::EnhancedPacket(packet) => {
                    let port = interfaces.get(usize::try_from(packet.interface_id).unwrap());
                    let number = frames.len() + 1;
                    if usize::try_from(packet.original_len).unwrap() != packet.data.len() {
                        return Err(format!("frame {number} is not whole"));
                    }
                    let micros = packet.timestamp.as_micros().try_into().unwrap();
                    if frames.last().is_some_and(|last| last.micros > micros) {
                        return Err(format!("frame {number} is earlier than the one before"));
                    }
                    frames.push(Captured {
                        micros,
                        port: *port.ok_or("a frame of no interface")?,
                        bytes: packet.data.into_owned(),
                    });
                }
                Block::InterfaceStatistics(_) | Block::NameResolution(_) => {}
                other => return Err(format!("a block that has no place here: {other:?}")),
            }
        }
        let ports = ports.to_vec();
        Ok(Capture { ports, frames })
    }
}

fn port_of(interface: &InterfaceDescriptionBlock<'_>, ports: &[Port]) -> Result<PortId, String> {
    let name = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfName(name) => Some(name.as_ref()),
        _ => None,
    });
    let name = name.ok_or("an interface without a name")?;
    let port = ports.iter().find(|port| port.name == name);
    port.map(|port| port.id)
        .ok_or_else(|| format!("interface {name:?} is no port of the tables"))
}
