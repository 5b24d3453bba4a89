//! A case: the four files of its folder.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use culvert_core::PortId;
use culvert_core::channel::{Operation, Owner, PortKind};
use serde::{Deserialize, Serialize};

use super::operations::{OwnerText, Text};
use super::{Capture, Port};

/// Tables, and what else people write.
pub const TABLES: &str = "tables.toml";
/// The frames that come in.
pub const INPUT: &str = "in.pcapng";
/// The frames that go out.
pub const OUTPUT: &str = "out.pcapng";
/// Counters at the end.
pub const COUNTERS: &str = "counters.txt";

/// What a gateway is given, and what is known of the outcome beforehand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tables {
    /// What the case shows, in the words of `BEHAVIOUR.md`.
    pub about: String,
    /// How long it takes, in milliseconds.
    pub until_ms: u64,
    /// Names of ports.
    pub ports: BTreeMap<String, u16>,
    /// Display filters of Wireshark, and how many frames of the output each is to
    /// match. No regenerating writes these.
    #[serde(default)]
    pub expect: BTreeMap<String, u64>,
    /// Counters that must have these values; all others are in a file.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// Changes of the tables.
    pub apply: Vec<Transaction>,
}

/// Operations of one owner, carried out together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Transaction {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// Whose.
    #[serde(with = "OwnerText")]
    pub owner: Owner,
    /// What.
    operations: Vec<Text>,
}

impl Transaction {
    /// A transaction at a time.
    pub fn new(at_ms: u64, owner: Owner, operations: Vec<Operation>) -> Self {
        Transaction {
            at_ms,
            owner,
            operations: operations.into_iter().map(Text).collect(),
        }
    }

    /// What it does.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().map(|text| &text.0)
    }
}

impl Tables {
    /// The tables of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Tables, String> {
        let tables: Tables = toml::from_str(text).map_err(|e| e.to_string())?;
        if tables.about.trim().len() < 20 || tables.about.contains('\n') {
            return Err("`about` must say in one line what the case shows".into());
        }
        if tables.expect.is_empty() && tables.counts.is_empty() {
            return Err("without `expect` and `counts` any output could be blessed".into());
        }
        let transactions = || tables.apply.windows(2);
        if transactions().any(|two| two[0].at_ms > two[1].at_ms) {
            return Err("the transactions are not in the order of their times".into());
        }
        for id in tables.endpoints_of_frames() {
            if !tables.ports.values().any(|port| *port == id.0) {
                return Err(format!("port {id} has no name under [ports]"));
            }
        }
        Ok(tables)
    }

    /// The file: one operation a line.
    pub fn text(&self) -> String {
        let mut text = format!("about = {}\n", inline(&self.about));
        writeln!(text, "until-ms = {}", self.until_ms).unwrap();
        let mut section = |name: &str, lines: String| {
            if !lines.is_empty() {
                write!(text, "\n[{name}]\n{lines}").unwrap();
            }
        };
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_by_key(|(_, id)| **id);
        let ports = ports.into_iter().map(|port| BTreeMap::from([port]));
        section("ports", ports.map(|port| lines(&port)).collect());
        section("expect", lines(&self.expect));
        section("counts", lines(&self.counts));
        for transaction in &self.apply {
            let owner = transaction.owner;
            let at = transaction.at_ms;
            write!(text, "\n[[apply]]\nat-ms = {at}\nowner = \"{owner}\"\n").unwrap();
            text.push_str("operations = [\n");
            for operation in &transaction.operations {
                writeln!(text, "    {},", inline(operation)).unwrap();
            }
            text.push_str("]\n");
        }
        text
    }

    /// The counters that are not what the tables say of them.
    pub fn wrong_counts(&self, counters: &str) -> Vec<String> {
        let lines = || counters.lines().filter_map(|line| line.split_once(' '));
        let value = |name| lines().find(|(found, _)| *found == name);
        let wrong = self.counts.iter().filter_map(|(name, count)| {
            let found = value(name).map_or("0", |(_, value)| value);
            let wrong = found != count.to_string();
            wrong.then(|| format!("counter {name} is {found}, the tables say {count}"))
        });
        wrong.collect()
    }

    /// The ports that frames can come in and go out by, whenever they are there.
    fn endpoints_of_frames(&self) -> Vec<PortId> {
        let all = self.apply.iter().flat_map(Transaction::operations);
        let mut ids: Vec<_> = all
            .filter_map(|operation| match operation {
                Operation::UpsertPort(port) => Some(port.id),
                _ => None,
            })
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The ports as a capture names them, in the order of their numbers.
    pub fn ports(&self) -> Vec<Port> {
        let mut ports: Vec<_> = self
            .ports
            .iter()
            .map(|(name, id)| Port {
                id: PortId(*id),
                name: name.clone(),
                description: self.description(PortId(*id)),
            })
            .collect();
        ports.sort_by_key(|port| port.id);
        ports
    }

    /// What a port is for, as its first entry says.
    fn description(&self, id: PortId) -> String {
        let mut all = self.apply.iter().flat_map(Transaction::operations);
        let kind = all.find_map(|operation| match operation {
            Operation::UpsertPort(port) if port.id == id => Some(&port.kind),
            _ => None,
        });
        let join = |all: &mut dyn Iterator<Item = String>| all.collect::<Vec<_>>().join(", ");
        let what = match kind {
            Some(PortKind::Endpoint(pod)) => {
                let addresses = &mut pod.addresses.iter().map(ToString::to_string);
                format!("endpoint {}", join(addresses))
            }
            Some(PortKind::Wire(wire)) => {
                let one = wire.addresses.iter();
                let one = &mut one.map(|a| format!("{}/{}", a.address, a.prefix_length));
                format!("underlay {}", join(one))
            }
            Some(PortKind::Host { .. }) => "host".to_owned(),
            Some(PortKind::Underlay) => "underlay behind sockets".to_owned(),
            None => "no port at all".to_owned(),
        };
        format!("port {id}: {what}")
    }
}

/// Keys and values, one to a line.
fn lines(table: &impl Serialize) -> String {
    toml::to_string(table).unwrap()
}

/// A value as it is written behind `=`.
fn inline(value: &(impl Serialize + ?Sized)) -> String {
    let mut text = String::new();
    let serializer = toml::ser::ValueSerializer::new(&mut text);
    value.serialize(serializer).unwrap();
    text
}

/// A folder with its tables and its input.
#[derive(Clone, Debug)]
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
    /// Tables.
    pub tables: Tables,
    /// Input.
    pub input: Capture,
}

impl Case {
    /// Reads a folder.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn read(folder: &Path) -> Result<Case, String> {
        let name = folder.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let wrong = |file: &str, why: String| format!("{}: {why}", folder.join(file).display());
        let path = folder.join(TABLES);
        let text = fs::read_to_string(path).map_err(|e| wrong(TABLES, e.to_string()))?;
        let tables = Tables::parse(&text).map_err(|e| wrong(TABLES, e))?;
        let bytes = fs::read(folder.join(INPUT)).map_err(|e| wrong(INPUT, e.to_string()))?;
        let input = Capture::parse(&bytes, &tables.ports()).map_err(|e| wrong(INPUT, e))?;
        let last = input.frames.last().map_or(0, |frame| frame.micros);
        if last > tables.until_ms * 1000 {
            return Err(wrong(INPUT, "it goes on behind `until-ms`".into()));
        }
        Ok(Case {
            name,
            folder: folder.to_owned(),
            tables,
            input,
        })
    }

    /// All folders below one that holds nothing but cases, by name.
    ///
    /// # Errors
    /// As [`Case::read`].
    pub fn read_all(below: &Path) -> Result<Vec<Case>, String> {
        let entries = fs::read_dir(below).map_err(|e| format!("{}: {e}", below.display()))?;
        let mut folders: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        folders.iter().map(|folder| Case::read(folder)).collect()
    }
}
