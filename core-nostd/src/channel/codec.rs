//! Messages to bytes and back.

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use super::{Error, MAX_OPERATIONS, Request, Response};

/// A request or response that could not be decoded, with its id when that much could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// The message's id, or 0.
    pub id: u32,
    /// What is wrong with it.
    pub error: Error,
}

/// Index of [`Request::Apply`].
const APPLY: u32 = 1;

/// Where postcard writes to. Its own flavor for slices is inlined at each of the
/// hundreds of fields, which made encoding half as large again.
struct Buffer<'o> {
    rest: &'o mut [u8],
    len: usize,
}

impl Flavor for Buffer<'_> {
    type Output = usize;

    #[inline(never)]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        let rest = core::mem::take(&mut self.rest);
        let (head, rest) = rest
            .split_at_mut_checked(bytes.len())
            .ok_or(postcard::Error::SerializeBufferFull)?;
        head.copy_from_slice(bytes);
        self.rest = rest;
        self.len += bytes.len();
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn finalize(self) -> postcard::Result<usize> {
        Ok(self.len)
    }
}

fn encode<T: Serialize>(id: u32, message: &T, out: &mut [u8]) -> Option<usize> {
    let buffer = Buffer { rest: out, len: 0 };
    postcard::serialize_with_flavor(&(id, message), buffer).ok()
}

/// Encodes a request into `out`; its length, or `None` when it does not fit.
pub fn encode_request(id: u32, request: &Request, out: &mut [u8]) -> Option<usize> {
    encode(id, request, out)
}

/// Encodes a response into `out`; its length, or `None` when it does not fit.
pub fn encode_response(id: u32, response: &Response, out: &mut [u8]) -> Option<usize> {
    encode(id, response, out)
}

/// Decodes what must fill `bytes` to the end.
fn whole<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Error::Malformed),
        // What serde's code refuses: a variant, a value or a longer list than it knows.
        Err(postcard::Error::SerdeDeCustom) => Err(Error::Unsupported),
        Err(_) => Err(Error::Malformed),
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Error> {
    postcard::take_from_bytes::<u32>(bytes).map_err(|_| Error::Malformed)
}

/// Decodes a request.
///
/// # Errors
/// [`DecodeError`]; its `error` is what to answer.
pub fn decode_request(message: &[u8]) -> Result<(u32, Request), DecodeError> {
    let (id, body) = number(message).map_err(|error| DecodeError { id: 0, error })?;
    let request = (|| {
        let (variant, fields) = number(body)?;
        if variant == APPLY {
            check_operation_count(fields)?;
        }
        whole(body)
    })();
    match request {
        Ok(request) => Ok((id, request)),
        Err(error) => Err(DecodeError { id, error }),
    }
}

/// Refuses an `Apply` with too many operations by name; to serde its list would
/// only be one that it does not know.
fn check_operation_count(fields: &[u8]) -> Result<(), Error> {
    let (_transaction, rest) =
        postcard::take_from_bytes::<u64>(fields).map_err(|_| Error::Malformed)?;
    let (_owner, rest) = number(rest)?;
    let (count, _) = number(rest)?;
    let limit = u32::try_from(MAX_OPERATIONS).unwrap_or(u32::MAX);
    if count > limit {
        return Err(Error::TooManyOperations { count, limit });
    }
    Ok(())
}

/// Decodes a response.
///
/// # Errors
/// [`DecodeError`] when this version cannot read it.
pub fn decode_response(message: &[u8]) -> Result<(u32, Response), DecodeError> {
    let (id, body) = number(message).map_err(|error| DecodeError { id: 0, error })?;
    match whole(body) {
        Ok(response) => Ok((id, response)),
        Err(error) => Err(DecodeError { id, error }),
    }
}
