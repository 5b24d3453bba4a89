//! The microcontroller's image in QEMU: its NIC is a socket for datagrams, its console
//! one for a stream. No root, and no network of this machine.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use culvert_core::channel::{
    Board, BoardAnswer, FrameDecoder, FrameEvent, Hello, MAX_FRAME, MAX_MESSAGE, PROTOCOL, Request,
    Response, Role, SCHEMA, decode_response, encode_frame, encode_request,
};
use culvert_lab::wait_for;
use tempfile::TempDir;

/// How long the image may take for anything: it is emulated, beside other work.
const LIMIT: Duration = Duration::from_secs(20);

/// The ELF file, built once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bare-metal");
        let output = Command::new(script)
            .args(["thumbv7em-none-eabihf", "-p", "culvert-firmware"])
            .args([
                "--features",
                "microcontroller,held-clock",
                "--bin",
                "cortex-m4",
            ])
            .args(["--profile", "firmware"])
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "the image was not built");
        let messages = output.stdout.split(|byte| *byte == b'\n');
        let mut built = messages.filter_map(|line| {
            let message: serde_json::Value = serde_json::from_slice(line).ok()?;
            let path = message.get("executable")?.as_str()?;
            path.ends_with("/cortex-m4").then(|| PathBuf::from(path))
        });
        built.next().expect("cargo has named no program")
    })
}

/// The image, running.
pub(crate) struct Machine {
    dir: TempDir,
    qemu: Child,
    wire: UnixDatagram,
    console: UnixStream,
    decoder: FrameDecoder,
    last: u32,
}

impl Machine {
    /// Boots the image behind a trunk whose tags are the ports' numbers.
    pub(crate) fn boot() -> Machine {
        let dir = tempfile::Builder::new()
            .prefix("culvert-")
            .tempdir()
            .unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let wire = UnixDatagram::bind(path("host")).unwrap();
        wire.set_read_timeout(Some(LIMIT)).unwrap();
        let (nic, host) = (path("nic"), path("host"));
        let mac = Role::Trunk { base: 0 }.mac();
        let netdev = format!(
            "dgram,id=n0,local.type=unix,local.path={nic},remote.type=unix,remote.path={host}"
        );
        let qemu = Command::new("qemu-system-arm")
            .args(["-M", "mps2-an386", "-cpu", "cortex-m4"])
            .args(["-nodefaults", "-display", "none", "-monitor", "none"])
            .args(["-semihosting-config", "enable=on,target=native"])
            .args(["-d", "guest_errors,unimp", "-D", &path("faults")])
            .args(["-netdev", &netdev])
            .args(["-net", &format!("nic,netdev=n0,macaddr={mac}")])
            .args(["-serial", &format!("file:{}", path("log"))])
            .arg("-chardev")
            .arg(format!("socket,id=c,path={},server=on,wait=off", path("c")))
            .args(["-serial", "chardev:c"])
            .arg("-kernel")
            .arg(image())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let connect = || Ok(UnixStream::connect(path("c")).ok());
        let console = wait_for("QEMU's socket for the console", LIMIT, connect).unwrap();
        console.set_read_timeout(Some(LIMIT)).unwrap();
        let mut machine = Machine {
            dir,
            qemu,
            wire,
            console,
            decoder: FrameDecoder::new(),
            last: 0,
        };
        machine.hello();
        machine
    }

    /// Opens the conversation. Once it is answered, no frame is lost any more.
    pub(crate) fn hello(&mut self) {
        let hello = Request::Hello(Hello {
            version: PROTOCOL,
            epoch: 1,
            schema: SCHEMA,
        });
        let answer = self.ask(&hello);
        assert!(matches!(answer, Response::Hello(_)), "{answer:?}");
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        self.send_request(request);
        loop {
            let mut bytes = [0; MAX_FRAME];
            let len = self.console.read(&mut bytes).unwrap();
            assert!(len > 0, "the console was closed");
            let mut answers = Vec::new();
            self.decoder.feed(&bytes[..len], |event| match event {
                FrameEvent::Message(message) => answers.push(decode_response(message).unwrap()),
                other => panic!("the console said {other:?}"),
            });
            let found = answers.into_iter().find(|(id, _)| *id == self.last);
            if let Some((_, answer)) = found {
                return answer;
            }
        }
    }

    /// Asks, and does not wait.
    pub(crate) fn send_request(&mut self, request: &Request) {
        self.last += 1;
        let (mut message, mut frame) = (vec![0; MAX_MESSAGE], vec![0; MAX_FRAME]);
        let len = encode_request(self.last, request, &mut message).unwrap();
        let len = encode_frame(&mut message, len, &mut frame).unwrap();
        self.console.write_all(&frame[..len]).unwrap();
    }

    /// Asks the shell around the core.
    pub(crate) fn ask_board(&mut self, request: Board) -> BoardAnswer {
        match self.ask(&Request::Board(request)) {
            Response::Board(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a frame to the NIC.
    pub(crate) fn send(&self, frame: &[u8]) {
        let nic = self.dir.path().join("nic");
        self.wire.send_to(frame, nic).unwrap();
    }

    /// The next frame from the NIC, which must come.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut bytes = [0; 2048];
        let len = self.wire.recv(&mut bytes).expect("no frame came");
        bytes[..len].to_vec()
    }

    /// Whether a frame of the NIC's is there.
    pub(crate) fn has_frame(&self) -> bool {
        self.wire.set_nonblocking(true).unwrap();
        let received = self.wire.recv(&mut [0; 2048]);
        self.wire.set_nonblocking(false).unwrap();
        match received {
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            other => other.is_ok(),
        }
    }

    /// Processor time that QEMU has taken so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.qemu.id())).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        // User's and system's: fields 14 and 15, of which the first here is the third.
        let ticks = rest.split_ascii_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Waits for QEMU's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let qemu = &mut self.qemu;
        wait_for("QEMU's end", LIMIT, || Ok(qemu.try_wait()?)).unwrap()
    }

    /// What QEMU holds to be the image's mistakes.
    pub(crate) fn faults(&self) -> String {
        fs::read_to_string(self.dir.path().join("faults")).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("QEMU: {}", self.faults());
            eprintln!("log, to be decoded: {}", log.escape_ascii());
        }
    }
}
