//! A site is what a lab occupies on the machine: namespaces, processes and one
//! directory. Whatever happens to the lab, its site can be cleared: by the lab,
//! by the signal thread, by the panic hook, or by a later process that sweeps.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::{Output, POLL, Pipes, ProcessId, command, run, wait_for};

/// Where all sites have their directories: one owner (root), empty after a boot
/// like the processes and namespaces it speaks of.
pub(crate) const SITES: &str = "/run/culvert-lab";

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

static LIVE: Mutex<Vec<Arc<Site>>> = Mutex::new(Vec::new());
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// What one lab occupies.
#[derive(Debug)]
pub(crate) struct Site {
    tag: String,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    namespaces: Vec<String>,
    children: BTreeMap<u32, Child>,
}

impl Site {
    /// Takes a new site: a name nobody else has, a directory, an owner on record.
    pub(crate) fn open() -> Result<Arc<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab makes network namespaces: run it as root"
        );
        catch_signals();
        let pid = std::process::id();
        let tag = match COUNT.fetch_add(1, Ordering::Relaxed) {
            0 => format!("cvl{pid}"),
            more => format!("cvl{pid}x{more}"),
        };
        let dir = Path::new(SITES).join(&tag);
        // The owner is written before the directory has its name: a sweep that
        // sees the directory sees the owner.
        let new = Path::new(SITES).join(format!("new-{tag}"));
        let me = ProcessId::of(pid).context("cannot read /proc of this process")?;
        fs::create_dir_all(new.join("pids")).with_context(|| format!("cannot make {SITES}"))?;
        fs::create_dir_all(new.join("logs"))?;
        fs::write(new.join("owner"), format!("{} {}\n", me.pid, me.start))?;
        fs::rename(&new, &dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let site = Arc::new(Self {
            tag,
            dir,
            state: Mutex::default(),
        });
        lock(&LIVE).push(Arc::clone(&site));
        Ok(site)
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of this site's namespace for `place`.
    pub(crate) fn namespace(&self, place: &str) -> String {
        format!("{}-{place}", self.tag)
    }

    /// Makes the namespace for `place`, with its loopback up.
    pub(crate) fn add_namespace(&self, place: &str) -> Result<()> {
        let name = self.namespace(place);
        let mut state = self.open_state()?;
        ensure!(
            !state.namespaces.contains(&name),
            "{place} is already there"
        );
        state.namespaces.push(name.clone());
        run(&["ip", "netns", "add", &name], "")?;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"], "")?;
        Ok(())
    }

    /// Deletes the namespace for `place`.
    pub(crate) fn delete_namespace(&self, place: &str) -> Result<()> {
        let name = self.namespace(place);
        let mut state = self.open_state()?;
        run(&["ip", "netns", "del", &name], "")?;
        state.namespaces.retain(|other| *other != name);
        Ok(())
    }

    /// Runs a command in `place`'s namespace to its end, or kills it after `limit`.
    pub(crate) fn exec(
        &self,
        place: &str,
        argv: &[&str],
        env: &[(&str, &str)],
        (input, limit): (&str, Duration),
    ) -> Result<Output> {
        let name = argv.join(" ");
        let mut pipes = None;
        let pid = self.start(place, argv, |command| {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.envs(env.iter().copied()).spawn()?;
            pipes = Some(Pipes::take(&mut child, input));
            Ok(child)
        })?;
        let pipes = pipes.context("the child has no pipes")?;
        match self.wait(pid, limit) {
            Ok(status) => Ok(pipes.finish(name, status)),
            Err(error) => {
                let status = self.end(pid, Signal::SIGKILL)?;
                let Output { stdout, stderr, .. } = pipes.finish(name.clone(), status);
                Err(error.context(format!(
                    "`{name}` in {place}: {} {}",
                    stdout.trim(),
                    stderr.trim()
                )))
            }
        }
    }

    /// Starts a command in `place`'s namespace that goes on in the background;
    /// what it prints goes to the log file `log`.
    pub(crate) fn background(&self, place: &str, argv: &[&str], log: &Path) -> Result<u32> {
        let out = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let err = out.try_clone()?;
        self.start(place, argv, |command| {
            command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()
        })
    }

    fn start(
        &self,
        place: &str,
        argv: &[&str],
        spawn: impl FnOnce(&mut std::process::Command) -> std::io::Result<Child>,
    ) -> Result<u32> {
        let namespace = self.namespace(place);
        let mut full = vec!["ip", "netns", "exec", &namespace];
        full.extend(argv);
        // The lock is held from the start to the record, so that whoever clears
        // the site sees every process that was started.
        let mut state = self.open_state()?;
        let child = spawn(&mut command(&full)).context("cannot start `ip netns exec`")?;
        let pid = child.id();
        state.children.insert(pid, child);
        if let Some(id) = ProcessId::of(pid) {
            fs::write(self.pid_file(pid), format!("{}\n", id.start))?;
        }
        Ok(pid)
    }

    /// Waits for a process of this site to end by itself.
    pub(crate) fn wait(&self, pid: u32, limit: Duration) -> Result<ExitStatus> {
        wait_for("end of the process", limit, || self.ended(pid))
    }

    /// How the process ended; `None` while it runs.
    pub(crate) fn ended(&self, pid: u32) -> Result<Option<ExitStatus>> {
        let mut state = lock(&self.state);
        let child = state
            .children
            .get_mut(&pid)
            .context("the process was ended with its lab")?;
        let status = child.try_wait()?;
        if status.is_some() {
            state.children.remove(&pid);
            let _ = fs::remove_file(self.pid_file(pid));
        }
        Ok(status)
    }

    /// Ends a process of this site with `signal`, with SIGKILL if it takes too long.
    pub(crate) fn end(&self, pid: u32, signal: Signal) -> Result<ExitStatus> {
        send(pid, signal);
        let patience = if signal == Signal::SIGKILL {
            GRACE * 4
        } else {
            GRACE
        };
        if let Ok(status) = self.wait(pid, patience) {
            return Ok(status);
        }
        send(pid, Signal::SIGKILL);
        let status = self.wait(pid, GRACE * 4)?;
        bail!("process {pid} did not end within {GRACE:?} of {signal} and was killed ({status})")
    }

    /// The processes of this site that run.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        lock(&self.state)
            .children
            .keys()
            .filter_map(|pid| ProcessId::of(*pid))
            .collect()
    }

    /// Leaves everything as it is when the lab goes; a later sweep that is told
    /// to take kept labs too clears it.
    pub(crate) fn keep(&self) -> Result<()> {
        fs::write(self.dir.join("keep"), "")?;
        let mut state = lock(&self.state);
        state.closed = true;
        state.namespaces.clear();
        state.children.clear();
        drop(state);
        lock(&LIVE).retain(|site| site.tag != self.tag);
        Ok(())
    }

    /// Ends the processes, deletes the namespaces and the directory. Does
    /// nothing the second time.
    ///
    /// # Errors
    /// What could not be cleared; everything else is cleared nevertheless.
    pub(crate) fn clear(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.closed, true) {
            return Ok(());
        }
        let mut errors = Vec::new();
        end_all(&mut state.children, &mut errors);
        for name in std::mem::take(&mut state.namespaces) {
            if let Err(error) = run(&["ip", "netns", "del", &name], "") {
                errors.push(error.to_string());
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            errors.push(format!("cannot remove {}: {error}", self.dir.display()));
        }
        drop(state);
        lock(&LIVE).retain(|site| site.tag != self.tag);
        ensure!(errors.is_empty(), "lab {}: {}", self.tag, errors.join("; "));
        Ok(())
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        ensure!(!state.closed, "the lab has been taken down");
        Ok(state)
    }

    fn pid_file(&self, pid: u32) -> PathBuf {
        self.dir.join("pids").join(pid.to_string())
    }
}

/// Sends a signal to a child that was not reaped, so its number is its own.
fn send(pid: u32, signal: Signal) {
    if let Some(id) = ProcessId::of(pid) {
        id.signal(signal);
    }
}

fn end_all(children: &mut BTreeMap<u32, Child>, errors: &mut Vec<String>) {
    for pid in children.keys() {
        send(*pid, Signal::SIGTERM);
    }
    let start = Instant::now();
    while start.elapsed() < GRACE && !children.is_empty() {
        children.retain(|_, child| matches!(child.try_wait(), Ok(None)));
        thread::sleep(POLL);
    }
    for (pid, child) in std::mem::take(children).iter_mut() {
        errors.push(format!(
            "process {pid} did not end within {GRACE:?} and was killed"
        ));
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A lock that a panic elsewhere does not take away from the clearing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clears every site of this process.
pub(crate) fn clear_all() {
    let live = lock(&LIVE).clone();
    for site in live {
        if let Err(error) = site.clear() {
            eprintln!("{error:#}");
        }
    }
}

/// Stays here for good when a signal is ending the process: the signal's thread
/// clears the sites and ends the process with the signal's status.
pub(crate) fn leave_to_signal() {
    while SIGNALLED.load(Ordering::SeqCst) {
        thread::park();
    }
}

fn catch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(mut signals) => drop(thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                SIGNALLED.store(true, Ordering::SeqCst);
                eprintln!("signal {signal}: taking the lab down");
                clear_all();
                let _ = signal_hook::low_level::emulate_default_handler(signal);
                std::process::exit(128 + signal);
            }
        })),
        Err(error) => {
            eprintln!("cannot catch signals ({error}): after one, use `culvert-lab sweep`")
        }
    });
}

/// Makes a panic take this process's labs down before it goes on, also where a
/// panic aborts and no destructor runs. For binaries; in a test process other
/// tests have labs of their own.
pub fn tear_down_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        clear_all();
    }));
}
