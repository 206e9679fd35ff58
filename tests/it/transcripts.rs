//! The transcripts of README and the docs: every line is one that the program prints on a real engine.
//!
//! Numbers, sizes, ages, IDs and paths of a transcript are examples; everything else must be as printed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use lab::{Engine, Image};
use regex::Regex;
use serde_json::json;

use crate::support::{bare, change_ledger, program, remember_hours, stdout};

/// What only a host that systemd has booted prints: `tests/host.rs` has it.
const ON_A_BOOTED_HOST: [&str; 2] = ["pruners failed", "units failed"];

/// What in a line is an example.
static EXAMPLES: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let examples = [
        (r"(sha256:)?[0-9a-f]{7,}…?", "ID"),
        (r"(unix://)?(/[\w.-]+)+", "PATH"),
        (r"(^| )/ ", "${1}PATH "),
        (r"\b[a-z]+\.toml", "PATH"),
        (r"\b\d+(\.\d+)? (B|kB|MB|GB)", "SIZE"),
        (r"\b\d+(ms|s|m|h|d)\b", "AGE"),
        (r"\d+(\.\d+)*(\+\w+)?", "N"),
        ("graph driver|containerd image store", "STORE"),
        (r"\b(container|image|service|key)s\b", "$1"),
        (r"\s+", " "),
    ];
    examples.map(|(pattern, name)| (Regex::new(pattern).expect("a pattern"), name)).into()
});

fn shape(line: &str) -> String {
    let line = EXAMPLES
        .iter()
        .fold(line.to_owned(), |line, (pattern, name)| pattern.replace_all(&line, *name).into_owned());
    line.trim().to_owned()
}

/// The lines of the transcripts in a page, which are blocks with a line `$ … ci-docker-prune …`.
fn transcript_lines(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("read a page");
    let blocks = text.split("```").skip(1).step_by(2);
    let of_ours = blocks
        .filter(|block| block.lines().any(|line| line.starts_with("$ ") && line.contains("ci-docker-prune")));
    let output = |line: &&str| !line.starts_with("$ ") && !line.trim().is_empty();
    of_ours.flat_map(|block| block.lines().skip(1).filter(output)).map(str::to_owned).collect()
}

#[test]
fn every_line_of_a_transcript_is_printed() {
    let mut printed: HashSet<String> = HashSet::new();
    let mut take = |text: &str| printed.extend(text.lines().map(shape));
    on_a_host_under_pressure(&mut take);
    of_configuration_files(&mut take);

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("read docs").map(|page| page.expect("a page").path());
    let pages = docs.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut compared = 0;
    for page in pages.chain([root.join("README.md")]) {
        for line in transcript_lines(&page) {
            let shape = shape(&line);
            let elsewhere = ON_A_BOOTED_HOST.iter().any(|beginning| shape.starts_with(beginning));
            let similar = || {
                let beginning = shape.split(' ').next().unwrap_or_default();
                printed.iter().filter(|line| line.starts_with(beginning)).cloned().collect::<Vec<_>>()
            };
            let is_printed = elsewhere || printed.contains(&shape);
            assert!(is_printed, "{}: {line}\n{shape}\nprinted: {:#?}", page.display(), similar());
            compared += 1;
        }
    }
    assert!(compared > 40, "only {compared} lines of transcripts");
}

/// A host of which the docs tell: services, images that were used by runs, a container that ended.
fn on_a_host_under_pressure(take: &mut impl FnMut(&str)) {
    let engine = Engine::start();
    engine.publish(&Image::new("library/web", "1"));
    for n in 0..4 {
        engine.docker(["service", "create", "--quiet", "--detach", "--name", &format!("web{n}"), "web:1"]);
    }
    engine.converged();
    engine.docker(["run", "--name", "migrate", "web:1", "true"]);
    let [redis, frontend, old, new] = [
        ("library/redis", "a"),
        ("shop/frontend", "b"),
        ("library/postgres", "c"),
        ("library/postgres", "d"),
    ]
    .map(|(repository, seed)| {
        let image = Image::new(repository, "1").seed(seed).size_mib(40);
        let name = repository.trim_start_matches("library/");
        let reference = format!("{name}@{}", engine.publish(&image));
        engine.docker(["pull", "--quiet", &reference]);
        engine.image_id(&reference)
    });
    engine.fill_to(83);
    let run = |words: &[&str]| program(&engine).args(words).assert();
    // The container ended longer ago than that, and images are first seen by the dry run itself.
    let dry_run = ["--dry-run", "--older-than", "3s"];

    // The first day: nothing is known of any image.
    let config = engine.folder().join("docker");
    fs::create_dir_all(&config).expect("a folder");
    let auth = json!({"auths": {"https://index.docker.io/v1/": {"auth": "Y2k6c2VjcmV0"}}});
    fs::write(config.join("config.json"), auth.to_string()).expect("a credential");
    let verify = program(&engine).env("DOCKER_CONFIG", &config).arg("verify").assert();
    take(
        &stdout(&verify).replace(&config.join("config.json").display().to_string(), "~/.docker/config.json"),
    );
    engine.eventually("the container ended long enough ago", || {
        let planned = stdout(&run(&dry_run));
        let is_old_enough = planned.contains("\n1 container\n");
        if is_old_enough {
            take(&planned);
        }
        is_old_enough
    });
    let create =
        ["service", "create", "--quiet", "--detach", "--label", "com.docker.stack.namespace=ci-4711_shop"];
    engine.docker([&create[..], &["--name", "ci-4711_shop_app", "web:1"]].concat());
    engine.converged();
    take(&stdout(&run(&["runs", "--run-pattern", "^ci-[0-9]+([_-]|$)"])));
    engine.docker(["service", "rm", "ci-4711_shop_app"]);
    engine.no_container_named("ci-4711");

    // Later: some were not used for days, and one was replaced.
    let now = jiff::Timestamp::now();
    let long_ago = now - jiff::SignedDuration::from_hours(30 * 24);
    let repositories = json!({
        "redis":
            {"images": 1, "came_back": 1, "gaps_seconds": [604_800, 604_800, 604_800], "newest": long_ago, "last_used": now},
        "shop/frontend":
            {"images": 2, "came_back": 0, "gaps_seconds": [], "newest": now, "last_used": now},
    });
    let remember = |uses: &[(&str, i64, Option<&str>)]| {
        remember_hours(&engine, uses);
        change_ledger(&engine, |ledger| ledger["repositories"] = repositories.clone());
    };
    remember(&[
        (&redis, 3 * 24, Some("redis:7")),
        (&frontend, 48, Some("shop/frontend:c1")),
        (&old, 48, Some("postgres:15")),
        (&new, 1, Some("postgres:15")),
    ]);
    take(&stdout(&run(&dry_run)));
    remember(&[(&redis, 2, Some("redis:7"))]);
    take(&stdout(&run(&["explain", &redis])));
}

/// A valid file, and one with two errors.
fn of_configuration_files(take: &mut impl FnMut(&str)) {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        let assert = bare().current_dir(folder.path()).args(["check-config", name]).assert();
        stdout(&assert) + &String::from_utf8_lossy(&assert.get_output().stderr)
    };
    take(&check("valid.toml", "prune-at = 90\nrun-pattern = ['^ci-[0-9]+([_-]|$)']\n"));
    take(&check("draft.toml", "prune-at = 90\ndisk-treshold = 85\ncritical-age = 7\n"));
}
