//! Plots of the report: groups of bars, a bar for each setup.
//!
//! plotters draws the PNG itself, text by the crate `ab_glyph` from a font of Debian's
//! (package fonts-dejavu-core): one drawing code for both kinds of file, all of it in
//! Rust, and next to nothing more to build, where a renderer of SVG would be a hundred
//! crates.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::statistics::Spread;

/// Where Debian's package fonts-dejavu-core has the font.
const FONTS: &str = "/usr/share/fonts/truetype/dejavu";
const WIDTH: u32 = 1_000;
/// Pixels of the PNG for each of the SVG.
const SCALE: u32 = 2;

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    /// What it shows.
    pub(super) title: String,
    /// How to read it.
    pub(super) subtitle: String,
    /// Height in pixels.
    pub(super) height: u32,
    /// The groups, from left to right.
    pub(super) groups: Vec<Group>,
    /// The setups, by the bars' numbers: name and color.
    pub(super) setups: Vec<(String, RGBColor)>,
    /// A line across all groups, with its label.
    pub(super) line: Option<(f64, String)>,
    /// Whether the axis is logarithmic.
    pub(super) log: bool,
}

/// A group of bars.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// Lines of its label.
    pub(super) label: [String; 2],
    /// A bar for each setup that has one.
    pub(super) bars: Vec<Bar>,
    /// What is to be reached at least, and what is aimed at.
    pub(super) goal: Option<(f64, f64)>,
}

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    /// Number of its setup.
    pub(super) setup: usize,
    /// The median and the quarters around it.
    pub(super) value: Spread,
}

impl Plot {
    /// Writes the plot as `name.svg` and `name.png` into the directory.
    ///
    /// # Errors
    /// When the font is not there, or a file cannot be written.
    pub(super) fn write(&self, dir: &Path, name: &str) -> Result<()> {
        register_fonts()?;
        let height = self.height;
        let svg = dir.join(format!("{name}.svg"));
        let root = SVGBackend::new(&svg, (WIDTH, height)).into_drawing_area();
        self.draw(&root, 1)?;
        let png = dir.join(format!("{name}.png"));
        let size = (WIDTH * SCALE, height * SCALE);
        let root = BitMapBackend::new(&png, size).into_drawing_area();
        self.draw(&root, SCALE)
    }

    fn draw<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>, scale: u32) -> Result<()> {
        let canvas = Canvas {
            root,
            scale: i32::try_from(scale)?,
        };
        root.fill(&WHITE).map_err(failed)?;
        canvas.text(&self.title, (24, 18), 22.0, (HPos::Left, &INK, true))?;
        canvas.text(&self.subtitle, (24, 48), 14.0, (HPos::Left, &PALE, false))?;
        self.draw_legend(&canvas)?;
        let frame = Frame {
            left: 64,
            right: i32::try_from(WIDTH)? - 24,
            top: 128,
            bottom: i32::try_from(self.height)? - 62,
            axis: self.axis(),
        };
        for tick in frame.axis.ticks() {
            let y = frame.y(tick);
            canvas.line([(frame.left, y), (frame.right, y)], (&GRID, 1))?;
            canvas.text(
                &short(tick),
                (frame.left - 8, y - 8),
                13.0,
                (HPos::Right, &PALE, false),
            )?;
        }
        let count = i32::try_from(self.groups.len().max(1))?;
        let width = (frame.right - frame.left) / count;
        for (group, left) in self
            .groups
            .iter()
            .zip((frame.left..).step_by(usize::try_from(width)?))
        {
            self.draw_group(&canvas, &frame, group, (left, width))?;
        }
        // Text last, so that no line crosses it.
        if let Some((at, label)) = &self.line {
            let y = frame.y(*at);
            canvas.line([(frame.left, y), (frame.right, y)], (&INK, 2))?;
            canvas.text(
                label,
                (frame.right, y - 18),
                13.0,
                (HPos::Right, &INK, false),
            )?;
        }
        for (group, left) in self
            .groups
            .iter()
            .zip((frame.left..).step_by(usize::try_from(width)?))
        {
            label_bars(&canvas, &frame, group, (left, width))?;
        }
        let floor = [(frame.left, frame.bottom), (frame.right, frame.bottom)];
        canvas.line(floor, (&INK, 1))?;
        root.present().map_err(failed)
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let mut x = 24;
        for (name, color) in &self.setups {
            canvas.fill([(x, 84), (x + 14, 98)], color)?;
            canvas.text(name, (x + 20, 85), 14.0, (HPos::Left, &INK, false))?;
            x += 20 + canvas.width(name, 14.0)? + 22;
        }
        if self.groups.iter().any(|group| group.goal.is_some()) {
            for (y, name, color) in [(86, "at least", &LEAST), (104, "aim", &AIM)] {
                let right = i32::try_from(WIDTH)? - 24;
                let text = right - 60;
                canvas.text(name, (text, y - 1), 14.0, (HPos::Left, &INK, false))?;
                canvas.line([(text - 30, y + 7), (text - 6, y + 7)], (color, 3))?;
            }
        }
        Ok(())
    }

    fn draw_group<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
        frame: &Frame,
        group: &Group,
        (left, width): (i32, i32),
    ) -> Result<()> {
        let middle = left + width / 2;
        for (line, y) in group
            .label
            .iter()
            .zip([frame.bottom + 10, frame.bottom + 30])
        {
            canvas.text(
                line,
                (middle, y),
                15.0,
                (HPos::Center, &INK, y < frame.bottom + 20),
            )?;
        }
        let (begin, step) = group.bars_at((left, width))?;
        let mut x = begin;
        for bar in &group.bars {
            let (_, color) = self.setups.get(bar.setup).context("a bar of no setup")?;
            let Spread {
                lower,
                median,
                upper,
                ..
            } = bar.value;
            let (low, at, high) = (frame.y(lower), frame.y(median), frame.y(upper));
            canvas.fill([(x + 3, at), (x + step - 3, frame.bottom)], color)?;
            let center = x + step / 2;
            canvas.line([(center, low), (center, high)], (&INK, 2))?;
            for y in [low, high] {
                canvas.line([(center - 4, y), (center + 4, y)], (&INK, 2))?;
            }
            x += step;
        }
        if let Some((least, aim)) = group.goal {
            for (at, color) in [(least, &LEAST), (aim, &AIM)] {
                let y = frame.y(at);
                canvas.line([(begin - 6, y), (x + 6, y)], (color, 3))?;
            }
        }
        Ok(())
    }

    /// The axis that has room for all values.
    fn axis(&self) -> Axis {
        let bars = self.groups.iter().flat_map(|group| &group.bars);
        let goals = self.groups.iter().filter_map(|group| group.goal);
        let line = self.line.iter().map(|(at, _)| *at);
        let high = bars
            .clone()
            .map(|bar| bar.value.upper.max(bar.value.median));
        let most = high.chain(goals.flat_map(|(a, b)| [a, b])).chain(line);
        let most = most.fold(0.0, f64::max);
        if !self.log {
            return Axis {
                low: 0.0,
                high: most * 1.12,
                log: false,
            };
        }
        let least = bars.map(|bar| bar.value.lower).fold(most, f64::min);
        Axis {
            low: 10_f64.powf((least * 0.8).log10().floor()),
            high: most * 1.8,
            log: true,
        }
    }
}

impl Group {
    /// Where the first bar begins in the group's place, and how wide each is.
    fn bars_at(&self, (left, width): (i32, i32)) -> Result<(i32, i32)> {
        let bars = i32::try_from(self.bars.len().max(1))?;
        let step = ((width - 36) / bars).min(64);
        Ok((left + width / 2 - step * bars / 2, step))
    }
}

/// Writes each bar's median above it.
fn label_bars<B: DrawingBackend>(
    canvas: &Canvas<B>,
    frame: &Frame,
    group: &Group,
    place: (i32, i32),
) -> Result<()> {
    let (begin, step) = group.bars_at(place)?;
    for (bar, x) in group
        .bars
        .iter()
        .zip((begin..).step_by(usize::try_from(step)?))
    {
        let text = short(bar.value.median);
        let (x, y) = (
            x + step / 2,
            frame.y(bar.value.upper.max(bar.value.median)) - 20,
        );
        let half = canvas.width(&text, 13.0)? / 2 + 4;
        canvas.fill([(x - half, y - 1), (x + half, y + 15)], &WHITE)?;
        canvas.text(&text, (x, y), 13.0, (HPos::Center, &INK, true))?;
    }
    Ok(())
}

/// Text and lines.
const INK: RGBColor = RGBColor(34, 34, 34);
const PALE: RGBColor = RGBColor(96, 96, 96);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// What is to be reached at least, and what is aimed at.
const LEAST: RGBColor = RGBColor(204, 34, 34);
const AIM: RGBColor = RGBColor(34, 139, 34);

/// From a value to a place between bottom (0) and top (1).
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn part(&self, value: f64) -> f64 {
        let at = |value: f64| {
            if self.log {
                value.max(self.low).log10()
            } else {
                value
            }
        };
        ((at(value) - at(self.low)) / (at(self.high) - at(self.low))).clamp(0.0, 1.0)
    }

    /// Round values, about five of them.
    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        if self.log {
            let mut tick = self.low;
            while tick <= self.high {
                ticks.extend(
                    [tick, tick * 3.0]
                        .into_iter()
                        .filter(|tick| *tick <= self.high),
                );
                tick *= 10.0;
            }
            return ticks;
        }
        let rough = self.high / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let step = steps
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let mut tick = 0.0;
        while step > 0.0 && tick <= self.high {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }
}

/// Where the bars are.
struct Frame {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
    axis: Axis,
}

impl Frame {
    fn y(&self, value: f64) -> i32 {
        let height = f64::from(self.bottom - self.top) * self.axis.part(value);
        // Through text: there is no lossless conversion from a float.
        self.bottom - format!("{height:.0}").parse::<i32>().unwrap_or(0)
    }
}

/// What is drawn on, in pixels of the SVG.
struct Canvas<'a, B: DrawingBackend> {
    root: &'a DrawingArea<B, Shift>,
    scale: i32,
}

type Point = (i32, i32);

impl<B: DrawingBackend> Canvas<'_, B> {
    fn points(&self, points: [Point; 2]) -> [Point; 2] {
        points.map(|(x, y)| (x * self.scale, y * self.scale))
    }

    fn fill(&self, corners: [Point; 2], color: &RGBColor) -> Result<()> {
        let shape = Rectangle::new(self.points(corners), color.filled());
        self.root.draw(&shape).map_err(failed)
    }

    fn line(&self, ends: [Point; 2], (color, width): (&RGBColor, u32)) -> Result<()> {
        let width = width * self.scale.unsigned_abs();
        let shape = PathElement::new(self.points(ends).to_vec(), color.stroke_width(width));
        self.root.draw(&shape).map_err(failed)
    }

    fn style<'s>(
        &self,
        size: f64,
        (side, color, bold): (HPos, &'s RGBColor, bool),
    ) -> TextStyle<'s> {
        let style = if bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let size = size * f64::from(self.scale);
        let font = FontDesc::new(FontFamily::SansSerif, size, style);
        TextStyle::from(font)
            .color(color)
            .pos(Pos::new(side, VPos::Top))
    }

    fn text(
        &self,
        text: &str,
        (x, y): Point,
        size: f64,
        how: (HPos, &RGBColor, bool),
    ) -> Result<()> {
        let style = self.style(size, how);
        let at = (x * self.scale, y * self.scale);
        self.root.draw_text(text, &style, at).map_err(failed)
    }

    /// How wide a text is.
    fn width(&self, text: &str, size: f64) -> Result<i32> {
        let style = self.style(size, (HPos::Left, &INK, false));
        let (width, _) = self.root.estimate_text_size(text, &style).map_err(failed)?;
        Ok(i32::try_from(width)? / self.scale)
    }
}

/// A number in as few digits as tell enough.
pub(super) fn short(value: f64) -> String {
    let digits = match value {
        _ if value <= 0.0 => 0,
        _ if value < 1.0 => 2,
        _ if value < 9.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let Some(thousands) = text
        .len()
        .checked_sub(3)
        .filter(|at| digits == 0 && *at > 0)
    else {
        return text;
    };
    let (head, tail) = text.split_at(thousands);
    format!("{head},{tail}")
}

/// The fonts are read once for all plots; both stay in memory.
fn register_fonts() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let register = || {
        let styles = [
            (FontStyle::Normal, "DejaVuSans.ttf"),
            (FontStyle::Bold, "DejaVuSans-Bold.ttf"),
        ];
        for (style, file) in styles {
            let path = Path::new(FONTS).join(file);
            let bytes = fs::read(&path)
                .map_err(|error| format!("no font {} ({error}): run ci/setup", path.display()))?;
            register_font("sans-serif", style, Box::leak(bytes.into_boxed_slice()))
                .map_err(|_| format!("{} is no font", path.display()))?;
        }
        Ok(())
    };
    DONE.get_or_init(register)
        .clone()
        .map_err(|error| anyhow!(error))
}

fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.614, "0.61"),
            (1.52, "1.5"),
            (9.99, "10"),
            (350.4, "350"),
            (12_345.0, "12,345"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_on_the_axis() {
        let axis = Axis {
            low: 0.0,
            high: 2.4,
            log: false,
        };
        assert_eq!(axis.ticks().len(), 5);
        assert!((axis.part(1.2) - 0.5).abs() < 1e-9);
        let log = Axis {
            low: 10.0,
            high: 1_000.0,
            log: true,
        };
        assert_eq!(log.ticks().len(), 5);
        assert!((log.part(100.0) - 0.5).abs() < 1e-9 && log.part(0.0).abs() < 1e-9);
    }

    #[test]
    fn both_files_are_pictures() {
        let value = Spread {
            lower: 0.5,
            median: 0.6,
            upper: 0.7,
            count: 7,
        };
        let plot = Plot {
            title: "Title".into(),
            subtitle: "Subtitle".into(),
            height: 400,
            groups: vec![Group {
                label: ["one".into(), "stream".into()],
                bars: vec![Bar { setup: 0, value }],
                goal: Some((0.5, 0.8)),
            }],
            setups: vec![("a setup".into(), RGBColor(0, 0, 255))],
            line: Some((1.0, "the kernel".into())),
            log: false,
        };
        let dir = tempfile::tempdir().unwrap();
        plot.write(dir.path(), "plot").unwrap();
        let svg = fs::read_to_string(dir.path().join("plot.svg")).unwrap();
        assert!(svg.contains("<svg") && svg.contains("the kernel"), "{svg}");
        let png = fs::read(dir.path().join("plot.png")).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 2_000);
    }
}
