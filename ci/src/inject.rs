//! Raw frames out of a device, well formed or not.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

/// Sends frames, given in hexadecimal digits, out of `device`, in order.
///
/// # Errors
/// When there is no such device, the digits are none, or the kernel refuses one
/// (longer than the device's MTU, above all).
pub fn inject(device: &str, frames: &[String]) -> Result<()> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::EthAll,
    )
    .context("no packet socket")?;
    bind(socket.as_raw_fd(), &link_address(device)?).context("cannot bind to the device")?;
    for frame in frames {
        let bytes = bytes(frame)?;
        let sent = send(socket.as_raw_fd(), &bytes, MsgFlags::empty())
            .with_context(|| format!("sending {} bytes out of {device}", bytes.len()))?;
        ensure!(
            sent == bytes.len(),
            "only {sent} bytes of {} left",
            bytes.len()
        );
    }
    Ok(())
}

fn link_address(device: &str) -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no device {device} here"))
}

fn bytes(digits: &str) -> Result<Vec<u8>> {
    ensure!(
        digits.is_ascii() && digits.len().is_multiple_of(2),
        "`{digits}` is not made of pairs of digits"
    );
    (0..digits.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&digits[at..at + 2], 16)
                .with_context(|| format!("`{}` is no hexadecimal number", &digits[at..at + 2]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn digits_become_bytes() {
        assert_eq!(bytes("00ff1A").unwrap(), [0, 0xff, 0x1a]);
        for bad in ["0", "0g", "ä"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
