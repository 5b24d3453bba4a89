//! The byte stream to a core: requests go out, the answer to each is found.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;

use culvert_core::channel::{
    Error, FrameDecoder, FrameEvent, MAX_FRAME, MAX_MESSAGE, Request, Response, decode_response,
    encode_frame, encode_request,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::core::CoreError;

/// Frames on a fresh stream that may be garbage: the rest of what was said to another,
/// and what a machine says while it starts.
const FORGIVEN: u32 = 8;

/// What a core can be reached by.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A core's stream, when there is one, and what outlives it.
pub(crate) struct Link {
    wire: Option<Wire>,
    last_id: u32,
}

struct Wire {
    stream: Box<dyn Stream>,
    decoder: FrameDecoder,
}

impl Link {
    /// A link without a stream. Its numbers begin anywhere: what a core still has to say
    /// to another daemon is no answer to this one.
    pub(crate) fn new() -> Link {
        let random = RandomState::new();
        let id = u32::try_from(random.hash_one(0) >> 33).unwrap_or(0);
        Link {
            wire: None,
            last_id: id,
        }
    }

    /// Goes on by this stream.
    pub(crate) fn attach(&mut self, stream: Box<dyn Stream>) {
        self.wire = Some(Wire {
            stream,
            decoder: FrameDecoder::new(),
        });
    }

    /// Lets go of the stream, and of what it may still bring.
    pub(crate) fn detach(&mut self) {
        self.wire = None;
    }

    /// Asks and waits for the answer until `deadline`, which `patience` led to.
    ///
    /// # Errors
    /// [`CoreError`]; the answer may still come, and is passed over then.
    pub(crate) async fn ask(
        &mut self,
        request: &Request,
        (deadline, patience): (Instant, Duration),
    ) -> Result<Response, CoreError> {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let id = self.last_id;
        let wire = self.wire.as_mut().ok_or_else(closed)?;
        let mut message = vec![0; MAX_MESSAGE];
        let mut frame = vec![0; MAX_FRAME];
        let len = encode_request(id, request, &mut message)
            .and_then(|len| encode_frame(&mut message, len, &mut frame))
            .ok_or(Error::TooLarge)?;
        // The first words on a stream may follow somebody's half sentence.
        let first = matches!(request, Request::Hello(_) | Request::Ping);
        let exchange = async {
            if first {
                wire.stream.write_all(&[0]).await?;
            }
            wire.stream.write_all(&frame[..len]).await?;
            wire.answer_to(id, first).await
        };
        match timeout_at(deadline, exchange).await {
            Ok(Ok(Response::Error(error))) => Err(error.into()),
            Ok(other) => other,
            Err(_) => Err(CoreError::Silent(patience)),
        }
    }
}

fn closed() -> CoreError {
    io::Error::from(io::ErrorKind::NotConnected).into()
}

impl Wire {
    /// Reads until the answer with this id; late answers to others are passed over, and
    /// a little `garbage` too when that may be the rest of what was said before.
    async fn answer_to(&mut self, id: u32, garbage: bool) -> Result<Response, CoreError> {
        let mut chunk = vec![0; MAX_FRAME];
        let mut forgiven = if garbage { FORGIVEN } else { 0 };
        loop {
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let mut found = None;
            self.decoder.feed(&chunk[..read], |event| {
                let answer = match event {
                    FrameEvent::Message(message) => {
                        decode_response(message).map_err(|e| (e.id, e.error))
                    }
                    FrameEvent::Damaged => Err((0, Error::Damaged)),
                    FrameEvent::TooLarge => Err((0, Error::TooLarge)),
                };
                match answer {
                    _ if found.is_some() => {}
                    Ok((to, response)) if to == id => found = Some(Ok(response)),
                    // A whole message, but of a kind that this version does not know.
                    Err((to, error)) if to == id => found = Some(Err(error.into())),
                    // The core could not read what it was asked.
                    Ok((0, Response::Error(error))) if forgiven == 0 => {
                        found = Some(Err(CoreError::Garbled(error)));
                    }
                    Err((0, error)) if forgiven == 0 => {
                        found = Some(Err(CoreError::Garbage(error)));
                    }
                    Ok((0, _)) | Err((0, _)) => forgiven = forgiven.saturating_sub(1),
                    _ => {}
                }
            });
            if let Some(answer) = found {
                return answer;
            }
        }
    }
}
