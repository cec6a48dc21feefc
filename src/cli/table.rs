//! Tables for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::config::Size;

/// What a column shows of a row, which is a JSON object.
pub(super) struct Column {
    pub title: &'static str,
    /// A JSON pointer.
    pub field: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A text or a number.
    Text,
    /// Several of them.
    List,
    /// A number of bytes.
    Size,
    /// How long ago a time in milliseconds since the epoch is, or in how long it will be.
    Age,
    /// The names of those of these fields that are true.
    Flags(&'static [&'static str]),
}

pub(super) const fn text(title: &'static str, field: &'static str) -> Column {
    Column {
        title,
        field,
        kind: Kind::Text,
    }
}

pub(super) const fn list(title: &'static str, field: &'static str) -> Column {
    Column {
        title,
        field,
        kind: Kind::List,
    }
}

pub(super) const fn size(title: &'static str, field: &'static str) -> Column {
    Column {
        title,
        field,
        kind: Kind::Size,
    }
}

pub(super) const fn age(title: &'static str, field: &'static str) -> Column {
    Column {
        title,
        field,
        kind: Kind::Age,
    }
}

pub(super) const fn flags(title: &'static str, names: &'static [&'static str]) -> Column {
    Column {
        title,
        field: "",
        kind: Kind::Flags(names),
    }
}

/// A line for each of `rows`, below the titles; numbers are aligned to the right.
pub(super) fn table(rows: &Value, columns: &[Column]) -> String {
    let rows: Vec<Vec<String>> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|column| column.show(row)).collect())
        .collect();
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([columns[at].title.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, width), column) in cells.zip(&widths).zip(columns) {
            line += &match column.kind {
                Kind::Size => format!("{cell:>width$}  "),
                _ => format!("{cell:<width$}  "),
            };
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut columns.iter().map(|column| column.title));
    for row in &rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A line for each field of an object that has a value.
pub(super) fn fields(object: &Value, columns: &[Column]) -> String {
    let width = columns.iter().map(|column| column.title.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for column in columns {
        let shown = column.show(object);
        if !shown.is_empty() {
            text += &format!("{:<width$}  {shown}\n", column.title);
        }
    }
    text
}

impl Column {
    fn show(&self, row: &Value) -> String {
        let value = row.pointer(self.field);
        let number = value.and_then(Value::as_u64);
        match self.kind {
            Kind::Text => value.map_or_else(String::new, show_text),
            Kind::List => {
                let values = value.and_then(Value::as_array).into_iter().flatten();
                values.map(show_text).collect::<Vec<_>>().join(", ")
            }
            Kind::Size => number.map_or_else(String::new, |size| Size::from(size).to_string()),
            Kind::Age => number.map_or_else(String::new, age_of),
            Kind::Flags(names) => {
                let is_set = |name: &&&str| row[**name] == Value::Bool(true);
                let names: Vec<_> = names.iter().filter(is_set).copied().collect();
                names.join(", ")
            }
        }
    }
}

fn show_text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

/// Names that users choose must not control the terminal, nor reorder what stands in a row.
pub(super) fn printable(text: &str) -> String {
    let printable = |c: char| match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(printable).collect()
}

fn age_of(ts: u64) -> String {
    let Some(then) = UNIX_EPOCH.checked_add(Duration::from_millis(ts)) else {
        return String::new();
    };
    let (before, distance, after) = match SystemTime::now().duration_since(then) {
        Ok(distance) => ("", distance, " ago"),
        Err(future) => ("in ", future.duration(), ""),
    };
    // What is to come is rounded: a week that has just begun has 7 days.
    let half = |unit: u64| if after.is_empty() { unit / 2 } else { 0 };
    let (number, unit) = match distance.as_secs() {
        0..60 => return "now".to_owned(),
        seconds @ 60..3600 => ((seconds + half(60)) / 60, "min"),
        seconds @ 3600..172_800 => ((seconds + half(3600)) / 3600, "h"),
        seconds => ((seconds + half(86_400)) / 86_400, "days"),
    };
    format!("{before}{number} {unit}{after}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{fields, flags, size, table, text};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = json!([{ "a": "x", "b": 3 << 20 }, { "a": "longer", "b": 1, "on": true }]);
        let columns = [
            text("NAME", "/a"),
            size("SIZE", "/b"),
            flags("STATE", &["on"]),
        ];
        assert_eq!(
            table(&rows, &columns),
            "NAME      SIZE  STATE\nx       3.0 MB\nlonger    1 kB  on\n"
        );
        assert_eq!(table(&json!([]), &columns), "NAME  SIZE  STATE\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let shown = fields(&json!({ "a": "\u{1b}[2Jx\u{202e}\n" }), &[text("A", "/a")]);
        assert_eq!(shown, "A  \u{fffd}[2Jx\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let columns = [
            text("One", "/one"),
            text("Two", "/two"),
            text("Three", "/a/b"),
        ];
        let shown = fields(
            &json!({ "one": 1, "two": null, "a": { "b": "c" } }),
            &columns,
        );
        assert_eq!(shown, "One    1\nThree  c\n");
    }
}
