//! Tables, words and colours for people.

use std::io::{self, Write};

use anstyle::AnsiColor;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use crate::facts::{Object, Reference, short_id};
use crate::units::clean;

/// A verdict or status in its colour. The output stream removes the colour where none is wanted.
pub fn paint(word: &str) -> String {
    let colour = match word {
        "open" | "ok" => AnsiColor::Green,
        "closed" | "warning" => AnsiColor::Yellow,
        "unknown" | "failed" => AnsiColor::Red,
        _ => return word.to_owned(),
    };
    let style = colour.on_default();
    format!("{style}{word}{style:#}")
}

pub fn amount(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

pub fn label(object: &Object) -> String {
    names_or_id(&object.names, &object.id)
}

/// The first name and how many more there are, else the beginning of the ID.
pub fn names_or_id(names: &[String], id: &str) -> String {
    match names {
        [] => short_id(id),
        [name] => short(name),
        [name, more @ ..] => {
            // Its own digest is no other name of a tagged image.
            let is_tag = |name: &&String| !name.contains('@');
            let more = if is_tag(&name) { more.iter().filter(is_tag).count() } else { more.len() };
            if more == 0 { short(name) } else { format!("{} (+{more})", short(name)) }
        }
    }
}

pub fn short(name: &str) -> String {
    clean(&Reference::parse(name).short().to_string())
}

/// Of stdout, where that is a terminal.
pub fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// Whether the locale writes UTF-8, by the first of its variables that is set.
pub fn is_utf8() -> bool {
    let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let variable = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(set);
    let value = variable.and_then(|name| std::env::var(name).ok()).unwrap_or_default().to_uppercase();
    value.contains("UTF-8") || value.contains("UTF8")
}

/// A table as wide as the terminal, or of any width if stdout is not one.
pub fn table<const N: usize>(
    out: &mut impl Write,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    table_of_width(out, header, rows, terminal_width())
}

/// The narrowest column of reasons, in columns of a terminal: names are shortened first.
const NARROWEST_REASON: usize = 24;

/// The shortest name, in characters.
const SHORTEST_NAME: usize = 16;

/// A table. Where it is too wide the reasons are wrapped, and the names, which never are, are shortened in the middle.
fn table_of_width<const N: usize>(
    out: &mut impl Write,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    width: Option<usize>,
) -> io::Result<()> {
    let mut rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| clean(&cell))).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        let widest = |at: usize| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([header[at].len()]).max().unwrap_or(0)
        };
        let others: usize = (0..N)
            .filter(|&at| header[at] != "NAME")
            .map(|at| if header[at] == "REASON" { widest(at).min(NARROWEST_REASON) } else { widest(at) })
            .sum();
        let room = width.saturating_sub(others + 2 * N).max(SHORTEST_NAME);
        if let Some(name) = header.iter().position(|title| *title == "NAME") {
            rows.iter_mut().for_each(|row| row[name] = shortened(&row[name], room));
        }
    }
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (at, title) in header.iter().enumerate() {
        let Some(column) = table.column_mut(at) else { continue };
        column.set_padding((0, 2));
        if matches!(*title, "SIZE" | "AGE" | "LAST USE") {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if *title != "REASON" {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

/// Shortened to this many characters: without the registry and the folders before the repository where that is enough,
/// else in the middle.
fn shortened(name: &str, longest: usize) -> String {
    let shorter = name.match_indices('/').map(|(at, _)| format!("…{}", &name[at..]));
    if let Some(short) = shorter.into_iter().find(|short| short.chars().count() <= longest)
        && name.chars().count() > longest
    {
        return short;
    }
    let length = name.chars().count();
    if length <= longest {
        return name.to_owned();
    }
    let (start, end) = ((longest - 1) * 2 / 3, length - (longest - 1 - (longest - 1) * 2 / 3));
    let part = |from: usize, to: usize| name.chars().take(to).skip(from).collect::<String>();
    format!("{}…{}", part(0, start), part(end, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of a terminal: these characters of the tests take two.
    fn columns(text: &str) -> usize {
        text.chars().map(|c| if ('\u{3000}'..'\u{a000}').contains(&c) { 2 } else { 1 }).sum()
    }

    #[test]
    fn tables_stay_aligned_with_long_wide_and_hostile_names() {
        let long = "x".repeat(200);
        let names = ["a", "日本語", &long, "é\u{1b}[31m", ""];
        for width in [None, Some(80), Some(48)] {
            let rows =
                names.map(|name| ["image".to_owned(), name.to_owned(), "1 B".into(), "a reason".into()]);
            let mut out = Vec::new();
            table_of_width(&mut out, ["KIND", "NAME", "SIZE", "REASON"], rows.into_iter(), width).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(!text.contains('\u{1b}'), "{text:?}");
            let starts: Vec<usize> = text
                .lines()
                .filter_map(|line| line.find("a reason").map(|at| columns(&line[..at])))
                .collect();
            assert_eq!(starts.len(), names.len(), "{text}");
            assert!(starts.iter().all(|start| *start == starts[0]), "{text}");
            assert!(width.is_none_or(|width| text.lines().all(|line| columns(line) <= width)), "{text}");
            assert_eq!(text.contains(&long), width.is_none(), "{text}");
        }
    }

    #[test]
    fn a_name_is_shortened_before_its_repository_else_in_the_middle() {
        assert_eq!(shortened("registry.example.org/shop/web:1", 16), "…/shop/web:1");
        assert_eq!(shortened("registry.example.org/shop/web:1", 31), "registry.example.org/shop/web:1");
        assert_eq!(shortened("a/0123456789abcdefghij:1", 16), "a/01234567…hij:1");
        assert_eq!(shortened("web:1", 16), "web:1");
    }
}
