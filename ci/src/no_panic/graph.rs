//! Who may reach whom in a set of object files.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::read::archive::ArchiveFile;
use object::{
    File, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolIndex,
    SymbolSection,
};

/// Sections of object files, and which of them mentions which.
///
/// A compiler puts each function and each constant into a section of its own, and
/// whatever one of them calls, jumps to or takes the address of outside its own
/// section needs a relocation, tables of functions and vtables too. So what a
/// section cannot reach here, it cannot call. The other way round it need not be so.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Nodes that define a symbol which other object files see.
    defined: HashMap<String, Vec<usize>>,
    /// Nodes that stand for symbols which nobody defines.
    undefined: HashMap<String, usize>,
}

struct Node {
    /// A symbol that lies there, demangled, or the section's name.
    name: String,
    defined: bool,
    /// Sorted.
    edges: Vec<usize>,
}

/// The names from a root to what was searched for, both included.
pub(super) type Chain = Vec<String>;

impl Graph {
    /// Reads the object files in these archives, which may refer to each other.
    pub(super) fn read(archives: &[impl AsRef<Path>]) -> Result<Graph> {
        let mut graph = Graph::default();
        let mut pending = Vec::new();
        for path in archives {
            let path = path.as_ref();
            graph
                .add_archive(path, &mut pending)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        for (from, name) in pending {
            graph.add_edges_to(from, &name);
        }
        for node in &mut graph.nodes {
            node.edges.sort_unstable();
            node.edges.dedup();
        }
        Ok(graph)
    }

    fn add_archive(&mut self, path: &Path, pending: &mut Vec<(usize, String)>) -> Result<()> {
        let data = fs::read(path)?;
        for member in ArchiveFile::parse(&*data)?.members() {
            let member = member?;
            // The compiler's own description of the crate.
            if member.name() == b"lib.rmeta" {
                continue;
            }
            let name = String::from_utf8_lossy(member.name());
            let file = File::parse(member.data(&*data)?)
                .with_context(|| format!("{name} is no object file"))?;
            self.add_object(&file, pending)
                .with_context(|| format!("in {name}"))?;
        }
        Ok(())
    }

    /// Adds an object's sections; what it needs from others goes into `pending`.
    fn add_object(&mut self, file: &File<'_>, pending: &mut Vec<(usize, String)>) -> Result<()> {
        let mut places = HashMap::new();
        for section in file.sections() {
            places.insert(section.index(), self.nodes.len());
            self.nodes.push(Node {
                name: section.name()?.to_owned(),
                defined: true,
                edges: Vec::new(),
            });
        }
        let mut named = HashSet::new();
        for symbol in file.symbols() {
            let name = symbol.name()?;
            let Some(node) = symbol.section_index().and_then(|index| places.get(&index)) else {
                continue;
            };
            let is_mapping = name.is_empty() || name.starts_with(['$', '.']);
            if !is_mapping && named.insert(*node) {
                self.nodes[*node].name = format!("{:#}", rustc_demangle::demangle(name));
            }
            if symbol.is_global() {
                self.defined.entry(name.to_owned()).or_default().push(*node);
            }
        }
        for section in file.sections() {
            let from = places[&section.index()];
            for (at, relocation) in section.relocations() {
                match target(file, &places, relocation.target()) {
                    Ok(Target::Here(to)) => self.nodes[from].edges.push(to),
                    Ok(Target::Elsewhere(name)) => pending.push((from, name)),
                    Ok(Target::Nowhere) => {}
                    Err(error) => {
                        return Err(error.context(format!("at {at:#x} of {}", section.name()?)));
                    }
                }
            }
        }
        Ok(())
    }

    fn add_edges_to(&mut self, from: usize, name: &str) {
        if let Some(definitions) = self.defined.get(name) {
            self.nodes[from].edges.extend(definitions);
            return;
        }
        let nodes = &mut self.nodes;
        let node = *self.undefined.entry(name.to_owned()).or_insert_with(|| {
            nodes.push(Node {
                name: format!("{:#}", rustc_demangle::demangle(name)),
                defined: false,
                edges: Vec::new(),
            });
            nodes.len() - 1
        });
        self.nodes[from].edges.push(node);
    }

    /// Names of the functions and constants that other object files see and whose
    /// name begins so.
    pub(super) fn names(&self, prefix: &str) -> Vec<&str> {
        let places = self.defined.values().flatten();
        let names = places.map(|place| self.nodes[*place].name.as_str());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// From the nodes with these names: the shortest way to each node for which
    /// `is_target` holds, from each node that mentions it; ways through targets
    /// are not followed. A symbol without a definition is given as such.
    pub(super) fn find(
        &self,
        is_root: impl Fn(&str) -> bool,
        is_target: impl Fn(&str, bool) -> bool,
    ) -> Vec<Chain> {
        let mut parent = vec![None; self.nodes.len()];
        let mut seen = vec![false; self.nodes.len()];
        let mut queue = VecDeque::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if is_root(&node.name) {
                seen[index] = true;
                queue.push_back(index);
            }
        }
        let mut found = Vec::new();
        while let Some(from) = queue.pop_front() {
            for to in self.nodes[from].edges.iter().copied() {
                let node = &self.nodes[to];
                if is_target(&node.name, node.defined) {
                    found.push(self.chain(&parent, from, to));
                } else if !seen[to] {
                    seen[to] = true;
                    parent[to] = Some(from);
                    queue.push_back(to);
                }
            }
        }
        found
    }

    fn chain(&self, parent: &[Option<usize>], from: usize, to: usize) -> Chain {
        let mut chain = vec![self.nodes[to].name.clone()];
        let mut at = Some(from);
        while let Some(node) = at {
            chain.push(self.nodes[node].name.clone());
            at = parent[node];
        }
        chain.reverse();
        chain
    }
}

enum Target {
    /// A section of the same object file.
    Here(usize),
    /// A symbol of another one.
    Elsewhere(String),
    /// A number.
    Nowhere,
}

fn target(
    file: &File<'_>,
    places: &HashMap<SectionIndex, usize>,
    target: RelocationTarget,
) -> Result<Target> {
    let section = |index: SectionIndex| match places.get(&index) {
        Some(place) => Ok(Target::Here(*place)),
        None => bail!("a relocation to a section that is not there"),
    };
    let symbol = |index: SymbolIndex| {
        let symbol = file.symbol_by_index(index)?;
        match symbol.section() {
            // The linker may take another object's definition of the same name.
            SymbolSection::Section(_) if symbol.is_weak() => {
                Ok(Target::Elsewhere(symbol.name()?.to_owned()))
            }
            SymbolSection::Section(index) => section(index),
            SymbolSection::Absolute => Ok(Target::Nowhere),
            SymbolSection::Undefined | SymbolSection::Common => {
                Ok(Target::Elsewhere(symbol.name()?.to_owned()))
            }
            _ => bail!("a symbol of an unknown kind: {}", symbol.name()?),
        }
    };
    match target {
        RelocationTarget::Symbol(index) => symbol(index),
        RelocationTarget::Section(index) => section(index),
        RelocationTarget::Absolute => Ok(Target::Nowhere),
        _ => bail!("a relocation of an unknown kind"),
    }
}
