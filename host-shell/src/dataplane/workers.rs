//! Several workers as one: what they have in common is the ports, of which each has
//! descriptors of its own.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use culvert_core::PortId;
use futures_util::future::{join_all, select_all};
use tokio::sync::oneshot;

use super::{Driver, ShellCounter, Worker, WorkerEnded, WorkerGone, WorkerOptions};

/// How many workers there are to be, and how they work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How many, at least one.
    pub count: u8,
    /// The processor of each; empty where the kernel chooses.
    pub cpus: Vec<usize>,
    /// For how long each polls its ports after work before it sleeps.
    pub spin: Duration,
}

/// What [`Workers::start`] has started.
pub struct Started {
    /// The workers.
    pub workers: Workers,
    /// The shell's ends of their control channels, non-blocking, in their order.
    pub channels: Vec<UnixStream>,
    /// Resolves when the first of them ends.
    pub ended: WorkerEnded,
}

/// The control plane's hold on all workers. Dropping it ends their threads.
pub struct Workers {
    all: Vec<Worker>,
    cpus: Vec<usize>,
}

impl Workers {
    /// Starts the workers, each with empty tables. The first one announces new addresses
    /// for all. Must run in a tokio runtime.
    ///
    /// # Errors
    /// As [`Worker::start_with`].
    pub fn start(plan: &Plan) -> io::Result<Started> {
        let started = Instant::now();
        let (mut all, mut channels, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..usize::from(plan.count) {
            let options = WorkerOptions {
                number,
                cpu: plan.cpus.get(number).copied(),
                spin: plan.spin,
                announces: number == 0,
                started,
            };
            let (worker, channel, ended) = Worker::start_with(options)?;
            all.push(worker);
            channels.push(channel);
            ends.push(ended);
        }
        let (alive, ended) = oneshot::channel();
        tokio::spawn(async move {
            // Each resolves with an error, and no other value exists.
            let _ = select_all(ends).await;
            drop(alive);
        });
        let workers = Workers {
            all,
            cpus: plan.cpus.clone(),
        };
        Ok(Started {
            workers,
            channels,
            ended,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The processor that a worker was told to run on, if it was.
    pub fn cpu(&self, worker: usize) -> Option<usize> {
        self.cpus.get(worker).copied()
    }

    /// Hands a port to all workers, each its own driver, in their order; returns the
    /// drivers that had the id before.
    ///
    /// # Errors
    /// As [`Worker::attach`] of one of them; the others may have the port.
    ///
    /// # Panics
    /// When there are not as many drivers as workers.
    pub async fn attach(&self, port: PortId, drivers: Vec<Driver>) -> io::Result<Vec<Driver>> {
        assert_eq!(drivers.len(), self.all.len(), "one driver for each worker");
        let each = self.all.iter().zip(drivers);
        let done = join_all(each.map(|(worker, driver)| worker.attach(port, driver))).await;
        let before: io::Result<Vec<Option<Driver>>> = done.into_iter().collect();
        Ok(before?.into_iter().flatten().collect())
    }

    /// Takes a port from all workers. None of them touches it afterwards.
    ///
    /// # Errors
    /// [`WorkerGone`].
    pub async fn detach(&self, port: PortId) -> Result<Vec<Driver>, WorkerGone> {
        let done = join_all(self.all.iter().map(|worker| worker.detach(port))).await;
        let before: Result<Vec<Option<Driver>>, WorkerGone> = done.into_iter().collect();
        Ok(before?.into_iter().flatten().collect())
    }

    /// What the drivers of all workers have counted together.
    pub fn counters(&self) -> Vec<(ShellCounter, u64)> {
        let sum = |counter| {
            let each = self.all.iter();
            each.map(|worker| worker.counters().get(counter)).sum()
        };
        let all = ShellCounter::ALL.into_iter();
        all.map(|counter| (counter, sum(counter))).collect()
    }

    /// The ports whose device has failed under a worker's hands, and why.
    pub fn failed(&self) -> BTreeMap<PortId, String> {
        let each = self.all.iter();
        each.flat_map(|worker| worker.counters().failed()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cpus: &[usize]) -> Plan {
        Plan {
            count: 2,
            cpus: cpus.to_vec(),
            spin: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn the_end_of_one_worker_is_noticed() {
        let Started {
            workers,
            mut channels,
            ended,
        } = Workers::start(&plan(&[])).unwrap();
        assert_eq!((workers.count(), channels.len()), (2, 2));
        let mut ended = std::pin::pin!(ended);
        let soon = Duration::from_millis(50);
        let early = tokio::time::timeout(soon, &mut ended).await;
        assert!(early.is_err(), "they go on");
        // A worker ends when nobody can tell it anything any more.
        channels.pop();
        let end = tokio::time::timeout(Duration::from_secs(5), &mut ended).await;
        assert!(matches!(end, Ok(Err(_))));
        let gone = workers.detach(PortId(1)).await;
        assert!(gone.is_err());
    }

    #[tokio::test]
    async fn a_worker_is_on_its_processor_or_is_not_started() {
        // Whichever this process may use.
        let allowed = |of: &str| {
            let status = std::fs::read_to_string(of).unwrap();
            let mut lines = status.lines();
            let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            list.unwrap().trim().to_owned()
        };
        let own = allowed("/proc/thread-self/status");
        let first: usize = own.split(['-', ',']).next().unwrap().parse().unwrap();
        let started = Workers::start(&plan(&[first, first])).unwrap();
        assert_eq!(started.workers.cpu(1), Some(first));
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let pinned = tasks.filter(|task| {
            let task = task.as_ref().unwrap().path();
            let is_worker = |name: String| name.trim() == "culvert-1";
            let named = std::fs::read_to_string(task.join("comm")).is_ok_and(is_worker);
            named && allowed(task.join("status").to_str().unwrap()) == first.to_string()
        });
        assert!(pinned.count() >= 1);
        let Err(error) = Workers::start(&plan(&[first, 999])) else {
            panic!("there is no such processor");
        };
        let said = error.to_string();
        assert!(said.contains("cannot run on processor 999"), "{said}");
    }
}
