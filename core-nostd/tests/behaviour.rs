//! `BEHAVIOUR.md`: every line names tests and captures that show it, and all of them
//! are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Stands for tests that are still to be written. With `CULVERT_NO_PENDING=1`
/// none may.
const PENDING: &str = "(pending)";

/// Stands for captures where none can show a line; the reason follows.
const NO_CAPTURE: &str = "none, because ";

/// A line of the page and the tests that it names.
#[derive(Debug, PartialEq)]
struct Line {
    text: String,
    tests: Vec<String>,
    captures: Captures,
}

/// The captures that a line names.
#[derive(Debug, PartialEq)]
enum Captures {
    /// It says nothing of them.
    Unsaid,
    /// It says why there are none.
    None,
    Named(Vec<String>),
}

fn lines(page: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for text in page.lines() {
        if let Some(text) = text.strip_prefix("- ") {
            lines.push(Line {
                text: text.to_owned(),
                tests: Vec::new(),
                captures: Captures::Unsaid,
            });
        } else if let Some(names) = text.strip_prefix("  Tests:") {
            let line = lines.last_mut().expect("tests of no line");
            line.tests
                .extend(names.split(',').map(|name| name.trim().to_owned()));
        } else if let Some(said) = text.strip_prefix("  Captures:") {
            let line = lines.last_mut().expect("captures of no line");
            line.captures = captures(said.trim());
        }
    }
    lines
}

fn captures(said: &str) -> Captures {
    match said.strip_prefix(NO_CAPTURE) {
        Some(reason) if reason.split_whitespace().count() > 4 => Captures::None,
        _ => {
            let names = said.split(',').map(|name| name.trim().to_owned());
            Captures::Named(names.collect())
        }
    }
}

/// What is wrong with the captures that the lines name, of those that there are.
fn capture_faults(lines: &[Line], there: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut unnamed = there.clone();
    for line in lines {
        match &line.captures {
            Captures::Unsaid => faults.push(format!("no captures: {}", line.text)),
            Captures::None => {}
            Captures::Named(names) => {
                for name in names {
                    if !there.contains(name) {
                        faults.push(format!("no such capture: {name}, for: {}", line.text));
                    }
                    unnamed.remove(name);
                }
            }
        }
    }
    let unnamed = unnamed.iter();
    faults.extend(unnamed.map(|name| format!("no line names the capture {name}")));
    faults
}

/// The sources of the workspace.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut open: Vec<_> = ["core-nostd", "host-shell", "ci", "firmware"]
        .map(|name| root.join(name))
        .into();
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue; // Not every crate exists yet.
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Whether a file is meant by `place`: by its own name, or by its directory's.
fn is_at(path: &Path, place: &str) -> bool {
    let named = |path: &Path| path.file_stem().is_some_and(|stem| stem == place);
    named(path) || path.parent().is_some_and(named)
}

/// Whether the source has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let start = format!("fn {name}(");
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| line.trim_start_matches("async ").starts_with(&start));
    at.is_some_and(|at| {
        let above = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#') || line.starts_with("//"));
        above
            .into_iter()
            .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// What is wrong with the page, and how many tests it waits for.
fn faults(lines: &[Line], exists: impl Fn(&str, &str) -> bool) -> (Vec<String>, usize) {
    let mut faults = Vec::new();
    let mut pending = 0;
    for line in lines {
        if line.tests.is_empty() {
            faults.push(format!("no tests: {}", line.text));
        }
        for test in &line.tests {
            match test.split_once("::") {
                _ if test == PENDING => {
                    println!("pending: {}", line.text);
                    pending += 1;
                }
                Some((place, name)) if exists(place, name) => {}
                _ => faults.push(format!("no such test: {test}, for: {}", line.text)),
            }
        }
    }
    (faults, pending)
}

#[test]
fn every_line_of_the_page_names_tests_that_exist() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("BEHAVIOUR.md");
    let lines = lines(&fs::read_to_string(page).unwrap());
    assert!(lines.len() > 25, "the page has {} lines", lines.len());
    let sources: Vec<_> = sources()
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap(), path))
        .collect();
    let exists = |place: &str, name: &str| {
        let mut at_place = sources.iter().filter(|(_, path)| is_at(path, place));
        at_place.any(|(source, _)| has_test(source, name))
    };
    let (faults, pending) = faults(&lines, exists);
    assert!(faults.is_empty(), "BEHAVIOUR.md:\n{}", faults.join("\n"));
    let may_wait = std::env::var_os("CULVERT_NO_PENDING").is_none_or(|value| value != "1");
    assert!(may_wait || pending == 0, "{pending} lines wait for tests");
}

#[test]
fn every_line_of_the_page_names_captures_that_exist() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = lines(&fs::read_to_string(crate_dir.join("BEHAVIOUR.md")).unwrap());
    let entries = fs::read_dir(crate_dir.join("tests/captures")).unwrap();
    let folders = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir());
    let there = folders.map(|entry| entry.file_name().into_string().unwrap());
    let faults = capture_faults(&lines, &there.collect());
    assert!(faults.is_empty(), "BEHAVIOUR.md:\n{}", faults.join("\n"));
}

#[test]
fn the_check_sees_missing_captures() {
    let page = "- One.\n  Captures: a, b\n- Two.\n- Three.\n  Captures: none, because nobody can see such a thing\n- Four.\n  Captures: none, because no\n";
    let there = ["a", "c"].map(str::to_owned).into();
    let found = capture_faults(&lines(page), &there);
    let expected = [
        "no such capture: b, for: One.",
        "no captures: Two.",
        "no such capture: none, for: Four.",
        "no such capture: because no, for: Four.",
        "no line names the capture c",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_check_sees_what_is_missing() {
    let page =
        "# Page\n\n## Section\n- One.\n  Tests: a::b, a::c\n- Two.\n- Three.\n  Tests: (pending)\n";
    let read = lines(page);
    assert_eq!(read.len(), 3);
    assert_eq!(read[0].tests, ["a::b", "a::c"]);
    let (found, pending) = faults(&read, |place, name| (place, name) == ("a", "b"));
    assert_eq!(found, ["no such test: a::c, for: One.", "no tests: Two."]);
    assert_eq!(pending, 1);
    let source = "mod tests {\n    #[test]\n    #[ignore = \"x\"]\n    fn real() {}\n\n    fn helper() {}\n}\n";
    assert!(has_test(source, "real"));
    assert!(!has_test(source, "helper") && !has_test(source, "rea"));
    assert!(is_at(Path::new("tests/a/main.rs"), "a") && is_at(Path::new("tests/a.rs"), "a"));
    assert!(!is_at(Path::new("a/tests/b.rs"), "a"));
}
