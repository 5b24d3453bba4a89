//! DPDK's rte_lpm and rte_lpm6, in a process of their own: `peers/dpdk.c`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Figures;
use crate::routes::{Key, Route};

/// The running peer.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Bulk, and for IPv4 four at a time.
    figures: Vec<Figures>,
}

impl Peer {
    /// Starts it with these routes, random and skewed keys, and the right answers to the former.
    pub fn start<K: Key>(routes: &[Route<K>], keys: [&[K]; 2], right: &[u32]) -> Peer {
        let path = std::env::temp_dir().join(format!("culvert-fib-{}", std::process::id()));
        std::fs::write(&path, input(routes, keys, right)).expect("room for the peer's input");
        let mut child = Command::new(env!("DPDK_PEER"))
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer was built with this bench");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut peer = Peer {
            child,
            input,
            output,
            figures: Vec::new(),
        };
        let begun = peer.numbers();
        std::fs::remove_file(&path).expect("the peer has read it");
        let names: &[_] = match K::WIDTH {
            32 => &["rte_lpm bulk", "rte_lpm x4"],
            _ => &["rte_lpm6 bulk"],
        };
        // A table of 2^24 entries of four bytes, and 256 each for what is longer, as far
        // as they were ever touched.
        let lookup = (1 << 26) + (tables(routes) << 10);
        let figures = names.iter().map(|name| figures(name, &begun, lookup));
        peer.figures = figures.collect();
        peer
    }

    /// The numbers of one line of its answers.
    fn numbers(&mut self) -> Vec<f64> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the peer answers");
        assert!(
            !line.is_empty(),
            "the DPDK peer has died; what it said is above"
        );
        let numbers = line.split_whitespace().map(|number| number.parse());
        numbers.collect::<Result<_, _>>().expect("numbers")
    }

    fn ask(&mut self, what: &str) -> Vec<f64> {
        writeln!(self.input, "{what}").expect("the peer listens");
        self.numbers()
    }

    /// One round of lookups.
    pub fn round(&mut self) {
        let answers = self.ask("round");
        for (figures, answers) in self.figures.iter_mut().zip(answers.chunks(3)) {
            for (values, answer) in figures.lookups.iter_mut().zip(answers) {
                values.push(*answer);
            }
        }
    }

    /// Its updates, and all that was measured.
    pub fn finish(mut self) -> Vec<Figures> {
        let answers = self.ask("updates");
        self.figures[0].updates = Some((answers[0], answers[1]));
        self.figures[0].wrong += count(answers[2]);
        drop(self.input);
        self.child.wait().expect("the peer ends with its input");
        self.figures
    }
}

fn count(number: f64) -> usize {
    format!("{number:.0}").parse().expect("a whole number")
}

fn figures(name: &'static str, begun: &[f64], lookup: usize) -> Figures {
    Figures {
        name,
        lookups: Default::default(),
        wrong: count(begun[1]),
        memory: [lookup.min(count(begun[0])), count(begun[0])],
        updates: None,
    }
}

/// The peer's input file.
fn input<K: Key>(routes: &[Route<K>], keys: [&[K]; 2], right: &[u32]) -> Vec<u8> {
    let width = usize::from(K::WIDTH / 8);
    let number = |number: usize| u32::try_from(number).expect("32 bits").to_ne_bytes();
    let mut bytes = Vec::new();
    for value in [width, routes.len(), right.len(), tables(routes) + 256] {
        bytes.extend(number(value));
    }
    for (bits, length, next_hop) in routes {
        bytes.extend(bits.wide().to_be_bytes());
        bytes.extend(u32::from(*length).to_ne_bytes());
        bytes.extend(next_hop.to_ne_bytes());
    }
    for key in keys.iter().copied().flatten() {
        bytes.extend(&key.wide().to_be_bytes()[..width]);
    }
    bytes.extend(right.iter().flat_map(|answer| answer.to_ne_bytes()));
    bytes
}

/// Tables of 256 entries that these routes need behind the first 24 bits.
fn tables<K: Key>(routes: &[Route<K>]) -> usize {
    let levels = (24..K::WIDTH).step_by(8);
    let of_level = |level| {
        let longer = routes.iter().filter(move |(_, length, _)| *length > level);
        longer
            .map(move |(bits, _, _)| bits.truncate(level))
            .collect::<HashSet<_>>()
            .len()
    };
    levels.map(of_level).sum()
}
