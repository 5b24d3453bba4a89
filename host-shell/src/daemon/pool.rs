//! Offload mode's devices: interfaces of this node whose other ends are ports of the
//! appliance. A pod gets one of them as its own interface and gives it back.
//!
//! A device that a pod has bears a note with its name in the pool and the container's. By
//! that it is found again wherever it is: the kernel gives a physical device of a namespace
//! that is gone back to the first namespace, by the name that it had in the pod. Of a veth
//! nothing is left then.

use std::collections::HashSet;

use super::Daemon;
use super::pod::{self, io_error};
use crate::cni::{CniError, code};
use crate::config::PortDevice;
use crate::netlink::{Link, Netlink, NetlinkError};
use crate::state::{Attachment, DevicePool};
use crate::sys::netns::NetNs;

/// What the note of a device begins with that a pod has.
fn note(device: &str) -> String {
    format!("culvert {device}: ")
}

/// Bytes of a note that the kernel keeps.
pub(super) const NOTE_LEN: usize = 255;

/// The note at an attachment's device of the pool, as long as the kernel keeps it.
pub(super) fn alias(device: &str, container: &str) -> String {
    let mut text = note(device) + container;
    text.truncate(text.floor_char_boundary(NOTE_LEN));
    text
}

/// Moves a device of the pool into the pod's namespace, by the attachment's name.
///
/// # Errors
/// What a runtime is to be told. The device bears the attachment's note then, wherever
/// it is.
pub(super) async fn take(
    attachment: &Attachment,
    device: &str,
    (ns, host): (&NetNs, &Netlink),
) -> Result<(), CniError> {
    let key = &attachment.key;
    let inside = Netlink::connect(Some(ns)).map_err(io_error)?;
    let there = inside.find_link(&key.ifname).await.map_err(io_error)?;
    if let Some(link) = there {
        let kind = link.kind.as_deref().unwrap_or("device");
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!(
                "CNI_IFNAME: {} has an interface {} already (a {kind})",
                ns.path().display(),
                key.ifname
            ),
        ));
    }
    let moved = async {
        host.set_alias(device, &alias(device, &key.container_id))
            .await?;
        host.set_down(device).await?;
        host.move_link(device, ns, &key.ifname).await
    };
    moved.await.map_err(|error| {
        io_error(error).with_details(format!("{device} is a device of this node's pool"))
    })
}

/// Takes a device back into the pool from wherever the attachment left it, down and
/// without addresses. Nothing being there is fine.
///
/// # Errors
/// When it is there and stays there.
pub(super) async fn give_back(
    attachment: &Attachment,
    device: &str,
    (home, host): (&NetNs, &Netlink),
) -> Result<(), String> {
    let words = |error: NetlinkError| error.to_string();
    let wanted = alias(device, &attachment.key.container_id);
    let has_note = |link: &&Link| link.alias.as_deref() == Some(&wanted);
    let ns = pod::namespace_of(attachment).map_err(|error| error.to_string())?;
    if let Some(ns) = ns {
        let inside = Netlink::connect(Some(&ns)).map_err(words)?;
        let links = inside.links().await.map_err(words)?;
        if let Some(link) = links.iter().find(has_note) {
            inside.set_down(&link.name).await.map_err(words)?;
            let moved = inside.move_link(&link.name, home, device).await;
            moved.map_err(words)?;
        }
    }
    let links = host.links().await.map_err(words)?;
    match links.iter().find(has_note) {
        Some(link) => tidy(host, link, device).await.map_err(words),
        None => Ok(()),
    }
}

/// Makes a device that is back what it was.
async fn tidy(host: &Netlink, link: &Link, device: &str) -> Result<(), NetlinkError> {
    host.set_down(&link.name).await?;
    if link.name != device {
        host.rename_link(&link.name, device).await?;
    }
    // Last: until then it can be found.
    host.set_alias(device, "").await
}

impl Daemon {
    /// The pool, and which of its devices are on this node and not with a pod; `None`
    /// where devices are made.
    pub(super) async fn devices(&self) -> Result<Option<DevicePool>, CniError> {
        let site = self.site();
        let Some(offload) = &site.config.offload else {
            return Ok(None);
        };
        let mut links = self.netlink.links().await.map_err(io_error)?;
        for device in &offload.devices {
            let came_back = stray(&links, device).cloned();
            if let Some(link) = came_back {
                match tidy(&self.netlink, &link, &device.name).await {
                    Ok(()) => links.push(Link {
                        name: device.name.clone(),
                        ..link
                    }),
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        }
        let present: HashSet<_> = links.iter().map(|link| link.name.as_str()).collect();
        let pool = offload.devices.iter();
        let usable = pool.filter(|device| present.contains(device.name.as_str()));
        Ok(Some(DevicePool {
            present: usable.cloned().collect(),
            all: offload.devices.clone(),
        }))
    }

    /// How many devices of the pool are free, of how many, and what is wrong with
    /// others.
    pub(super) async fn look_at_pool(&self) -> Result<(usize, usize, Vec<String>), CniError> {
        let Some(DevicePool { all, present }) = self.devices().await? else {
            return Ok((0, 0, Vec::new()));
        };
        let attachments = self.with_store(|store| store.list()).await?;
        let with_pods: HashSet<_> = attachments
            .iter()
            .filter_map(|a| a.device.as_ref())
            .collect();
        let ports: HashSet<_> = attachments.iter().map(|a| a.port).collect();
        let free = present
            .iter()
            .filter(|device| !ports.contains(&device.port));
        let lost = all
            .iter()
            .filter(|device| !present.contains(device) && !with_pods.contains(&device.name));
        let lost = lost.map(|device| {
            format!(
                "the pool's device {} is gone from this node, and port {} of the appliance is of no use: make it again (a veth goes with its pod when that ends before its DEL)",
                device.name, device.port
            )
        });
        Ok((free.count(), all.len(), lost.collect()))
    }
}

/// A device that the kernel gave back by another name than the pool's.
fn stray<'l>(links: &'l [Link], device: &PortDevice) -> Option<&'l Link> {
    if links.iter().any(|link| link.name == device.name) {
        return None;
    }
    let note = note(&device.name);
    links.iter().find(|link| {
        let alias = link.alias.as_deref();
        alias.is_some_and(|alias| alias.starts_with(&note))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_as_long_as_the_kernel_keeps_it() {
        assert_eq!(alias("vf1", "pod"), "culvert vf1: pod");
        assert_eq!(alias("vf1", &"x".repeat(400)).len(), NOTE_LEN);
        assert_eq!(alias("vf1", &"ä".repeat(200)).len(), NOTE_LEN);
    }
}
