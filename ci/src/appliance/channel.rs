//! The host's end of the control channel over a Unix stream.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use culvert_core::channel::{
    FrameDecoder, FrameEvent, MAX_FRAME, MAX_MESSAGE, Request, Response, decode_response,
    encode_frame, encode_request,
};

/// How long an answer may take: the image is emulated, on processors that do other
/// work too.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A conversation with an appliance.
pub struct Channel {
    stream: UnixStream,
    decoder: Box<FrameDecoder>,
    /// Answers that have come and that nobody has taken yet, with their ids.
    answers: VecDeque<(u32, Response)>,
    last: u32,
    /// Nothing whole has come yet: the first bytes may be the rest of an answer to
    /// whoever was connected before.
    beginning: bool,
}

impl Channel {
    /// Connects to a socket; `None` while nobody listens there.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub fn connect(socket: &Path) -> Result<Option<Self>> {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_write_timeout(Some(LIMIT))?;
                let mut channel = Self {
                    stream,
                    decoder: Box::default(),
                    answers: VecDeque::new(),
                    last: 0,
                    beginning: true,
                };
                // Ends what somebody before may have left unfinished.
                channel.send(&[0])?;
                Ok(Some(channel))
            }
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error).with_context(|| format!("cannot reach {}", socket.display())),
            },
        }
    }

    /// Sends a request and waits for its answer; answers to others are thrown away.
    ///
    /// # Errors
    /// When the other end is gone, does not answer in time, or sends what is no answer.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Response> {
        self.last += 1;
        let mut message = vec![0; MAX_MESSAGE];
        let mut frame = vec![0; MAX_FRAME];
        let framed = encode_request(self.last, request, &mut message)
            .and_then(|len| encode_frame(&mut message, len, &mut frame));
        let len = framed.with_context(|| format!("too large for a message: {request:?}"))?;
        self.send(&frame[..len])?;
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.answer(left)?;
            let (id, response) = answer.ok_or_else(|| {
                anyhow!(
                    "no answer within {:.1} s to {request:?}",
                    limit.as_secs_f64()
                )
            })?;
            if id == self.last {
                return Ok(response);
            }
        }
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    /// When the other end is gone or takes nothing.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .context("writing to the appliance's console")
    }

    /// The next answer and its id, whatever it answers; `None` when there is none
    /// within `limit`.
    ///
    /// # Errors
    /// When the other end is gone or sends what is no answer.
    pub fn answer(&mut self, limit: Duration) -> Result<Option<(u32, Response)>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(Some(answer));
            }
            let left = until.saturating_duration_since(Instant::now());
            // 0 would be no limit.
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; MAX_FRAME];
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("the appliance's console was closed"),
                Ok(len) => self.take(&bytes[..len])?,
                Err(error) if is_timeout(&error) && Instant::now() >= until => return Ok(None),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("reading from the appliance's console"),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let (answers, beginning) = (&mut self.answers, &mut self.beginning);
        let mut wrong = None;
        self.decoder.feed(bytes, |event| {
            let was_beginning = std::mem::replace(beginning, false);
            match event {
                FrameEvent::Message(message) => match decode_response(message) {
                    Ok(answer) => answers.push_back(answer),
                    Err(error) => wrong = Some(format!("an answer with {error:?}")),
                },
                FrameEvent::Damaged if was_beginning => {}
                other => wrong = Some(format!("{other:?}")),
            }
        });
        let wrong = wrong.unwrap_or_default();
        ensure!(wrong.is_empty(), "the appliance's console said {wrong}");
        Ok(())
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
