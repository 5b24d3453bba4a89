//! What a test holds of an appliance: wires and console.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_core::MacAddr;
use culvert_core::channel::{
    Board, BoardAnswer, Hello, Nic, PROTOCOL, Request, Response, SCHEMA, Welcome,
};
use culvert_host::appliance::{Backend, Nic as MachineNic};
use tempfile::TempDir;

use super::{Channel, LIMIT, Wire};
use crate::process::wait_for;

/// How long one of several attempts to be heard may take.
const ATTEMPT: Duration = Duration::from_millis(500);

/// Our ends of an appliance's wires and of its control channel.
pub struct Outside {
    dir: TempDir,
    wires: Vec<Wire>,
    channel: Option<Channel>,
    /// What each NIC had counted when we had all of its frames, in the order of `wires`.
    passed: Vec<Passed>,
}

/// What went through a NIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Frames that the appliance received.
    pub received: u64,
    /// Frames that it sent.
    pub sent: u64,
}

impl Outside {
    /// Wires for NICs with these MAC addresses.
    ///
    /// # Errors
    /// When directory or sockets cannot be made.
    pub fn new(macs: impl IntoIterator<Item = MacAddr>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("culvert-").tempdir()?;
        let macs = macs.into_iter().enumerate();
        let wires = macs.map(|(number, mac)| Wire::new(mac, dir.path(), number));
        let wires = wires.collect::<Result<Vec<_>>>()?;
        let passed = vec![Passed::default(); wires.len()];
        Ok(Self {
            dir,
            wires,
            channel: None,
            passed,
        })
    }

    /// A directory for whatever belongs to the appliance; it goes with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the appliance is to listen for the control channel.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.path().join("console")
    }

    /// The wires, in the order of their MAC addresses at [`Outside::new`].
    #[must_use]
    pub fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// The wires' other ends, for QEMU.
    #[must_use]
    pub fn nics(&self) -> Vec<MachineNic> {
        let nics = self.wires.iter().map(|wire| MachineNic {
            mac: wire.mac(),
            backend: Backend::Datagrams {
                local: wire.theirs().to_owned(),
                remote: wire.ours().to_owned(),
            },
        });
        nics.collect()
    }

    /// Connects to the console, once somebody listens there.
    ///
    /// # Errors
    /// When nobody does in time.
    pub fn connect(&mut self) -> Result<()> {
        self.channel = None;
        let socket = self.console();
        let channel = wait_for("the appliance's console", LIMIT, || {
            Channel::connect(&socket)
        })?;
        self.channel = Some(channel);
        Ok(())
    }

    /// Closes the console.
    pub fn disconnect(&mut self) {
        self.channel = None;
    }

    /// The control channel, for what [`Outside::ask`] does not do.
    ///
    /// # Errors
    /// When it is not connected.
    pub fn channel(&mut self) -> Result<&mut Channel> {
        self.channel
            .as_mut()
            .context("the console is not connected")
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        self.channel()?.ask(request, LIMIT)
    }

    /// Asks the shell around the core.
    ///
    /// # Errors
    /// When there is no answer, or one of the core's.
    pub fn ask_board(&mut self, request: Board) -> Result<BoardAnswer> {
        match self.ask(&Request::Board(request.clone()))? {
            Response::Board(answer) => Ok(answer),
            other => bail!("{request:?} was answered by {other:?}"),
        }
    }

    /// Waits until the appliance answers, which may have to boot before; says Hello, and
    /// begins to count frames. Once it has answered, no frame is lost any more.
    ///
    /// # Errors
    /// When it does not answer in time, or refuses.
    pub fn hello(&mut self, epoch: u64) -> Result<Welcome> {
        let until = Instant::now() + LIMIT;
        // What is said while an image starts anew may be heard by nobody, and a second
        // Hello would not be answered like the first.
        while let Err(error) = self.channel()?.ask(&Request::Ping, ATTEMPT) {
            if Instant::now() > until {
                return Err(error);
            }
        }
        let answer = self.ask(&Request::Hello(Hello {
            version: PROTOCOL,
            epoch,
            schema: SCHEMA,
        }))?;
        let Response::Hello(welcome) = answer else {
            bail!("Hello was answered by {answer:?}");
        };
        self.passed = self.count()?.iter().map(Passed::of).collect();
        Ok(welcome)
    }

    /// The NICs as the appliance counts them, in the order of the wires.
    ///
    /// # Errors
    /// When it does not answer, or one is missing.
    pub fn count(&mut self) -> Result<Vec<Nic>> {
        let mut all = Vec::new();
        loop {
            let from = u8::try_from(all.len()).context("too many NICs")?;
            match self.ask_board(Board::Nics { from })? {
                BoardAnswer::Nics(page) if page.is_empty() => break,
                BoardAnswer::Nics(page) => all.extend(page),
                other => bail!("the NICs are {other:?}"),
            }
            // A page that is not full is the last.
            if all.len() % culvert_core::channel::SMALL_PAGE != 0 {
                break;
            }
        }
        let wires = self.wires.iter().map(|wire| {
            let mac = wire.mac();
            let found = all.iter().find(|nic| nic.mac == mac).cloned();
            found.with_context(|| format!("the appliance has no NIC {mac}: {all:?}"))
        });
        wires.collect()
    }

    /// Sends a frame by a wire and returns what the appliance sends because of it, with
    /// the wires' numbers; exactly that, because its counters tell when it has taken the
    /// frame and how many it has sent. The order is kept within a wire.
    ///
    /// # Errors
    /// When frames get lost.
    pub fn exchange(&mut self, wire: usize, frame: &[u8]) -> Result<Vec<(usize, Vec<u8>)>> {
        self.wires[wire].send(frame)?;
        let want = self.passed[wire].received + 1;
        let until = Instant::now() + LIMIT;
        loop {
            let nics = self.count()?;
            if nics[wire].rx_frames >= want {
                return self.collect(&nics);
            }
            ensure!(
                Instant::now() < until,
                "NIC {} has not taken a frame of {} bytes",
                nics[wire].mac,
                frame.len()
            );
        }
    }

    /// What the appliance has sent since the last exchange, with the wires' numbers.
    ///
    /// # Errors
    /// When frames get lost.
    pub fn sent(&mut self) -> Result<Vec<(usize, Vec<u8>)>> {
        let nics = self.count()?;
        self.collect(&nics)
    }

    fn collect(&mut self, nics: &[Nic]) -> Result<Vec<(usize, Vec<u8>)>> {
        let mut frames = Vec::new();
        for (number, nic) in nics.iter().enumerate() {
            ensure!(nic.tx_full == 0, "NIC {} had no room for frames", nic.mac);
            let (wire, before) = (&self.wires[number], self.passed[number]);
            for nth in before.sent..nic.tx_frames {
                let frame = wire.receive(LIMIT)?;
                let frame = frame.with_context(|| {
                    format!("frame {} of NIC {} did not come", nth + 1, nic.mac)
                })?;
                frames.push((number, frame));
            }
            self.passed[number] = Passed::of(nic);
        }
        Ok(frames)
    }
}

impl Passed {
    fn of(nic: &Nic) -> Self {
        Self {
            received: nic.rx_frames,
            sent: nic.tx_frames,
        }
    }
}
