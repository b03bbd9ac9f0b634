//! How something is shown: as a table for people, as JSON or YAML for programs.

use std::time::Duration;

use anstyle::Style;
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table as Grid, presets};
use serde::Serialize;

use crate::error::Failure;

/// The form in which something is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: columns, times as ages.
    #[default]
    Table,
    /// For programs: everything that is known.
    Json,
    /// As JSON, to be read.
    Yaml,
}

/// How it is shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArguments {
    /// The form.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(crate) output: Format,
    /// Show it again and again, by default each second, until Ctrl-C.
    #[arg(long, value_parser = humantime::parse_duration, num_args = 0..=1, default_missing_value = "1s", require_equals = true, global = true, value_name = "EVERY")]
    pub(crate) watch: Option<Duration>,
}

/// A table for people. Names come from whoever wrote them: nothing in a cell can write beyond it,
/// or give orders to a terminal.
pub(crate) struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
    /// What is said where there is no row.
    nothing: String,
}

impl Table {
    pub(crate) fn new(columns: &'static [&'static str], nothing: impl Into<String>) -> Self {
        Table { columns, rows: Vec::new(), nothing: nothing.into() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    fn text(&self) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.nothing);
        }
        let mut grid = Grid::new();
        grid.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(self.columns.iter().copied());
        self.rows.iter().for_each(|row| {
            grid.add_row(row);
        });
        for column in grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let bold = Style::new().bold();
        let lines = grid.lines().enumerate().map(|(at, line)| match (at, line.trim_end()) {
            (0, head) => format!("{bold}{head}{bold:#}\n"),
            (_, line) => format!("{line}\n"),
        });
        lines.collect()
    }
}

/// A name as one line without orders to a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c }).collect()
}

/// What turns the direction of text around, or is not seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Where nothing is known.
pub(crate) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// A value in the form that is asked for.
pub(crate) fn render<T: Serialize + ?Sized>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> Vec<Table>,
) -> Result<String, Failure> {
    let unwritable = |error: String| Failure::Usage(format!("this cannot be shown in that form: {error}"));
    match format {
        Format::Table => {
            let texts: Vec<String> = table().iter().map(Table::text).collect();
            Ok(texts.join("\n"))
        }
        Format::Json => {
            let text = serde_json::to_string_pretty(value);
            text.map(|text| text + "\n").map_err(|error| unwritable(error.to_string()))
        }
        Format::Yaml => serde_norway::to_string(value).map_err(|error| unwritable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_gives_no_orders_to_a_terminal() {
        let mut table = Table::new(&["NAME", "HOLDER"], "nobody");
        assert_eq!(table.text(), "nobody\n");
        table.row(["a\u{1b}[31m\nb".to_owned(), "c\u{202e}d".to_owned()]);
        let text = anstream::adapter::strip_str(&table.text()).to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
}
