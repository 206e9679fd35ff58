//! What the program asks of the engine, as `docs/engine-requests.md` has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use lab::{Engine, Image, Proxy};
use regex::Regex;

use crate::support::{APP, cached, create, dangling, program, remember};

/// Method and path, without the query, names and IDs.
fn shape(request: &str) -> String {
    static NAMED: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
        let expression = |text: &str| Regex::new(text).expect("a valid expression");
        [
            (expression(r"^(\w+ /images)/.+/(json|history|tag)$"), "$1/{name}/$2"),
            (expression(r"^(DELETE /images)/.+$"), "$1/{name}"),
            (expression(r"^(\w+ /containers)/[^/]+(/json)?$"), "$1/{id}$2"),
            (expression(r"^(\w+ /services)/[^/]+$"), "$1/{id}"),
            (expression(r"^(\w+ /distribution)/.+/json$"), "$1/{name}/json"),
        ]
    });
    let path = request.split('?').next().unwrap_or_default();
    let is_list = path.ends_with("/images/json") || path.ends_with("/containers/json");
    let is_create = path == "POST /services/create";
    let named = NAMED.iter().find(|(is, _)| is.is_match(path) && !is_list && !is_create);
    named.map_or_else(|| path.to_owned(), |(is, shape)| is.replace(path, *shape).into_owned())
}

#[test]
fn the_page_of_requests_has_each_by_command() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let old = cached(&engine, &Image::new("old", "1"));
    create(&engine, "web", APP);
    engine.docker(["run", "--name", "ended", APP, "true"]);
    let [_] = dangling(&engine);
    let proxy = Proxy::before(&engine);
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut ask = |command: &'static str, words: &[&str]| {
        proxy.on_request(|_, _| None);
        drop(program(&engine).args(words).args(["--host", &proxy.url()]).ok());
        for request in proxy.requests() {
            found.entry(shape(&request)).or_default().insert(command);
        }
    };
    ask("record", &["record"]);
    ask("check-gates", &["check-gates"]);
    ask("check-gates --wait", &["check-gates", "runs", "--wait", "1s"]);
    ask("status", &["status"]);
    ask("verify", &["verify"]);
    ask("verify --redeploy", &["verify", "--redeploy", "127.0.0.1:5000/app:1"]);
    ask("inhibit", &["inhibit", "--min-free", "1B", "true"]);
    engine.fill_to(85);
    remember(&engine, &[(&engine.image_id(&old), 90)]);
    ask("explain", &["explain", "old"]);
    ask("prune --dry-run", &["--dry-run", "--older-than", "0s"]);
    ask("prune", &["prune", "--older-than", "0s"]);
    assert!(!engine.has_image(&old));

    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/engine-requests.md"));
    let page = page.expect("the page");
    let order = |commands: &BTreeSet<&str>| commands.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>();
    let rows =
        found.iter().map(|(request, commands)| format!("| `{request}` | {} |", order(commands).join(", ")));
    let rows: Vec<String> = rows.collect();
    let written: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(written, rows, "\n{}", rows.join("\n"));
    // The switches of the usual proxy follow.
    let mut switches: BTreeMap<bool, BTreeSet<String>> = BTreeMap::new();
    for (request, commands) in found {
        let (method, path) = request.split_once(' ').expect("a method");
        let reads = commands.contains("check-gates") || commands.contains("record");
        let section = path.split('/').nth(1).unwrap_or_default().to_uppercase();
        let of_prune = commands.iter().any(|one| one.starts_with("prune") || *one == "explain");
        let method = (method != "GET").then(|| "POST".to_owned());
        for switch in std::iter::once(section).chain(method) {
            if reads {
                switches.entry(false).or_default().insert(switch.clone());
            }
            if reads || of_prune {
                switches.entry(true).or_default().insert(switch);
            }
        }
    }
    for (what, of_them) in switches {
        let line = of_them.iter().map(|switch| format!("{switch}=1")).collect::<Vec<_>>().join(" ");
        assert!(
            page.contains(&format!("{line}\n")),
            "for {}: {line}",
            if what { "prune" } else { "the gates" }
        );
    }
}
