//! What the golden captures are made of: for each the tables and the frames that
//! come in, from the same builders that other tests use. The files are what
//! counts; a case that nobody can build, such as one from the field, needs no
//! scene.

mod decap;
mod frames;
mod guards;
mod link;
mod mtu;
mod neighbors;
mod node;
mod overlay;
mod router;

use std::collections::BTreeMap;

use culvert_core::PortId;
use culvert_core::channel::{Operation, Owner};

use crate::replay::{Capture, Captured, Tables, Transaction};
pub(crate) use node::*;

/// A case to be.
pub(crate) struct Scene {
    /// Its folder.
    pub(crate) name: &'static str,
    /// Its tables.
    pub(crate) tables: Tables,
    frames: Vec<Captured>,
    now_ms: u64,
}

/// All of them.
pub(crate) fn all() -> Vec<Scene> {
    let chapters = [
        link::all(),
        guards::all(),
        router::all(),
        mtu::all(),
        overlay::all(),
        decap::all(),
        neighbors::all(),
    ];
    chapters.into_iter().flatten().collect()
}

/// When the first frame comes: what a gateway says of itself when it is new is said.
const FIRST_MS: u64 = 1000;

impl Scene {
    /// A node, and what is to be shown with it.
    pub(crate) fn new(name: &'static str, about: &str, node: &Setup) -> Scene {
        let cluster = Transaction::new(0, Owner::Cluster, node.cluster());
        let pods = Transaction::new(0, Owner::Attachment, node.pods());
        let tables = Tables {
            about: about.to_owned(),
            until_ms: 0,
            ports: node.names(),
            expect: BTreeMap::new(),
            counts: BTreeMap::new(),
            apply: vec![cluster, pods],
        };
        let frames = Vec::new();
        Scene {
            name,
            tables,
            frames,
            now_ms: FIRST_MS,
        }
        .until(FIRST_MS)
    }

    /// Goes on at this time, in milliseconds.
    pub(crate) fn at(mut self, now_ms: u64) -> Scene {
        assert!(now_ms >= self.now_ms, "{}: back in time", self.name);
        self.now_ms = now_ms;
        self.until(now_ms)
    }

    /// Lasts at least so long.
    pub(crate) fn until(mut self, ms: u64) -> Scene {
        self.tables.until_ms = self.tables.until_ms.max(ms);
        self
    }

    /// A frame by a port, a millisecond behind the one before.
    pub(crate) fn frame(mut self, port: PortId, bytes: Vec<u8>) -> Scene {
        self.frames.push(Captured {
            micros: self.now_ms * 1000,
            port,
            bytes,
        });
        let (now, next) = (self.now_ms, self.now_ms + 1);
        self.now_ms = next;
        self.until(now)
    }

    /// What comes next comes at the same time as the last frame.
    pub(crate) fn together(mut self) -> Scene {
        self.now_ms -= 1;
        self
    }

    /// A frame from pod A.
    pub(crate) fn pod(self, bytes: Vec<u8>) -> Scene {
        self.frame(POD_A, bytes)
    }

    /// A frame from the underlay.
    pub(crate) fn wire(self, bytes: Vec<u8>) -> Scene {
        self.frame(WIRE, bytes)
    }

    /// A change of the tables.
    pub(crate) fn apply(mut self, owner: Owner, operations: Vec<Operation>) -> Scene {
        let change = Transaction::new(self.now_ms, owner, operations);
        self.tables.apply.push(change);
        let (now, next) = (self.now_ms, self.now_ms + 1);
        self.now_ms = next;
        self.until(now)
    }

    /// So many frames of the output match a display filter of Wireshark.
    pub(crate) fn expect(mut self, filter: &str, frames: u64) -> Scene {
        let before = self.tables.expect.insert(filter.to_owned(), frames);
        assert_eq!(before, None, "{}: {filter} twice", self.name);
        self
    }

    /// A counter has this value at the end.
    pub(crate) fn counts(mut self, name: &str, value: u64) -> Scene {
        let before = self.tables.counts.insert(name.to_owned(), value);
        assert_eq!(before, None, "{}: {name} twice", self.name);
        self
    }

    /// So many frames leave by the port of this name.
    pub(crate) fn sends(self, port: &str, frames: u64) -> Scene {
        self.expect(&format!("frame.interface_name == \"{port}\""), frames)
    }

    /// One frame is dropped for each of these reasons.
    pub(crate) fn drops(self, reasons: &[&str]) -> Scene {
        let count = |scene: Scene, reason: &&str| scene.counts(&format!("drop-{reason}"), 1);
        reasons.iter().fold(self, count)
    }

    /// The frames that come in.
    pub(crate) fn input(&self) -> Capture {
        let (ports, frames) = (self.tables.ports(), self.frames.clone());
        Capture { ports, frames }
    }
}
