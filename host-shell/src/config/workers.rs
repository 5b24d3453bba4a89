//! `[workers]`: the threads that forward.

use std::collections::BTreeSet;
use std::fs;
use std::thread::available_parallelism;
use std::time::Duration;

use serde::Deserialize;

use crate::dataplane::Plan;

/// Workers at most.
const MOST: u8 = 16;
/// Workers at most that are started unasked.
const MOST_UNASKED: usize = 4;
/// Processors for each worker that is started unasked: the others are for the pods.
const PROCESSORS_FOR_ONE: usize = 4;
/// Microseconds that a worker polls after work, at most.
const LONGEST_SPIN: u32 = 1_000_000;

/// Where the kernel tells which processors are online, as `0-3,6`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkers {
    count: Option<u8>,
    #[serde(default)]
    cpus: Vec<usize>,
    #[serde(default)]
    spin_us: u32,
}

impl RawWorkers {
    /// The section with what is wrong with it added to `found`.
    pub(super) fn check(self, found: &mut Vec<String>) -> Plan {
        let online = fs::read_to_string(ONLINE).ok();
        self.check_on(online.as_deref().and_then(processors), found)
    }

    /// As [`RawWorkers::check`] on a machine with these processors, if they are known.
    fn check_on(self, online: Option<BTreeSet<usize>>, found: &mut Vec<String>) -> Plan {
        let RawWorkers {
            count,
            cpus,
            spin_us,
        } = self;
        match count {
            Some(0) => found.push(format!(
                "workers.count is 0, and nothing would be forwarded; set 1 to {MOST}"
            )),
            Some(more) if more > MOST => found.push(format!(
                "workers.count is {more}; there can be at most {MOST}"
            )),
            _ => {}
        }
        check_processors(&cpus, online, found);
        let listed = u8::try_from(cpus.len()).unwrap_or(u8::MAX);
        let plain = match listed {
            // A list says how many, too.
            1..=MOST => listed,
            0 => unasked(),
            _ => {
                found.push(format!(
                    "workers.cpus has {} processors; there can be at most {MOST} workers",
                    cpus.len()
                ));
                MOST
            }
        };
        if let Some(count) = count
            && listed > 0
            && count != listed
        {
            found.push(format!(
                "workers.cpus has {} processors for {count} workers; list one for each, or leave out workers.count",
                cpus.len()
            ));
        }
        if spin_us > LONGEST_SPIN {
            found.push(format!(
                "workers.spin_us is {spin_us}; at most {LONGEST_SPIN}, which is a second, makes sense"
            ));
        }
        Plan {
            count: count.unwrap_or(plain),
            cpus,
            spin: Duration::from_micros(spin_us.into()),
        }
    }
}

fn check_processors(cpus: &[usize], online: Option<BTreeSet<usize>>, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for cpu in cpus {
        if !seen.insert(*cpu) {
            found.push(format!(
                "workers.cpus names processor {cpu} twice; two workers on one only wait for each other"
            ));
        }
        if let Some(online) = &online
            && !online.contains(cpu)
        {
            let there: Vec<_> = online.iter().map(ToString::to_string).collect();
            found.push(format!(
                "workers.cpus names processor {cpu}, which is not there or not online; there are {}",
                there.join(", ")
            ));
        }
    }
}

/// Workers where the configuration does not say: one for each four processors, at least
/// one and at most four. Pods need most of the machine.
fn unasked() -> u8 {
    let processors = available_parallelism().map_or(1, usize::from);
    let count = (processors / PROCESSORS_FOR_ONE).clamp(1, MOST_UNASKED);
    u8::try_from(count).unwrap_or(1)
}

/// The processors of a list such as `0-3,6`.
fn processors(text: &str) -> Option<BTreeSet<usize>> {
    let mut all = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Plan, Vec<String>) {
        let raw: RawWorkers = toml::from_str(text).unwrap();
        let mut found = Vec::new();
        let plan = raw.check_on(processors("0-3,6\n"), &mut found);
        (plan, found)
    }

    #[test]
    fn a_list_of_processors_says_how_many_workers() {
        let (plan, found) = check("cpus = [2, 6]\nspin_us = 50");
        assert_eq!(found, [""; 0]);
        assert_eq!((plan.count, plan.cpus), (2, vec![2, 6]));
        assert_eq!(plan.spin, Duration::from_micros(50));
        let (plan, found) = check("count = 16");
        assert_eq!((plan.count, plan.cpus, found.len()), (16, vec![], 0));
        let (plan, _) = check("");
        assert!((1..=4).contains(&plan.count), "{plan:?}");
        assert_eq!(plan.spin, Duration::ZERO);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, said) in [
            ("count = 0", "nothing would be forwarded"),
            ("count = 17", "at most 16"),
            ("count = 3\ncpus = [0, 1]", "2 processors for 3 workers"),
            ("cpus = [0, 0]", "processor 0 twice"),
            (
                "cpus = [0, 5]",
                "processor 5, which is not there or not online; there are 0, 1, 2, 3, 6",
            ),
            (
                "cpus = [0,1,2,3,6,0,1,2,3,6,0,1,2,3,6,0,1]",
                "at most 16 workers",
            ),
            ("spin_us = 1000001", "a second"),
        ] {
            let (_, found) = check(text);
            assert!(
                found.iter().any(|problem| problem.contains(said)),
                "{text}: {found:?}"
            );
        }
    }
}
