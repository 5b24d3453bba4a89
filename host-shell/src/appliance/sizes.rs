//! An image's file, and how much of it there is.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use object::elf::{PT_LOAD, PT_NOTE, SHF_ALLOC, SHF_WRITE, SHT_NOBITS};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{FileKind, elf};

use super::{Arch, Error};

/// An image that was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// For which architecture.
    pub arch: Arch,
    /// The ELF file with symbols and the texts of its logs.
    pub elf: PathBuf,
    /// The same without; it boots alike. There only after [`Image::strip`].
    pub stripped: PathBuf,
    /// How large it is.
    pub sizes: Sizes,
}

/// How large an image is, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// The ELF file without symbols and section headers.
    pub stripped: u64,
    /// Code and constants, and the first values of variables: what must be in flash.
    pub flash: u64,
    /// Variables, tables and frames: `.data`, `.bss` and what else is written. The stack
    /// is none of it.
    pub ram: u64,
}

impl Image {
    /// Looks at an ELF file.
    ///
    /// # Errors
    /// When it cannot be read or is no program.
    pub fn read(arch: Arch, path: &Path) -> Result<Image, Error> {
        let bytes = fs::read(path).map_err(Error::file(path))?;
        let sizes = Sizes::of(&bytes).map_err(no_image(path))?;
        let mut stripped = OsString::from(path);
        stripped.push(".stripped");
        Ok(Image {
            arch,
            elf: path.to_owned(),
            stripped: stripped.into(),
            sizes,
        })
    }

    /// Writes the file without symbols.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn strip(self) -> Result<Image, Error> {
        let bytes = fs::read(&self.elf).map_err(Error::file(&self.elf))?;
        let stripped = strip(bytes).map_err(no_image(&self.elf))?;
        fs::write(&self.stripped, stripped).map_err(Error::file(&self.stripped))?;
        Ok(self)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes {
            stripped,
            flash,
            ram,
        } = self.sizes;
        let arch = self.arch;
        write!(
            f,
            "{arch}: {stripped} bytes stripped, {flash} of flash, {ram} of RAM"
        )
    }
}

fn no_image(path: &Path) -> impl FnOnce(object::Error) -> Error {
    let path = path.to_owned();
    move |why| Error::NoImage {
        path,
        why: why.to_string(),
    }
}

impl Sizes {
    /// The sizes of an ELF file with these bytes.
    ///
    /// # Errors
    /// When they are not one.
    pub fn of(bytes: &[u8]) -> object::Result<Sizes> {
        match FileKind::parse(bytes)? {
            FileKind::Elf32 => of::<elf::FileHeader32<object::Endianness>>(bytes),
            _ => of::<elf::FileHeader64<object::Endianness>>(bytes),
        }
    }
}

fn of<F: FileHeader<Endian = object::Endianness>>(bytes: &[u8]) -> object::Result<Sizes> {
    let header = F::parse(bytes)?;
    let endian = header.endian()?;
    let (mut flash, mut ram) = (0, 0);
    for section in header.section_headers(endian, bytes)? {
        let flags = section.sh_flags(endian);
        let size: u64 = section.sh_size(endian).into();
        if flags.contains(SHF_ALLOC) && section.sh_type(endian) != SHT_NOBITS {
            flash += size;
        }
        if flags.contains(SHF_ALLOC) && flags.contains(SHF_WRITE) {
            ram += size;
        }
    }
    Ok(Sizes {
        stripped: loaded::<F>(bytes)?,
        flash,
        ram,
    })
}

/// The end, in the file, of what is loaded or looked at by a loader.
fn loaded<F: FileHeader<Endian = object::Endianness>>(bytes: &[u8]) -> object::Result<u64> {
    let header = F::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    let number = u64::from(header.e_phentsize(endian)) * segments.len() as u64;
    let own = header.e_phoff(endian).into() + number;
    let ends = segments
        .iter()
        .filter(|segment| matches!(segment.p_type(endian), PT_LOAD | PT_NOTE))
        .map(|segment| segment.p_offset(endian).into() + segment.p_filesz(endian).into());
    Ok(ends.fold(own, u64::max))
}

/// The file up to the last byte that is loaded, without section headers: they, the
/// symbols and the debug information stand behind it.
fn strip(mut bytes: Vec<u8>) -> object::Result<Vec<u8>> {
    let (len, word) = match FileKind::parse(&bytes[..])? {
        FileKind::Elf32 => (loaded::<elf::FileHeader32<object::Endianness>>(&bytes)?, 4),
        _ => (loaded::<elf::FileHeader64<object::Endianness>>(&bytes)?, 8),
    };
    bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    // In the header: the section headers' offset behind the entry's and the program
    // headers', and their size, number and names' index at its end.
    let shoff = 0x18 + 2 * word;
    let end = shoff + word + 4 + 6 * 2;
    bytes[shoff..shoff + word].fill(0);
    bytes[end - 6..end].fill(0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::elf::{ALLOC, Part, WRITE, with_parts};
    use super::*;

    const TEXT: Part = (".text", ALLOC, Some(0x90), 1000);
    const DATA: Part = (".data", ALLOC | WRITE, Some(0x55), 24);
    const BSS: Part = (".bss", ALLOC | WRITE, None, 1 << 20);
    const DEBUG: Part = (".debug_info", 0, Some(0xdd), 5000);

    #[test]
    fn what_is_stored_and_what_is_written_are_counted() {
        for wide in [true, false] {
            let sizes = Sizes::of(&with_parts(wide, &[TEXT, DATA, BSS, DEBUG])).unwrap();
            assert_eq!((sizes.flash, sizes.ram), (1024, (1 << 20) + 24), "{wide}");
        }
        assert!(Sizes::of(b"no ELF file").is_err());
    }

    #[test]
    fn a_stripped_file_ends_behind_what_is_loaded_and_is_still_one() {
        for wide in [true, false] {
            let whole = with_parts(wide, &[TEXT, DATA, BSS, DEBUG]);
            let sizes = Sizes::of(&whole).unwrap();
            let stripped = strip(whole.clone()).unwrap();
            assert_eq!(stripped.len() as u64, sizes.stripped, "{wide}");
            assert!(stripped.len() < whole.len() - 5000, "{wide}");
            assert!(stripped.ends_with(&[0x55; 24]), "{wide}");
            // Without sections nothing but its length is known.
            let again = Sizes::of(&stripped).unwrap();
            let stripped = sizes.stripped;
            assert_eq!(
                again,
                Sizes {
                    stripped,
                    flash: 0,
                    ram: 0
                },
                "{wide}"
            );
        }
    }
}
