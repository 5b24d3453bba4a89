//! What a guest boots: Debian's kernel, and an initramfs with its modules,
//! busybox, and programs of this machine with the libraries that they need.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::culvert::own_dir;
use crate::process::run;

const INIT: &str = include_str!("init.sh");

/// Loaded by the guest in this order; what they need comes with them.
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "veth",
    "bridge",
    "tun",
    "vxlan",
    "ipip",
    "sit",
    "ip6_tunnel",
];

/// What every guest has beside busybox, whose `ip` knows too little of tunnels
/// and whose shell prefers it to any other.
const PROGRAMS: [&str; 5] = ["sh", "ip", "bridge", "ping", "iperf3"];

/// Where programs lie in the guest: before busybox's in the search path.
const BIN: &str = "usr/local/bin";

/// How long an initramfs that nobody asks for stays in the cache.
const UNUSED: Duration = Duration::from_secs(24 * 3600);

/// A kernel and an initramfs on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Size of the initramfs in bytes.
    pub(crate) size: u64,
}

impl Image {
    /// Finds the kernel that `ci/setup` fetched, and finds or makes an initramfs
    /// that also has the programs `extra` and the libraries they are linked with.
    ///
    /// # Errors
    /// When the kernel or a program is missing (`ci/setup` brings both), or the
    /// cache, `guest` beside the directory of the lab's program, cannot be written.
    pub(crate) fn prepare(extra: &[PathBuf]) -> Result<Self> {
        let own = own_dir()?.canonicalize()?;
        let cache = own.with_file_name("guest");
        let parts = Parts::find(&cache, extra)?;
        let initramfs = cache.join(format!("initramfs-{:016x}.cpio", parts.key()?));
        if initramfs.is_file() {
            // Its age says when it was last of use.
            let file = fs::File::options().append(true).open(&initramfs)?;
            file.set_modified(SystemTime::now())?;
        } else {
            forget_unused(&cache);
            let stage = tempfile::tempdir_in(&cache)
                .with_context(|| format!("cannot write to {}", cache.display()))?;
            parts.build(&stage.path().join("root"))?;
            // Two labs may make it at the same time: each renames a whole one.
            let made = pack(stage.path())?;
            fs::rename(made, &initramfs)?;
        }
        Ok(Self {
            kernel: parts.kernel,
            size: fs::metadata(&initramfs)?.len(),
            initramfs,
        })
    }
}

/// What an image is made of.
#[derive(Debug)]
struct Parts {
    /// The kernel.
    kernel: PathBuf,
    /// `lib/modules/<version>` as it was unpacked.
    modules: PathBuf,
    /// The kernel's version.
    version: String,
    /// Paths under `modules`.
    objects: BTreeSet<String>,
    /// busybox, whose place `init` knows.
    busybox: PathBuf,
    /// The others.
    programs: Vec<PathBuf>,
    /// Libraries and the loader, which have the same path in the guest.
    libraries: BTreeSet<PathBuf>,
}

impl Parts {
    fn find(cache: &Path, extra: &[PathBuf]) -> Result<Self> {
        let root = cache.join("kernel");
        let (version, modules) = kernel_version(&root)
            .with_context(|| format!("no kernel for guests in {}: run ci/setup", root.display()))?;
        let depends = fs::read_to_string(modules.join("modules.dep"))
            .with_context(|| format!("no list of modules in {}", modules.display()))?;
        let mut programs = Vec::new();
        for name in PROGRAMS {
            programs.push(find_program(name)?);
        }
        programs.extend_from_slice(extra);
        let busybox = find_program("busybox")?;
        let mut libraries = BTreeSet::new();
        for program in programs.iter().chain([&busybox]) {
            libraries.extend(libraries_of(program)?);
        }
        Ok(Self {
            kernel: root.join(format!("boot/vmlinuz-{version}")),
            objects: closure(&depends, &MODULES)?,
            modules,
            version,
            busybox,
            programs,
            libraries,
        })
    }

    /// A number for everything that is in the initramfs.
    fn key(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        (INIT, MODULES, &self.version).hash(&mut hasher);
        let objects = self.objects.iter().map(|object| self.modules.join(object));
        let files = self.programs.iter().chain(&self.libraries).cloned();
        for file in objects.chain(files).chain([self.busybox.clone()]) {
            let about = fs::metadata(&file).with_context(|| file.display().to_string())?;
            (file, about.len(), about.modified()?).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// Lays the guest's file system out in `root`.
    fn build(&self, root: &Path) -> Result<()> {
        copy(&self.busybox, &root.join("bin/busybox"))?;
        for program in &self.programs {
            let name = program.file_name().context("a program has no name")?;
            strip(program, &root.join(BIN).join(name))?;
        }
        for library in &self.libraries {
            copy(library, &under(root, library))?;
        }
        let modules = root.join("lib/modules").join(&self.version);
        for object in &self.objects {
            copy(&self.modules.join(object), &modules.join(object))?;
        }
        let busybox = self.busybox.display().to_string();
        let base = root.display().to_string();
        run(&[&busybox, "depmod", "-b", &base, &self.version], "")?;
        fs::create_dir_all(root.join("etc"))?;
        fs::write(root.join("etc/modules"), MODULES.join("\n"))?;
        fs::write(root.join("init"), INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// Version and modules of the kernel that is unpacked in `root`.
fn kernel_version(root: &Path) -> Option<(String, PathBuf)> {
    let entry = fs::read_dir(root.join("lib/modules")).ok()?.next()?.ok()?;
    let version = entry.file_name().into_string().ok()?;
    let there = root.join(format!("boot/vmlinuz-{version}")).is_file();
    there.then(|| (version, entry.path()))
}

/// The path of a program that `ci/setup` installs.
pub(super) fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    found.with_context(|| format!("`{name}`, which guests need, is missing: run ci/setup"))
}

/// The modules `wanted` and all that they need, from the text of `modules.dep`.
fn closure(depends: &str, wanted: &[&str]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for name in wanted {
        let line = depends.lines().find(|line| {
            let object = line.split(':').next().unwrap_or_default();
            object.rsplit('/').next() == Some(&format!("{name}.ko"))
        });
        let line = line.with_context(|| format!("the guests' kernel has no module {name}"))?;
        let objects = line.split_whitespace();
        all.extend(objects.map(|object| object.trim_end_matches(':').to_owned()));
    }
    Ok(all)
}

fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    match run(&["ldd", &program.display().to_string()], "") {
        Ok(listed) => Ok(linked(&listed.stdout).collect()),
        // A static program.
        Err(error) if error.to_string().contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error.context(format!("{} for a guest", program.display()))),
    }
}

/// The files that ldd(1) names: `libc.so.6 => /lib/libc.so.6 (0x…)` and, for the
/// loader, `/lib64/ld.so (0x…)`.
fn linked(listed: &str) -> impl Iterator<Item = PathBuf> {
    listed
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.find(|word| word.starts_with('/'))
        })
        .map(PathBuf::from)
}

/// The place of an absolute path below `root`.
fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying {} to {}", from.display(), to.display());
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    fs::copy(from, to).with_context(what)?;
    Ok(())
}

/// Copies a program without its symbols, which in a debug build of ours take ten
/// times the room of the program.
fn strip(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    run(&["strip", &to.display().to_string()], "")?;
    Ok(())
}

/// Makes an archive of `root` in `stage`. It is not compressed: an emulated
/// processor takes longer to inflate it than QEMU to load it.
fn pack(stage: &Path) -> Result<PathBuf> {
    let script = "cd \"$1/root\"; find . | busybox cpio -o -H newc -R 0:0 >../cpio";
    let text = stage.display().to_string();
    run(&["sh", "-ec", script, "pack", &text], "")?;
    let made = stage.join("cpio");
    let size = fs::metadata(&made)?.len();
    ensure!(size > 0, "busybox made an empty archive");
    Ok(made)
}

/// Deletes what was not of use for a day. That it cannot is no reason to stop.
fn forget_unused(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let is_ours = entry
            .file_name()
            .to_string_lossy()
            .starts_with("initramfs-");
        let age = entry
            .metadata()
            .ok()
            .and_then(|about| about.modified().ok());
        let age = age.and_then(|time| time.elapsed().ok());
        if is_ours && age.is_some_and(|age| age > UNUSED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let depends = "net/ipv4/ipip.ko: net/ipv4/tunnel4.ko net/ipv4/ip_tunnel.ko\n\
                       net/ipv4/ip_tunnel.ko:\nnet/ipv4/tunnel4.ko:\nnet/xipip.ko:\n";
        let found: Vec<_> = closure(depends, &["ipip"]).unwrap().into_iter().collect();
        let all = [
            "net/ipv4/ip_tunnel.ko",
            "net/ipv4/ipip.ko",
            "net/ipv4/tunnel4.ko",
        ];
        assert_eq!(found, all);
        let error = closure(depends, &["sit"]).unwrap_err().to_string();
        assert!(error.contains("sit"), "{error}");
    }

    #[test]
    fn libraries_and_the_loader_are_found() {
        let listed = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<_> = linked(listed).collect();
        let all = ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, all.map(PathBuf::from));
        assert_eq!(linked("\tstatically linked\n").count(), 0);
    }
}
