//! The control plane's way into the core.

use culvert_core::channel::{
    self, FrameDecoder, FrameEvent, MAX_FRAME, Operation, Owner, Request, Response, Sync, Synced,
};
use culvert_core::{Counter, Gateway, TableError};

/// A transaction.
#[inline(never)]
pub fn apply(
    gateway: &mut Gateway<'_>,
    owner: Owner,
    operations: &[Operation],
) -> Result<(), (usize, TableError)> {
    gateway.apply(owner, operations)
}

/// A part of a sync.
#[inline(never)]
pub fn sync(gateway: &mut Gateway<'_>, sync: &Sync) -> Result<Synced, TableError> {
    gateway.sync(sync)
}

/// A sync that breaks off.
#[inline(never)]
pub fn abort_sync(gateway: &mut Gateway<'_>) {
    gateway.abort_sync();
}

/// Reading without the channel.
#[inline(never)]
pub fn read(gateway: &Gateway<'_>) -> u64 {
    Counter::all()
        .map(|counter| gateway.counter(counter))
        .fold(gateway.epoch(), u64::wrapping_add)
        .wrapping_add(u64::from(gateway.capacities().ports))
}

/// The core's end of the channel: bytes in, answers out.
#[inline(never)]
pub fn serve(
    gateway: &mut Gateway<'_>,
    decoder: &mut FrameDecoder,
    bytes: &[u8],
    send: &mut dyn FnMut(&[u8]),
) {
    let mut out = [0; MAX_FRAME];
    decoder.feed(bytes, |event: FrameEvent<'_>| {
        let len = channel::serve(gateway, &event, &mut out);
        send(out.get(..len).unwrap_or_default());
    });
}

/// The shell's end of the channel, which firmware's control core has too.
#[inline(never)]
pub fn ask(id: u32, request: &Request, message: &mut [u8], out: &mut [u8]) -> Option<usize> {
    let len = channel::encode_request(id, request, message)?;
    channel::encode_frame(message, len, out)
}

/// The shell's end again.
#[inline(never)]
pub fn answer(frame: &mut [u8]) -> Option<(u32, Response)> {
    channel::decode_response(channel::decode_frame(frame)?).ok()
}
