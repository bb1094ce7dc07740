//! How things look on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::cli::Format;
use super::documents;

/// How a cell is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Doubtful,
    Quiet,
    Strong,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    colours: bool,
}

impl Palette {
    /// Colours on a terminal only, and not if `NO_COLOR` is set (<https://no-color.org>).
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colours: stream.is_terminal() && !set("NO_COLOR") && !dumb }
    }

    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colours: false }
    }

    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            _ if !self.colours || text.is_empty() => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Doubtful => "33",
            Tone::Quiet => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A cell of a [`Table`].
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Rows in aligned columns; columns without any text are left out.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(header: impl Into<Vec<&'static str>>) -> Self {
        Self { header: header.into(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self, palette: Palette) -> String {
        let mut columns = Vec::new();
        for (i, title) in self.header.iter().enumerate() {
            let cells = self.rows.iter().filter_map(|row| row.get(i));
            let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            if widest > 0 {
                columns.push((i, widest.max(title.chars().count())));
            }
        }
        let mut text = String::new();
        let header: Vec<Cell> = self.header.iter().map(|title| Cell::new(Tone::Strong, *title)).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            let mut owed = 0;
            for (i, width) in &columns {
                let Cell { text, tone } = row.get(*i).cloned().unwrap_or_default();
                if !text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', owed));
                    line.push_str(&palette.paint(tone, &text));
                    owed = 0;
                }
                owed += width - text.chars().count() + 2;
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// The text of a value in one of the formats for programs.
///
/// # Errors
/// When the value cannot be written in that format, which no type here does.
pub(super) fn render(value: &impl Serialize, format: Format) -> anyhow::Result<String> {
    let value = serde_json::to_value(value)?;
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(&documents::Ordered(&value))? + "\n",
        Format::Yaml => documents::to_yaml(std::slice::from_ref(&value))?,
    })
}

/// Objects: YAML documents, or JSON that kubectl understands.
///
/// # Errors
/// As [`render`].
pub(super) fn render_objects(objects: &[Value], format: Option<Format>) -> anyhow::Result<String> {
    match (format, objects) {
        (_, []) => Ok(String::new()),
        (None | Some(Format::Yaml), _) => documents::to_yaml(objects),
        (Some(Format::Json), [one]) => render(one, Format::Json),
        (Some(Format::Json), many) => {
            render(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": many}), Format::Json)
        }
    }
}

/// Writes to standard output; a reader that has gone (`| head`) is no error.
///
/// # Errors
/// Any other error of the stream.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A line of progress or warning, on standard error.
pub(super) fn say(text: &str) {
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A warning, on standard error.
pub(super) fn warn(text: &str) {
    let palette = Palette::of(&io::stderr());
    say(&format!("{} {text}", palette.paint(Tone::Doubtful, "warning:")));
}

/// An error, on standard error.
pub(super) fn complain(error: &anyhow::Error) {
    let palette = Palette::of(&io::stderr());
    say(&format!("{} {}", palette.paint(Tone::Bad, "error:"), chain(error.as_ref())));
}

/// The texts of an error and of its causes; what one has said already is not said again.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// A span of time in two units at most, as kubectl writes ages.
pub(super) fn span(seconds: i64) -> String {
    let s = seconds.max(0);
    let two = |big: i64, small: i64, units: [&str; 2]| match small {
        0 => format!("{big}{}", units[0]),
        _ => format!("{big}{}{small}{}", units[0], units[1]),
    };
    match s {
        0..120 => format!("{s}s"),
        120..600 => two(s / 60, s % 60, ["m", "s"]),
        600..7200 => format!("{}m", s / 60),
        7200..86_400 => two(s / 3600, s % 3600 / 60, ["h", "m"]),
        86_400..604_800 => two(s / 86_400, s % 86_400 / 3600, ["d", "h"]),
        _ => format!("{}d", s / 86_400),
    }
}

/// How long ago something was.
pub(super) fn ago(now: Timestamp, then: Timestamp) -> String {
    span(now.as_second() - then.as_second())
}

/// How long something took.
pub(super) fn took(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}ms"),
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.2}s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_empty_ones_go() {
        let mut table = Table::new(["HOST", "TLS", "WHY"]);
        table.row(vec!["10.0.0.1".into(), "".into(), "refused".into()]);
        table.row(vec!["db.example.org".into(), "".into(), "".into()]);
        assert_eq!(
            table.render(Palette::plain()),
            "HOST            WHY\n10.0.0.1        refused\ndb.example.org\n"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(["A", "B"]);
        table.row(vec![Cell::new(Tone::Bad, "x"), "y".into()]);
        let text = table.render(Palette { colours: true });
        assert_eq!(text, "\x1b[1mA\x1b[0m  \x1b[1mB\x1b[0m\n\x1b[31mx\x1b[0m  y\n");
    }

    #[test]
    fn spans() {
        for (seconds, expected) in [
            (-3, "0s"),
            (7, "7s"),
            (119, "119s"),
            (192, "3m12s"),
            (240, "4m"),
            (3600, "60m"),
            (7260, "2h1m"),
            (86_400, "1d"),
            (90_000, "1d1h"),
            (10 * 86_400 + 5, "10d"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn times() {
        assert_eq!(took(Duration::from_micros(1234)), "1.23ms");
        assert_eq!(took(Duration::from_millis(45)), "45ms");
        assert_eq!(took(Duration::from_millis(1500)), "1.50s");
    }
}
