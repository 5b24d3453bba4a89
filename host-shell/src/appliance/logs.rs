//! Logs: what an image says by defmt, whose texts are in its ELF file and not in the
//! image itself.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use defmt_decoder::{DecodeError, Frame, Locations, StreamDecoder, Table};

use super::Error;

/// What an image can say.
pub struct Logs {
    table: Table,
    /// Where in the sources each is said; empty when the file has no debug information.
    places: Locations,
}

impl Logs {
    /// The texts in an image's ELF file, the one that is not stripped.
    ///
    /// # Errors
    /// When it cannot be read, is no ELF file, or has no texts.
    pub fn read(image: &Path) -> Result<Logs, Error> {
        let bytes = fs::read(image).map_err(Error::file(image))?;
        Self::parse(&bytes).map_err(|why| Error::NoImage {
            path: image.to_owned(),
            why,
        })
    }

    fn parse(elf: &[u8]) -> Result<Logs, String> {
        let table = Table::parse(elf).map_err(|e| e.to_string())?;
        let table = table.ok_or("it has no texts of logs (is it stripped?)")?;
        let places = table.get_locations(elf).unwrap_or_default();
        Ok(Logs { table, places })
    }

    /// A decoder at the beginning of a serial line.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder {
            stream: self.table.new_stream_decoder(),
            places: &self.places,
        }
    }

    /// All that a serial line said, a line each.
    pub fn text(&self, bytes: &[u8]) -> String {
        let mut text = String::new();
        self.decoder().feed(bytes, |entry| {
            text.push_str(&entry.to_string());
            text.push('\n');
        });
        text
    }
}

/// Decodes a serial line as it comes in.
pub struct Decoder<'l> {
    stream: Box<dyn StreamDecoder + Send + Sync + 'l>,
    places: &'l Locations,
}

/// What was found on a serial line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// The image said something.
    Line(Line),
    /// Bytes that are nothing that the image can say: the beginning is missing, they
    /// were damaged, or are of another image.
    Damaged,
}

/// Something that an image said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When, as the image counts time.
    pub time: Option<String>,
    /// How important it is.
    pub level: Option<&'static str>,
    /// What.
    pub text: String,
    /// File and line in the sources.
    pub place: Option<(PathBuf, u64)>,
}

impl Decoder<'_> {
    /// Takes bytes in and hands on what they complete.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Entry)) {
        self.stream.received(bytes);
        loop {
            match self.stream.decode() {
                Ok(frame) => found(Entry::Line(line(&frame, self.places))),
                // The decoder has skipped it.
                Err(DecodeError::Malformed) => found(Entry::Damaged),
                Err(DecodeError::UnexpectedEof) => return,
            }
        }
    }
}

fn line(frame: &Frame<'_>, places: &Locations) -> Line {
    let place = places.get(&frame.index());
    Line {
        time: frame.display_timestamp().map(|time| time.to_string()),
        level: frame.level().map(|level| level.as_str()),
        text: frame.display_message().to_string(),
        place: place.map(|place| (place.file.clone(), place.line)),
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Line(line) => line.fmt(f),
            Entry::Damaged => f.write_str("(bytes that are nothing this image says)"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(time) = &self.time {
            write!(f, "{time:>12} ")?;
        }
        if let Some(level) = self.level {
            write!(f, "{level:<5} ")?;
        }
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::elf;
    use super::*;

    /// An image that can say three things.
    fn logs() -> Logs {
        let text = |tag: &str, data: &str, number: u8| {
            format!(
                r#"{{"package":"p","tag":"{tag}","data":"{data}","disambiguator":"{number}","crate_name":"c"}}"#
            )
        };
        let symbols = [
            (1, text("defmt_info", "the answer is {=u32}", 1)),
            (2, text("defmt_warn", "{=str} and {=[u8]:x}", 2)),
            (3, text("defmt_error", "all is lost", 3)),
        ];
        let names = ["_defmt_version_ = 4", "_defmt_encoding_ = rzcobs"].map(str::to_owned);
        let all = symbols.into_iter().chain(names.map(|name| (0, name)));
        Logs::parse(&elf::with_defmt(all)).unwrap()
    }

    /// Message 1 with 5: two bytes of its number, four of the argument, filled up to seven
    /// by a zero; then what tells zeroes from the bytes that stand here, from the last on.
    const ANSWER: [u8; 4] = [1, 5, 0b111_1010, 0];
    /// Message 3, filled up likewise.
    const LOST: [u8; 3] = [3, 0b111_1110, 0];

    #[test]
    fn lines_have_level_and_text() {
        let logs = logs();
        let text = logs.text(&[&ANSWER[..], &LOST].concat());
        assert_eq!(text, "info  the answer is 5\nerror all is lost\n");
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let logs = logs();
        let mut decoder = logs.decoder();
        let mut found = Vec::new();
        for byte in ANSWER {
            decoder.feed(&[byte], |entry| found.push(entry));
        }
        let line = Line {
            time: None,
            level: Some("info"),
            text: "the answer is 5".to_owned(),
            place: None,
        };
        assert_eq!(found, [Entry::Line(line)]);
    }

    #[test]
    fn garbage_is_passed_over() {
        let logs = logs();
        let text = logs.text(&[b"\x7fELF? no\0", &ANSWER[1..], &LOST].concat());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[..2].iter().all(|line| line.starts_with('(')),
            "{text}"
        );
        assert_eq!(lines[2], "error all is lost");
    }

    #[test]
    fn a_stripped_image_is_told_from_others() {
        let stripped = elf::with_parts(true, &[(".text", elf::ALLOC, Some(0x90), 100)]);
        let error = Logs::parse(&stripped).err().unwrap();
        assert!(error.contains("stripped"), "{error}");
        assert!(Logs::parse(b"no ELF file").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_leave_the_decoder_alive(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = logs().text(&[&bytes[..], &[0], &LOST].concat());
            prop_assert!(text.ends_with("error all is lost\n"), "{text}");
        }
    }
}
