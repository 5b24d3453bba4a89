//! `culvert appliance`: builds the image for bare metal, runs it in QEMU, and shows
//! what it says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use culvert_host::appliance::key::Key;
use culvert_host::appliance::{
    APPLIANCE, Arch, Build, Console, Entry, Error, Image, Line, Logs, Machine, Nic, Serial, build,
    find_source, is_complaint,
};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::bench;
use super::manage::Manage;
use super::{new_table, render};

/// How often `logs --follow` looks whether there is more.
const FOLLOW: Duration = Duration::from_millis(200);

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Build images with the toolchain that is there, and tell their sizes
    Build {
        /// For which architecture, or for several: aarch64, x86_64, cortex-m4
        #[arg(long = "arch", value_name = "ARCH", default_values = ["aarch64", "x86_64"])]
        arches: Vec<Arch>,
        #[command(flatten)]
        source: Source,
    },
    /// Run an image in QEMU until it ends; its status is the image's
    Run(Run),
    /// Decode what an image has said on its serial line
    Logs {
        /// The image, with its symbols
        #[arg(long, value_name = "ELF")]
        image: PathBuf,
        /// Go on showing what it says
        #[arg(long, short)]
        follow: bool,
        /// Show the places in the sources, too
        #[arg(long)]
        places: bool,
        /// What the serial line said; - for standard input
        file: PathBuf,
    },
    /// Make a file with a new key for the control channel by TCP
    Key {
        /// The file, which must not be there yet; nobody but its owner may use it
        file: PathBuf,
    },
    /// Tell an appliance, over its console, the addresses of its management port and its key
    Manage(Manage),
    /// Count the instructions that the core takes for a packet, in QEMU, and compare them
    /// with those in firmware/instructions.txt
    Bench {
        /// For which architecture, or for several: aarch64, x86_64
        #[arg(long = "arch", value_name = "ARCH", default_values = ["aarch64", "x86_64"])]
        arches: Vec<Arch>,
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Args)]
pub(crate) struct Source {
    /// culvert's sources [default: here or above]
    #[arg(long, value_name = "DIRECTORY")]
    source: Option<PathBuf>,
    /// Features of the image, for example management
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Run {
    /// The image's architecture: aarch64, x86_64, cortex-m4
    #[arg(long)]
    arch: Arch,
    /// The image
    #[arg(long, value_name = "ELF")]
    image: PathBuf,
    /// A NIC: ROLE is a port's number, trunk:BASE, management or a MAC address, BACKEND
    /// is tap:INTERFACE, dgram:LOCAL,REMOTE or none
    #[arg(long = "port", value_name = "ROLE=BACKEND")]
    ports: Vec<Nic>,
    /// Make a Unix socket here for the control channel
    #[arg(long, value_name = "SOCKET")]
    console: Option<PathBuf>,
    /// Append what the serial line says to this file; it is decoded and shown otherwise
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = Machine::MEMORY)]
    memory: u32,
    /// Let time go by the number of instructions
    #[arg(long)]
    icount: bool,
    /// Have this machine's processor run it
    #[arg(long, conflicts_with = "icount")]
    kvm: bool,
    /// Append what QEMU holds to be the image's mistakes to this file
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Print QEMU's command line and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Does it, and says what went wrong.
pub(crate) fn act(verb: &Verb) -> ExitCode {
    let done = match verb {
        Verb::Key { file } => return make_key(file),
        Verb::Manage(manage) => return manage.tell(),
        Verb::Build { arches, source } => show_sizes(arches, source),
        Verb::Run(run) => run.start(),
        Verb::Logs {
            image,
            follow,
            places,
            file,
        } => logs(image, file, *follow, *places),
        Verb::Bench { arches, source } => bench::show(arches, source),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "culvert: {error}");
        ExitCode::FAILURE
    })
}

/// Makes a key, and does not show it.
fn make_key(file: &Path) -> ExitCode {
    match Key::create(file) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "culvert: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Source {
    /// Where the sources are.
    pub(crate) fn find(&self) -> Result<PathBuf, Error> {
        let here = std::env::current_dir().map_err(|source| Error::File {
            path: ".".into(),
            source,
        })?;
        match &self.source {
            // What is given must be the sources themselves.
            Some(source) if find_source(source)? != source => Err(Error::NoSource(source.clone())),
            Some(source) => Ok(source.clone()),
            None => find_source(&here).map(Path::to_owned),
        }
    }

    pub(crate) fn build(&self, arches: &[Arch], bin: &'static str) -> Result<Vec<Image>, Error> {
        let what = Build {
            arches: arches.to_vec(),
            bin,
            features: self.features.clone(),
            target_dir: None,
        };
        build(&self.find()?, &what)
    }
}

fn show_sizes(arches: &[Arch], source: &Source) -> Result<ExitCode, Error> {
    let mut table = new_table(&["ARCH", "STRIPPED", "FLASH", "RAM", "IMAGE"]);
    for image in source.build(arches, APPLIANCE)? {
        let sizes = image.sizes;
        let number = |bytes: u64| Cell::new(bytes).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(image.arch),
            number(sizes.stripped),
            number(sizes.flash),
            number(sizes.ram),
            Cell::new(image.elf.display()),
        ]);
    }
    say(&render(table))
}

/// Prints a line; a reader that has seen enough is no failure.
pub(crate) fn say(text: &dyn std::fmt::Display) -> Result<ExitCode, Error> {
    let said = writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
    match said {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::File {
            path: "standard output".into(),
            source,
        }),
        Err(_) => Ok(ExitCode::FAILURE),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

impl Run {
    fn start(&self) -> Result<ExitCode, Error> {
        let machine = Machine {
            nics: self.ports.clone(),
            console: self
                .console
                .clone()
                .map_or(Console::Nothing, Console::Socket),
            serial: self.log.clone().map_or(Serial::Stdout, Serial::File),
            memory: self.memory,
            icount: self.icount,
            kvm: self.kvm,
            faults: self.faults.clone(),
            ..Machine::new(self.arch, &self.image)
        };
        if self.dry_run {
            return say(&machine.shown()?);
        }
        let status = match self.log {
            Some(_) => run(&machine, |_| {})?,
            None => {
                let logs = Logs::read(&self.image)?;
                let mut decoder = logs.decoder();
                run(&machine, |bytes| {
                    decoder.feed(bytes, |entry| {
                        let _ = say(&entry);
                    });
                })?
            }
        };
        Ok(ExitCode::from(status))
    }
}

/// Runs QEMU to its end, hands on what it prints, and passes on signals that should end
/// this program. Returns the image's status.
pub(crate) fn run(machine: &Machine, said: impl FnMut(&[u8])) -> Result<u8, Error> {
    let arch = machine.arch;
    let failed = |source| Error::Qemu { arch, source };
    let mut child = machine
        .command()?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Now, and not before: QEMU would inherit it, and never end.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().map_err(|e| failed(e.into()))?;
    let pid = child.id();
    thread::spawn(move || {
        while let (Ok(signal), Ok(pid)) = (signals.wait(), i32::try_from(pid)) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    });
    let (status, complained) = watch(&mut child, said).map_err(failed)?;
    Ok(machine.arch.image_status(status, complained))
}

/// Hands on what QEMU prints until it ends; whether it complained, too.
fn watch(child: &mut Child, mut said: impl FnMut(&[u8])) -> io::Result<(ExitStatus, bool)> {
    let stderr = child.stderr.take();
    let errors = thread::spawn(move || {
        let lines = stderr
            .into_iter()
            .flat_map(|pipe| BufReader::new(pipe).lines());
        let mut complained = false;
        for line in lines.map_while(Result::ok) {
            let _ = writeln!(io::stderr(), "{line}");
            complained |= is_complaint(&line);
        }
        complained
    });
    if let Some(mut stdout) = child.stdout.take() {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = stdout.read(&mut bytes) {
            said(&bytes[..len]);
        }
    }
    let status = child.wait()?;
    Ok((status, errors.join().unwrap_or(false)))
}

fn logs(image: &Path, file: &Path, follow: bool, places: bool) -> Result<ExitCode, Error> {
    let logs = Logs::read(image)?;
    let failed = |source| Error::File {
        path: file.to_owned(),
        source,
    };
    let mut input: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).map_err(failed)?),
    };
    let mut decoder = logs.decoder();
    let mut bytes = [0; 4096];
    let mut done = Ok(ExitCode::SUCCESS);
    loop {
        let len = input.read(&mut bytes).map_err(failed)?;
        decoder.feed(&bytes[..len], |entry| {
            let place = match &entry {
                Entry::Line(Line {
                    place: Some((file, line)),
                    ..
                }) if places => {
                    format!("  ({}:{line})", file.display())
                }
                _ => String::new(),
            };
            if matches!(done, Ok(ExitCode::SUCCESS)) {
                done = say(&format_args!("{entry}{place}"));
            }
        });
        match (len, follow) {
            _ if !matches!(done, Ok(ExitCode::SUCCESS)) => return done,
            (0, false) => return done,
            (0, true) => thread::sleep(FOLLOW),
            _ => {}
        }
    }
}
