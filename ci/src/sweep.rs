//! Clears what labs left whose process is dead.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::process::{ProcessId, run, wait_for};
use crate::site::SITES;

/// What to do with labs that were left up on purpose (`--keep`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Leave them.
    Leave,
    /// Take them down too.
    Take,
}

/// What a sweep cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tags of the labs whose leftovers were found.
    pub labs: Vec<String>,
    /// Processes ended.
    pub processes: usize,
    /// Namespaces deleted.
    pub namespaces: usize,
}

/// Clears the leftovers of labs whose process is dead: processes on record
/// whose start time matches, namespaces, directories. Labs that run are not
/// touched, nor is anything else on the machine. Two sweeps at once do no harm.
///
/// # Errors
/// When the namespaces cannot be listed.
pub fn sweep(kept: Kept) -> Result<Swept> {
    let mut swept = Swept::default();
    // Namespaces first: a lab's directory is there before its namespaces, so a
    // namespace seen here without a directory is nobody's.
    let namespaces = lab_namespaces()?;
    for dir in site_dirs() {
        if is_dead(&dir) && (kept == Kept::Take || !dir.join("keep").exists()) {
            clear_dead(&dir, &namespaces, &mut swept);
        }
    }
    for (tag, name) in &namespaces {
        let has_owner = Path::new(SITES).join(tag).exists();
        if !has_owner && delete_namespace(name) {
            swept.namespaces += 1;
            note(&mut swept.labs, tag);
        }
    }
    Ok(swept)
}

/// Names of all namespaces of the lab `tag` that are there now.
///
/// # Errors
/// When the namespaces cannot be listed.
pub fn namespaces_of(tag: &str) -> Result<Vec<String>> {
    let all = lab_namespaces()?.into_iter();
    Ok(all
        .filter(|(owner, _)| owner == tag)
        .map(|(_, name)| name)
        .collect())
}

/// All namespaces with a lab's name, each with the lab's tag.
fn lab_namespaces() -> Result<Vec<(String, String)>> {
    let listed = run(&["ip", "netns", "list"], "")?;
    let names = listed
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    Ok(names
        .filter_map(|name| Some((tag_of(name)?.to_owned(), name.to_owned())))
        .collect())
}

/// The tag in a namespace's name (`cvl<pid>-<place>` or `cvl<pid>x<n>-<place>`);
/// `None` for a name that is no lab's.
fn tag_of(name: &str) -> Option<&str> {
    let (tag, place) = name.split_once('-')?;
    let numbers = tag.strip_prefix("cvl")?;
    let (pid, more) = numbers.split_once('x').unwrap_or((numbers, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(pid) && digits(more) && !place.is_empty()).then_some(tag)
}

fn site_dirs() -> Vec<PathBuf> {
    let entries = fs::read_dir(SITES).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries.map(|entry| entry.path()).collect();
    dirs.sort();
    dirs
}

fn tag_from_dir(dir: &Path) -> String {
    dir.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether the process that owns this directory is no more.
fn is_dead(dir: &Path) -> bool {
    let owner = fs::read_to_string(dir.join("owner")).unwrap_or_default();
    if let Some(owner) = parse_owner(&owner) {
        return !owner.is_alive();
    }
    // No owner, or not all of the line yet: either just being made (its name says
    // by whom) or half removed.
    let tag = tag_from_dir(dir);
    let digits = tag.trim_start_matches("new-").trim_start_matches("cvl");
    let pid = digits.split('x').next().and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| ProcessId::of(pid).is_none())
}

fn parse_owner(text: &str) -> Option<ProcessId> {
    let (pid, start) = text.trim().split_once(' ')?;
    Some(ProcessId {
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
    })
}

fn clear_dead(dir: &Path, namespaces: &[(String, String)], swept: &mut Swept) {
    let tag = tag_from_dir(dir);
    swept.processes += end_processes(dir);
    for (_, name) in namespaces.iter().filter(|(owner, _)| *owner == tag) {
        swept.namespaces += usize::from(delete_namespace(name));
    }
    // Another sweep may have been faster.
    let _ = fs::remove_dir_all(dir);
    note(&mut swept.labs, &tag);
}

/// Ends the processes that this directory has on record; says how many ran.
fn end_processes(dir: &Path) -> usize {
    let files = fs::read_dir(dir.join("pids"))
        .into_iter()
        .flatten()
        .flatten();
    let recorded = files.filter_map(|file| {
        let pid = file.file_name().to_string_lossy().parse().ok()?;
        let start = fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
        Some(ProcessId { pid, start })
    });
    let running: Vec<_> = recorded.filter(|process| process.is_alive()).collect();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        running.iter().for_each(|process| process.signal(signal));
        let gone = || {
            Ok(running
                .iter()
                .all(|process| !process.is_alive())
                .then_some(()))
        };
        if wait_for("end of the processes", Duration::from_secs(5), gone).is_ok() {
            break;
        }
    }
    running.len()
}

fn delete_namespace(name: &str) -> bool {
    run(&["ip", "netns", "del", name], "").is_ok()
}

fn note(labs: &mut Vec<String>, tag: &str) {
    if !labs.iter().any(|known| known == tag) {
        labs.push(tag.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_labs_names_are_a_labs() {
        assert_eq!(tag_of("cvl12-n1"), Some("cvl12"));
        assert_eq!(tag_of("cvl12x3-n1"), Some("cvl12x3"));
        for other in [
            "cvl-n1", "cvl12", "cvl12-", "cvlx1-a", "cvl1a-b", "cni-12", "cvl1x-a", "xcvl1-a",
        ] {
            assert_eq!(tag_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_lab_that_is_just_being_made_is_not_dead() {
        let own = std::process::id();
        let made = tempfile::tempdir().unwrap();
        let dir = made.path().join(format!("new-cvl{own}x3"));
        fs::create_dir(&dir).unwrap();
        assert!(!is_dead(&dir));
        for begun in ["".to_owned(), own.to_string()] {
            fs::write(dir.join("owner"), &begun).unwrap();
            assert!(!is_dead(&dir), "`{begun}`");
        }
        fs::write(dir.join("owner"), format!("{own} 1\n")).unwrap();
        assert!(is_dead(&dir));
        // No process can have this number.
        let dead = made.path().join("new-cvl4294967295");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("owner"), "").unwrap();
        assert!(is_dead(&dead));
    }

    #[test]
    fn an_owner_line_is_read() {
        assert_eq!(
            parse_owner("12 345\n"),
            Some(ProcessId {
                pid: 12,
                start: 345
            })
        );
        assert_eq!(parse_owner("12"), None);
        assert_eq!(parse_owner("a b"), None);
    }
}
