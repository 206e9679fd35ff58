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
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

/// The product's part of a file: what stands before its unit tests.
fn product<'a>(path: &Path, text: &'a str) -> &'a str {
    let of_tests_alone = path.ends_with("tests.rs") || path.ends_with("properties.rs");
    if of_tests_alone { "" } else { text.split("#[cfg(test)]\nmod tests").next().unwrap() }
}

/// `src/gates/disk.rs` is of module `gates`.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_know_only_whom_they_may() {
    let may: BTreeMap<&str, &str> = BTreeMap::from([
        ("units", ""),
        ("exit", ""),
        ("facts", "units"),
        ("gates", "facts units"),
        ("history", "units"),
        ("ledger", "facts units"),
        ("plan", "facts ledger units"),
        ("cli", "plan units"),
        ("config_file", "cli"),
        ("settings", "cli config_file engine facts gates plan prune units"),
        ("world", "facts history ledger units"),
        ("engine", "facts units world"),
        ("host", "engine facts history ledger units world"),
        ("observe", "facts ledger plan units world"),
        ("execute", "facts gates plan units world"),
        ("consumers", "facts ledger units world"),
        ("prune", "consumers execute facts gates ledger observe plan units world"),
        ("report", "consumers execute facts gates history ledger plan prune units world"),
        ("verify", "cli engine facts gates host ledger observe prune report units world"),
        ("logging", "host units"),
    ]);
    for (path, text) in sources(&root().join("src")) {
        let module = module(&path);
        let Some(may) = may.get(module.as_str()) else {
            let free = ["main", "lib", "commands", "testing"].contains(&module.as_str());
            assert!(free, "{module} is not in the table");
            continue;
        };
        assert!(!text.contains("crate::{"), "{}: one `use crate::…` a module", path.display());
        for used in product(&path, &text).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let fine = used == module || used.is_empty() || may.split(' ').any(|name| name == used);
            assert!(fine, "{} knows {used}", path.display());
        }
    }
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    for (path, text) in sources(&root().join("src")) {
        if ["units", "facts", "gates", "history", "ledger", "plan"].contains(&module(&path).as_str()) {
            for word in [
                "std::fs", "std::env", "std::io", "log::", "::now()", "println!", "tokio", "bollard",
                " nix::",
            ] {
                assert!(!product(&path, &text).contains(word), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn the_edges_have_one_importer_each() {
    for (path, text) in sources(&root().join("src")) {
        let (module, text) = (module(&path), product(&path, &text));
        if module == "testing" {
            continue;
        }
        let owners = [
            ("bollard::", "engine"),
            ("nix::", "host"),
            ("clap::", "cli config_file settings"),
            ("anyhow", "commands facts host lib verify world"),
        ];
        for (word, owner) in owners {
            // `unix::` is not `nix::`.
            let text = text.replace("unix::", "");
            assert!(!text.contains(word) || owner.contains(&module), "{} uses {word}", path.display());
        }
        assert!(!text.contains("println!"), "{} prints by itself", path.display());
        for endpoint in ["images/prune", "prune_images", "prune_containers", "prune_volumes", "system/prune"]
        {
            assert!(!text.contains(endpoint), "{} names {endpoint}", path.display());
        }
    }
}

#[test]
fn the_changelog_knows_this_version() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(changelog.contains(&format!("## [{version}]")), "CHANGELOG.md has no section for {version}");
}

/// Every option of `--help` stands in the table of options, with its default.
#[test]
fn the_configuration_page_has_every_option_and_its_default() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let cli = fs::read_to_string(root().join("src/cli.rs")).unwrap();
    let mut rows = page.lines().filter(|line| line.starts_with("| `--"));
    for (name, default) in options(&cli) {
        let begins = |row: &&str| {
            let rest = row.strip_prefix("| `--").and_then(|row| row.strip_prefix(name.as_str()));
            rest.is_some_and(|rest| rest.starts_with([' ', '`']))
        };
        let row = rows.clone().find(begins);
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for --{name}"));
        assert!(default.is_none_or(|default| row.contains(&format!("`{default}`"))), "the default in: {row}");
    }
    assert!(rows.next().is_some());
}

/// Names and literal defaults of the options, as the source declares them; not the hidden ones.
fn options(cli: &str) -> Vec<(String, Option<String>)> {
    let mut options = Vec::new();
    let (mut long, mut default) = (false, None);
    for line in cli.lines().map(str::trim) {
        if line.starts_with("#[arg(") {
            long |= line.contains("long") && !line.contains("hide = true");
            if let Some((_, rest)) = line.split_once("default_value = \"") {
                default = rest.split('"').next().map(str::to_owned);
            }
        } else if let (Some((field, _)), true) = (line.trim_start_matches("pub ").split_once(": "), long) {
            options.push((field.replace('_', "-"), default.take()));
            long = false;
        }
    }
    options
}

/// The pages for people.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)).into();
    for folder in ["docs", "docs/decisions"] {
        pages.extend(fs::read_dir(root().join(folder)).unwrap().map(|page| page.unwrap().path()));
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
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
fn the_docs_name_units_and_options_that_there_are() {
    let options = fs::read_to_string(root().join("docs/module-options.md")).unwrap();
    let example = fs::read_to_string(root().join("docs/ci-docker-prune.toml")).unwrap();
    let is_key = |word: &str| example.contains(&format!("\n# {word} = "));
    // How many of each kind were looked at.
    let mut seen = [0; 5];
    for (path, text) in pages() {
        for option in names_after(&text, "services.ci-docker-prune.") {
            // `systemd.services.ci-docker-prune.onFailure` is NixOS's.
            let known = options.contains(&format!("## `services.ci-docker-prune.{option}`"));
            assert!(known || option == "onFailure", "{}: no option {option}", path.display());
            seen[0] += 1;
        }
        for key in names_after(&text, "settings.").filter(|key| !["", "rs"].contains(key)) {
            assert!(is_key(key), "{}: no key {key}", path.display());
            seen[1] += 1;
        }
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c)) {
            let word = word.trim_end_matches('.');
            let unit = [".service", ".timer", ".path"].iter().any(|kind| word.ends_with(kind));
            if !unit || !word.contains("prun") {
                continue;
            }
            // NixOS's own names for autoPrune.
            let theirs = ["docker-prune.service", "docker-prune.timer"].contains(&word);
            let there = root().join("modules/systemd").join(word).exists();
            assert!(theirs || there, "{}: no unit {word}", path.display());
            seen[2] += 1;
        }
        for word in text.split('`').skip(1).step_by(2) {
            let camel = word.chars().all(|c| c.is_ascii_alphanumeric())
                && word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.contains(|c: char| c.is_ascii_uppercase());
            let known = options.contains(&format!("## `services.ci-docker-prune.{word}`"));
            let theirs = ["autoPrune", "onFailure", "credsStore", "credHelpers"].contains(&word);
            assert!(!camel || known || theirs, "{}: no option {word}", path.display());
            seen[3] += usize::from(camel);
        }
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let there = file.contains("://") || path.parent().unwrap().join(file).exists();
            assert!(there, "{}: no file {file}", path.display());
            seen[4] += 1;
        }
    }
    assert!(seen.iter().zip([10, 3, 10, 5, 50]).all(|(seen, least)| *seen >= least), "{seen:?}");
}

#[test]
fn the_module_has_the_programs_keys_and_defaults() {
    let page = fs::read_to_string(root().join("docs/module-options.md")).unwrap();
    let example = fs::read_to_string(root().join("docs/ci-docker-prune.toml")).unwrap();
    let cli = fs::read_to_string(root().join("src/cli.rs")).unwrap();
    let keys: Vec<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    for key in &keys {
        // systemd names the directories.
        let by_systemd = ["state-dir", "runtime-dir"].contains(key);
        let known = page.contains(&format!("## `services.ci-docker-prune.settings.{key}`"));
        assert!(known != by_systemd, "{key}");
    }
    let mut compared = 0;
    for (name, default) in options(&cli) {
        let section = page.split(&format!("## `services.ci-docker-prune.settings.{name}`")).nth(1);
        let Some((section, default)) = section.zip(default.as_deref()) else { continue };
        let line = section.lines().find(|line| line.starts_with("- default: ")).unwrap();
        let value = line.trim_start_matches("- default: `").trim_end_matches('`');
        let value = value.trim_start_matches("[ ").trim_end_matches(" ]").trim_matches('"');
        assert_eq!(value, default, "--{name}");
        compared += 1;
    }
    assert_eq!(
        compared, 12,
        "threshold, critical, four ages, two waits, during-runs, label, timeout, output"
    );
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
                let names =
                    line.strip_prefix("| ").and_then(|rest| rest.split(" |").next()).unwrap_or_default();
                names.split(", ").any(|own| own == name)
            };
            assert!(table.lines().any(row), "docs/architecture.md gives no reason for {name}");
        }
    }
}

/// The two functions that a prune and its preview follow, from the survey to the report.
#[test]
fn the_road_of_a_prune_is_short() {
    let text = fs::read_to_string(root().join("src/prune/mod.rs")).unwrap();
    for (beginning, end) in
        [("\npub async fn run<", "\n}\n"), ("\n    async fn plan_and_execute(", "\n    }\n")]
    {
        let body = text.split(beginning).nth(1).and_then(|rest| rest.split(end).next()).unwrap();
        assert!(body.lines().count() <= 50, "{beginning}: {} lines", body.lines().count());
    }
}
