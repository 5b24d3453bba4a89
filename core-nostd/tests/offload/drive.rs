//! Frames into the code and out of it again.

use culvert_core::offload::{Accepts, Layout, SegmentError, Segments, Target, coalesce};
use culvert_core::{Checksum, Fate, Frame, Outer, Packet, PortId, Segmentation};

use super::build;

/// Bytes of a buffer that takes every frame.
pub(crate) const ROOM: usize = Frame::HEADROOM + 65_535;

/// Writes all segments, and checks what the cursor says meanwhile.
pub(crate) fn cut(frame: &Frame<'_>, layout: Layout) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut segments = Segments::new(frame, layout)?;
    let mut out = vec![0xa5; 65_535];
    let mut all = Vec::new();
    while let Some(len) = segments.next_len() {
        let left = segments.len();
        assert_eq!(segments.write_next(&mut out[..len - 1]), None);
        assert_eq!(segments.write_next(&mut out), Some(len));
        assert_eq!(segments.len(), left - 1);
        all.push(out[..len].to_vec());
    }
    assert!(segments.is_empty());
    assert_eq!(segments.write_next(&mut out), None);
    Ok(all)
}

/// A packet on its way through the joiner.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Item {
    pub(crate) bytes: Vec<u8>,
    pub(crate) checksum: Checksum,
    pub(crate) segmentation: Segmentation,
    pub(crate) outer: Option<Outer>,
}

impl Item {
    pub(crate) fn new(bytes: Vec<u8>, checksum: Checksum) -> Item {
        Item {
            bytes,
            checksum,
            segmentation: Segmentation::None,
            outer: None,
        }
    }
}

pub(crate) fn to(layout: Layout) -> Target {
    Target {
        port: PortId(1),
        accepts: Accepts::ALL,
        layout,
    }
}

/// Joins items, with this much buffer behind each; returns what is left of each.
pub(crate) fn join(
    items: &[Item],
    tailroom: usize,
    spares: &mut [Vec<u8>],
    target: impl Fn(&Packet<'_>) -> Option<Target>,
) -> Vec<Item> {
    let mut buffers: Vec<_> = items
        .iter()
        .map(|item| vec![0xa5; Frame::HEADROOM + item.bytes.len() + tailroom])
        .collect();
    let mut batch: Vec<_> = buffers
        .iter_mut()
        .zip(items)
        .map(|(buffer, item)| {
            let mut frame = build::frame(buffer, &item.bytes);
            frame.checksum = item.checksum;
            frame.segmentation = item.segmentation;
            frame.outer = item.outer;
            let mut packet = Packet::new(frame);
            packet.fate = Fate::Forward(PortId(1));
            packet
        })
        .collect();
    let joined = coalesce(
        &mut batch,
        &mut spares.iter_mut().map(|spare| &mut spare[..]),
        target,
    );
    let all: Vec<_> = batch
        .iter()
        .map(|packet| Item {
            bytes: packet.frame.bytes().to_vec(),
            checksum: packet.frame.checksum,
            segmentation: packet.frame.segmentation,
            outer: packet.frame.outer,
        })
        .collect();
    let count = |items: &[Item]| items.iter().filter(|item| !item.bytes.is_empty()).count();
    assert_eq!(count(&all) + joined, count(items));
    all
}

/// What a joined or single frame stands for, with all checksums finished.
pub(crate) fn expand(item: &Item, layout: Layout) -> Vec<Vec<u8>> {
    if item.segmentation == Segmentation::None {
        return vec![item.bytes.clone()];
    }
    let mut buffer = vec![0; ROOM];
    let mut frame = build::frame(&mut buffer, &item.bytes);
    frame.checksum = item.checksum;
    frame.segmentation = item.segmentation;
    cut(&frame, layout).unwrap()
}
