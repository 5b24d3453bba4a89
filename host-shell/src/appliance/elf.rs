//! Small ELF files for tests, little endian.

/// A section: its name, flags, the byte that it is full of (`None`: nothing of it is in
/// the file), and its size. What is to be allocated has a segment of its own.
pub(super) type Part = (&'static str, u64, Option<u8>, usize);

/// `SHF_WRITE`.
pub(super) const WRITE: u64 = 1;
/// `SHF_ALLOC`.
pub(super) const ALLOC: u64 = 2;

struct Section {
    name: String,
    /// `SHT_…`.
    kind: u32,
    flags: u64,
    bytes: Vec<u8>,
    size: usize,
    /// Index of the section with its names, size of an entry.
    table: (u32, u64),
}

/// Numbers whose size depends on the file's class.
struct Writer {
    wide: bool,
    bytes: Vec<u8>,
}

impl Writer {
    fn small(&mut self, numbers: &[u16]) {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.bytes.extend(bytes);
    }

    fn word(&mut self, number: u32) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn address(&mut self, number: u64) {
        let len = if self.wide { 8 } else { 4 };
        self.bytes.extend(&number.to_le_bytes()[..len]);
    }
}

/// A program of 64 or 32 bits with these parts.
pub(super) fn with_parts(wide: bool, parts: &[Part]) -> Vec<u8> {
    let section = |(name, flags, fill, size): &Part| Section {
        name: (*name).to_owned(),
        kind: if fill.is_some() { 1 } else { 8 },
        flags: *flags,
        bytes: fill.map(|byte| vec![byte; *size]).unwrap_or_default(),
        size: *size,
        table: (0, 0),
    };
    file(wide, parts.iter().map(section).collect())
}

/// A file whose section `.defmt` has these symbols, by address and name.
pub(super) fn with_defmt(symbols: impl IntoIterator<Item = (u64, String)>) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for (address, name) in symbols {
        let at = u32::try_from(names.len()).unwrap();
        table.extend(at.to_le_bytes());
        // A global object in the first section.
        table.extend([0x11, 0, 1, 0]);
        table.extend(address.to_le_bytes());
        table.extend(1_u64.to_le_bytes());
        names.extend(name.bytes().chain([0]));
    }
    let section = |name: &str, kind, bytes: Vec<u8>, table| Section {
        name: name.to_owned(),
        kind,
        flags: 0,
        size: bytes.len(),
        bytes,
        table,
    };
    let sections = vec![
        section(".defmt", 1, vec![0; 16], (0, 0)),
        section(".symtab", 2, table, (3, 24)),
        section(".strtab", 3, names, (0, 0)),
    ];
    file(true, sections)
}

fn file(wide: bool, mut sections: Vec<Section>) -> Vec<u8> {
    let mut names = vec![0];
    let mut places = Vec::new();
    sections.push(Section {
        name: ".shstrtab".to_owned(),
        kind: 3,
        flags: 0,
        bytes: Vec::new(),
        size: 0,
        table: (0, 0),
    });
    for section in &sections {
        places.push(u32::try_from(names.len()).unwrap());
        names.extend(section.name.bytes().chain([0]));
    }
    let last = sections.last_mut().unwrap();
    (last.size, last.bytes) = (names.len(), names);

    let (header, segment) = if wide { (64, 56) } else { (52, 32) };
    let segments = sections.iter().filter(|section| section.flags & ALLOC != 0);
    let count = segments.clone().count();
    let mut offset = (header + segment * count).next_multiple_of(8);
    let mut offsets = Vec::new();
    for section in &sections {
        offsets.push(offset as u64);
        // Tables must be aligned.
        offset = (offset + section.bytes.len()).next_multiple_of(8);
    }
    let mut out = Writer {
        wide,
        bytes: b"\x7fELF".to_vec(),
    };
    out.bytes.extend([if wide { 2 } else { 1 }, 1, 1]);
    out.bytes.resize(16, 0);
    // A program for x86_64 or Arm.
    out.small(&[2, if wide { 62 } else { 40 }]);
    out.word(1);
    out.address(0);
    out.address(header as u64);
    out.address(offset as u64);
    out.word(0);
    let small = |number: usize| u16::try_from(number).unwrap();
    let section = if wide { 64 } else { 40 };
    out.small(&[small(header), small(segment), small(count), section]);
    out.small(&[small(sections.len() + 1), small(sections.len())]);
    let each = sections.iter().zip(&offsets);
    for (section, offset) in each
        .clone()
        .filter(|(section, _)| section.flags & ALLOC != 0)
    {
        let (flags, file, memory) = (7, section.bytes.len() as u64, section.size as u64);
        out.word(1);
        if wide {
            out.word(flags);
        }
        for number in [*offset, *offset, *offset, file, memory] {
            out.address(number);
        }
        if !wide {
            out.word(flags);
        }
        out.address(1);
    }
    for (section, offset) in each.clone() {
        out.bytes.resize(usize::try_from(*offset).unwrap(), 0);
        out.bytes.extend(&section.bytes);
    }
    // The first section header is of no section.
    out.bytes.resize(offset + usize::from(section), 0);
    for ((section, offset), place) in each.zip(places) {
        let (link, entry) = section.table;
        out.word(place);
        out.word(section.kind);
        for number in [section.flags, *offset, *offset, section.size as u64] {
            out.address(number);
        }
        out.word(link);
        out.word(0);
        out.address(1);
        out.address(entry);
    }
    out.bytes
}
