//! The rules of the house that a machine can check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

/// The product's part of a file: what stands before its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

/// `src/gates/disk.rs` is of module `gates`.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_know_only_whom_they_may() {
    let may: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("units", &[] as &[&str]),
        ("exit", &[]),
        ("facts", &["units"]),
        ("checks", &["facts", "gates"]),
        ("gates", &["facts", "units"]),
        ("ledger", &["facts", "units"]),
        ("occupants", &["facts"]),
        ("plan", &["facts", "gates", "ledger", "units"]),
        ("cli", &["plan", "units"]),
        ("settings", &["cli", "gates", "plan", "units"]),
        ("engine", &["checks", "facts", "units", "settings"]),
        ("host", &["checks", "facts", "ledger", "units"]),
        ("world", &["engine", "facts", "host", "ledger", "settings", "units"]),
        ("observe", &["engine", "facts", "gates", "ledger", "plan", "settings", "units", "world"]),
        ("execute", &["plan", "gates", "facts", "engine", "units", "world"]),
        (
            "report",
            &["checks", "engine", "execute", "facts", "gates", "ledger", "occupants", "plan", "units"],
        ),
        ("logging", &["host", "units"]),
    ]);
    for (path, text) in sources(&root().join("src")) {
        let module = module(&path);
        let Some(may) = may.get(module.as_str()) else {
            let free = ["main", "lib", "commands", "testing"].contains(&module.as_str());
            assert!(free, "{module} is not in the table");
            continue;
        };
        assert!(!text.contains("crate::{"), "{}: one `use crate::…` a module", path.display());
        if path.ends_with("properties.rs") {
            continue; // a test
        }
        for used in product(&text).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let fine = used == module || used.is_empty() || may.contains(&used.as_str());
            assert!(fine, "{} knows {used}", path.display());
        }
    }
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    for (path, text) in sources(&root().join("src")) {
        if ["units", "facts", "checks", "gates", "ledger", "occupants", "plan"]
            .contains(&module(&path).as_str())
        {
            for word in [
                "std::fs", "std::env", "std::io", "log::", "::now()", "println!", "tokio", "bollard",
                " nix::",
            ] {
                assert!(!product(&text).contains(word), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn the_edges_have_one_importer_each() {
    for (path, text) in sources(&root().join("src")) {
        let (module, text) = (module(&path), product(&text));
        for (word, owner) in [("bollard::", "engine"), ("nix::", "host"), ("clap::", "cli settings")] {
            // `unix::` is not `nix::`.
            let text = text.replace("unix::", "");
            assert!(!text.contains(word) || owner.contains(&module), "{} uses {word}", path.display());
        }
        assert!(!text.contains("println!"), "{} prints by itself", path.display());
        let dry =
            ["cli", "settings", "report"].contains(&module.as_str()) || path.ends_with("commands/prune.rs");
        assert!(dry || !text.contains("dry_run"), "{} knows dry runs", path.display());
        for endpoint in ["images/prune", "prune_images", "prune_containers", "prune_volumes", "system/prune"]
        {
            assert!(!text.contains(endpoint), "{} names {endpoint}", path.display());
        }
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    for folder in ["src", "tests"] {
        for (path, text) in sources(&root().join(folder)) {
            assert!(text.starts_with("//! "), "{}", path.display());
            for word in ["#[ignore", "todo!(", "unimplemented!(", "thread::sleep", "#[allow("] {
                let fine = path.ends_with("tests/style.rs");
                assert!(fine || !text.contains(word), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn the_changelog_knows_this_version() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(changelog.contains(&format!("## [{version}]")), "CHANGELOG.md has no section for {version}");
}

/// Every option of `--help` stands in the README's table of options, with its default.
#[test]
fn the_readme_has_every_option_and_its_default() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let cli = fs::read_to_string(root().join("src/cli.rs")).unwrap();
    let mut rows = readme.lines().filter(|line| line.starts_with("| `--"));
    for (name, default) in options(&cli) {
        let begins = |row: &&str| {
            let rest = row.strip_prefix("| `--").and_then(|row| row.strip_prefix(name.as_str()));
            rest.is_some_and(|rest| rest.starts_with([' ', '`']))
        };
        let row = rows.clone().find(begins);
        let row = row.unwrap_or_else(|| panic!("README.md has no row for --{name}"));
        assert!(default.is_none_or(|it| row.contains(&format!("`{it}`"))), "the default in: {row}");
    }
    assert!(rows.next().is_some());
}

/// Names and literal defaults of the options, as the source declares them.
fn options(cli: &str) -> Vec<(String, Option<String>)> {
    let mut options = Vec::new();
    let (mut long, mut default) = (false, None);
    for line in cli.lines().map(str::trim) {
        if line.starts_with("#[arg(") {
            long |= line.contains("long");
            if let Some((_, rest)) = line.split_once("default_value = \"") {
                default = rest.split('"').next().map(str::to_owned);
            }
        } else if let (Some(field), true) = (line.strip_prefix("pub "), long) {
            let name = field.split(':').next().unwrap().replace('_', "-");
            options.push((name, default.take()));
            long = false;
        }
    }
    options
}

/// The pages for people.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = vec![root().join("README.md")];
    for folder in ["docs", "docs/decisions"] {
        pages.extend(fs::read_dir(root().join(folder)).unwrap().map(|it| it.unwrap().path()));
    }
    pages.retain(|path| path.extension().is_some_and(|it| it == "md"));
    pages.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What stands in the text after each of these words, as far as it is a name.
fn names_after<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(word).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn the_docs_name_units_and_options_that_the_module_has() {
    let options = fs::read_to_string(root().join("docs/module-options.md")).unwrap();
    for (path, text) in pages() {
        for option in names_after(&text, "services.ci-docker-prune.") {
            // `systemd.services.ci-docker-prune.onFailure` is NixOS's.
            let known = options.contains(&format!("## `services.ci-docker-prune.{option}`"));
            assert!(known || option == "onFailure", "{}: no option {option}", path.display());
        }
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c)) {
            let word = word.trim_end_matches('.');
            let unit = word.ends_with(".service") || word.ends_with(".timer");
            // NixOS's own names for autoPrune.
            let theirs = ["docker-prune.service", "docker-prune.timer"].contains(&word);
            let there = root().join("modules/systemd").join(word).exists();
            assert!(!unit || !word.contains("prun") || theirs || there, "{}: no unit {word}", path.display());
        }
        for word in text.split('`').skip(1).step_by(2) {
            let camel = word.chars().all(|c| c.is_ascii_alphanumeric())
                && word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.contains(|c: char| c.is_ascii_uppercase());
            let known = options.contains(&format!("## `services.ci-docker-prune.{word}`"));
            let theirs = ["autoPrune", "onFailure", "credsStore", "credHelpers"].contains(&word);
            assert!(!camel || known || theirs, "{}: no option {word}", path.display());
        }
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let there = file.contains("://") || path.parent().unwrap().join(file).exists();
            assert!(there, "{}: no file {file}", path.display());
        }
    }
}

#[test]
fn the_module_has_the_programs_defaults() {
    let page = fs::read_to_string(root().join("docs/module-options.md")).unwrap();
    let cli = fs::read_to_string(root().join("src/cli.rs")).unwrap();
    let mut compared = 0;
    for (name, default) in options(&cli) {
        let default = match name.as_str() {
            "run-pattern" => cli.split("RUN_PATTERN: &str = \"").nth(1).and_then(|it| it.split('"').next()),
            _ => default.as_deref(),
        };
        let camel: String = name
            .split('-')
            .enumerate()
            .map(|(n, word)| if n == 0 { word.to_owned() } else { word[..1].to_uppercase() + &word[1..] })
            .collect();
        let section = |name: &str| page.split(&format!("## `services.ci-docker-prune.{name}`")).nth(1);
        // `keepLabels` holds several of `--keep-label`.
        let Some(section) = section(&camel).or_else(|| section(&format!("{camel}s"))) else { continue };
        let line = section.lines().find(|line| line.starts_with("- default: ")).unwrap();
        if let Some(default) = default {
            let value = line.trim_start_matches("- default: `").trim_end_matches('`');
            let value = value.trim_start_matches("[ ").trim_end_matches(" ]").trim_matches('"');
            assert_eq!(value, default, "--{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 8, "threshold, target, critical, three ages, pattern, label");
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = page.split("## Dependencies").nth(1).unwrap().split("\n## ").next().unwrap();
    for section in ["[dependencies]\n", "[dev-dependencies]\n"] {
        let section = manifest.split(section).nth(1).unwrap().split("\n\n").next().unwrap();
        for name in section.lines().filter_map(|line| line.split(' ').next()) {
            let row = |line: &str| {
                let names = line.strip_prefix("| ").and_then(|it| it.split(" |").next()).unwrap_or_default();
                names.split(", ").any(|it| it == name)
            };
            assert!(table.lines().any(row), "docs/architecture.md gives no reason for {name}");
        }
    }
}
