//! The page of `check-config`: a valid file, or none.

use std::io::{self, Write};
use std::path::Path;

use super::table::amount;
use super::{SCHEMA, json};

pub fn text(out: &mut impl Write, path: Option<&Path>, keys: usize) -> io::Result<()> {
    match path {
        Some(path) => writeln!(out, "{} is valid and sets {}", path.display(), amount(keys, "key")),
        None => writeln!(out, "there is no configuration file; the defaults apply"),
    }
}

pub fn json_of(out: &mut impl Write, path: Option<&Path>, keys: usize) -> io::Result<()> {
    let path = path.map(|path| path.display().to_string());
    json(out, &serde_json::json!({"schema": SCHEMA, "valid": true, "path": path, "keys": keys}))
}
