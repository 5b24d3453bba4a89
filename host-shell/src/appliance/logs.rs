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
