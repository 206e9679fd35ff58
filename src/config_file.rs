//! The configuration file: TOML whose keys are the names of the long options.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Arg;
use clap::error::{ContextKind, ContextValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cli::{self, ValueType};

/// The least similarity (Jaro-Winkler, 0 to 1) at which an option is suggested for an unknown key.
const MIN_SIMILARITY: f64 = 0.8;

/// A file in which every key is an option and every value is one that the option takes.
#[derive(Debug, Default)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub keys: Vec<Key>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub line: usize,
    /// The values as they would be typed; several for a repeatable option.
    pub values: Vec<String>,
}

impl ConfigFile {
    pub fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let at = |offset: usize| text[..offset].matches('\n').count() + 1;
        let place = |line: usize| format!("{}:{line}", path.display());
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| at(span.start));
            format!("{}: {}", place(line), error.message())
        })?;
        let (mut keys, mut errors) = (Vec::new(), Vec::new());
        for (name, value) in table.get_ref() {
            let line = at(name.span().start);
            match values(name.get_ref(), value) {
                Ok(values) => keys.push(Key { name: name.get_ref().to_string(), line, values }),
                Err(error) => errors.push((line, format!("{}: {}: {error}", place(line), name.get_ref()))),
            }
        }
        errors.sort();
        if errors.is_empty() {
            Ok(Self { path: path.to_owned(), keys })
        } else {
            Err(errors.into_iter().map(|(_, error)| error).collect::<Vec<_>>().join("\n"))
        }
    }

    pub fn key(&self, option: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == option)
    }

    /// The option with the file's value as its default.
    pub fn as_default(&self, option: Arg) -> Arg {
        match option.get_long().and_then(|name| self.key(name)) {
            Some(key) => option.default_values(key.values.clone()),
            None => option,
        }
    }
}

fn values(name: &str, value: &Spanned<DeValue>) -> Result<Vec<String>, String> {
    let command = cli::command(|option| option);
    let keys = || command.get_arguments().filter(|option| cli::is_key(option));
    let Some(option) = keys().find(|option| option.get_long() == Some(name)) else {
        let alike = keys().filter_map(|option| {
            let known = option.get_long()?;
            Some((strsim::jaro_winkler(name, known), known))
        });
        return Err(match alike.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((score, known)) if score > MIN_SIMILARITY => format!("no such key; did you mean {known}?"),
            _ => "no such key; keys are the names of the long options (ci-docker-prune --help)".into(),
        });
    };
    let (expected, values) = match (cli::value_type(option), value.get_ref()) {
        (ValueType::Boolean, DeValue::Boolean(value)) => ("", Some(vec![value.to_string()])),
        (ValueType::Integer, DeValue::Integer(value)) => {
            let value = i64::from_str_radix(value.as_str(), value.radix());
            ("", value.ok().map(|value| vec![value.to_string()]))
        }
        (ValueType::String, DeValue::String(value)) => ("", Some(vec![value.to_string()])),
        (ValueType::Strings, DeValue::Array(values)) => {
            let strings = values.iter().map(|value| value.get_ref().as_str().map(str::to_owned));
            ("an array of strings", strings.collect())
        }
        (ValueType::Boolean, _) => ("true or false", None),
        (ValueType::Integer, _) => ("an integer", None),
        (ValueType::String, _) => ("a string", None),
        (ValueType::Strings, _) => ("an array of strings", None),
    };
    let values: Vec<String> = values.ok_or_else(|| {
        let expected = if expected.is_empty() { "an integer of 64 bits" } else { expected };
        format!("expected {expected}, not {}", shown(value.get_ref()))
    })?;
    match values.iter().find_map(|value| refusal(option, value)) {
        Some((value, why)) => Err(format!("invalid value '{value}': {why}")),
        None => Ok(values),
    }
}

fn shown(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{text}\""),
        DeValue::Integer(number) => format!("the integer {}", number.as_str()),
        DeValue::Boolean(value) => format!("{value}"),
        other => format!("a value of type {}", other.type_str()),
    }
}

/// Why an option does not take this value, if it does not.
fn refusal<'a>(option: &Arg, value: &'a str) -> Option<(&'a str, String)> {
    if cli::value_type(option) == ValueType::Integer && !option.get_action().takes_values() {
        let why = "expected a whole number from 0 to 255".to_owned();
        return value.parse::<u8>().is_err().then_some((value, why));
    }
    if !option.get_action().takes_values() {
        return None;
    }
    let typed = format!("--{}={value}", option.get_long().unwrap_or_default());
    let words = ["ci-docker-prune", &typed, "converge"];
    let error = cli::command(|option| option).try_get_matches_from(words).err()?;
    let why = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(known))) if !known.is_empty() => {
            format!("expected {}", known.join(" or "))
        }
        (None, _) if value.is_empty() => "it must not be empty".into(),
        (None, _) => error.kind().to_string(),
    };
    Some((value, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse(Path::new("c.toml"), text)
    }

    #[test]
    fn keys_are_options_and_values_are_theirs() {
        let file = parse(
            "# a comment\ndisk-threshold = 75\ncritical-age = \"2h\"\nevict-tagged = ['^a\\.b/', \"c\"]\nquiet = true\nverbose = 2\n",
        )
        .unwrap();
        let values = |key: &str| file.key(key).map(|key| (key.line, key.values.join("|")));
        assert_eq!(values("disk-threshold"), Some((2, "75".into())));
        assert_eq!(values("critical-age"), Some((3, "2h".into())));
        assert_eq!(values("evict-tagged"), Some((4, "^a\\.b/|c".into())));
        assert_eq!(values("quiet"), Some((5, "true".into())));
        assert_eq!(values("disk-target"), None);
        assert_eq!(parse("").unwrap().keys, []);
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        let table = [
            ("\ndisk-treshold = 1", "c.toml:2: disk-treshold: no such key; did you mean disk-threshold?"),
            ("zebra = 1", "c.toml:1: zebra: no such key; keys are"),
            ("config = \"x\"", "c.toml:1: config: no such key"),
            ("dry-run = true", "c.toml:1: dry-run: no such key"),
            ("[policy]\nolder-than = \"1h\"", "c.toml:1: policy: no such key"),
            ("disk-threshold = \"80\"", "disk-threshold: expected an integer, not the string \"80\""),
            ("disk-threshold = 80.5", "disk-threshold: expected an integer, not a value of type float"),
            ("disk-threshold = 101", "invalid value '101': expected a whole number from 0 to 100"),
            ("disk-threshold = -1", "invalid value '-1': expected a whole number from 0 to 100"),
            ("disk-threshold = 99999999999999999999", "expected an integer of 64 bits"),
            ("critical-age = 7", "critical-age: expected a string, not the integer 7"),
            ("critical-age = \"7\"", "critical-age: invalid value '7': "),
            ("run-pattern = [\"(\"]", "run-pattern: invalid value '(': "),
            ("output = \"xml\"", "output: invalid value 'xml': expected text or json"),
            ("verbose = 300", "verbose: invalid value '300': expected a whole number from 0 to 255"),
            ("disk-path = [\"\"]", "disk-path: invalid value '': it must not be empty"),
            ("quiet = 1", "quiet: expected true or false, not the integer 1"),
            ("keep-label = \"a\"", "keep-label: expected an array of strings, not the string \"a\""),
            ("keep-label = [\"a\", 1]", "keep-label: expected an array of strings"),
            ("a = 1\na = 2", "c.toml:2: "),
            ("disk-threshold 80", "c.toml:1: "),
        ];
        for (text, expected) in table {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let all = parse("zebra = 1\ncritical-age = 7\n").unwrap_err();
        assert_eq!(all.lines().count(), 2, "{all}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(disk-threshold|keep-label|quiet|[a-z\\n]{0,9}) ?= ?.{0,30}") {
            let _ = parse(&text);
        }
    }
}
