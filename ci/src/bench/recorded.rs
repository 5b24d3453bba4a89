//! Figures of the packet core that other commands measured and recorded.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Instructions a packet: `ci/instructions --record`.
const PIPELINE: &str = "benches/instructions.txt";
/// Instructions a lookup: the bench fib_instructions.
const FIB: &str = "benches/results/fib-instructions.txt";
/// Nanoseconds a lookup beside other tables: the bench fib.
const TIMES: &str = "benches/results/fib.csv";

/// A count with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// What was counted, as in the file.
    pub name: String,
    /// How much of it.
    pub count: f64,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Instructions that a packet takes through the core.
    pub pipeline: Vec<Count>,
    /// Instructions that a lookup takes in the FIB.
    pub fib: Vec<Count>,
    /// Nanoseconds a random lookup, by table, where there are 100,000 IPv4 routes or the
    /// most that there are.
    pub times: Vec<Count>,
}

impl Recorded {
    /// Reads those of the repository at `root`.
    ///
    /// # Errors
    /// When a file is not there or of another form.
    pub fn read(root: &Path) -> Result<Self> {
        let text = |file: &str| {
            fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))
        };
        Ok(Self {
            pipeline: counts(&text(PIPELINE)?).context(PIPELINE)?,
            fib: counts(&text(FIB)?).context(FIB)?,
            times: times(&text(TIMES)?).context(TIMES)?,
        })
    }
}

/// Lines of a name and a count, with comments.
fn counts(text: &str) -> Result<Vec<Count>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let count = |line: &str| {
        let (name, count) = line.rsplit_once(' ')?;
        Some(Count {
            name: name.to_owned(),
            count: count.parse().ok()?,
        })
    };
    lines
        .map(|line| count(line).with_context(|| format!("`{line}` is no count")))
        .collect()
}

/// The fourth column of the lines of IPv4 and 100,000 routes.
fn times(text: &str) -> Result<Vec<Count>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split(',').collect();
        if let ["IPv4", "100000", table, random, ..] = columns.as_slice() {
            let count = random.parse().with_context(|| format!("`{line}`"))?;
            let name = (*table).to_owned();
            found.push(Count { name, count });
        }
    }
    anyhow::ensure!(!found.is_empty(), "no lines of IPv4 with 100,000 routes");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositorys_own_files_are_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let recorded = Recorded::read(&root).unwrap();
        let name = |count: &Count| count.name == "encap_vxlan" && count.count > 50.0;
        assert!(recorded.pipeline.iter().any(name), "{recorded:?}");
        assert!(
            recorded.fib.len() > 5 && recorded.times.len() > 2,
            "{recorded:?}"
        );
    }

    #[test]
    fn what_is_no_count_is_named() {
        let error = counts("# fine\na 1\nb two\n").unwrap_err().to_string();
        assert!(error.contains("b two"), "{error}");
        assert!(times("IPv4,10,culvert,1.0\n").is_err());
    }
}
