//! The program with a test's engine, and what the tests say about it.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use lab::{Engine, Image, Proxy};
use serde_json::{Value, json};

/// A stack's name as a CI run has it.
pub const RUN: &str = "abcd-0123ef_ci_commoninternet_net";

/// The program, with its directories in the lab's folder.
pub fn program(engine: &Engine) -> Command {
    let mut command = bare();
    command
        .env("DOCKER_HOST", engine.url())
        .env("STATE_DIRECTORY", engine.folder().join("state"))
        .env("RUNTIME_DIRECTORY", engine.folder().join("runtime"));
    command
}

/// The program with nothing of this machine's environment that it would listen to.
pub fn bare() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ci-docker-prune"));
    for (name, _) in std::env::vars() {
        if lab::is_foreign(&name) {
            command.env_remove(name);
        }
    }
    // No file of this machine's either.
    command.env("CI_DOCKER_PRUNE_CONFIG", "/dev/null");
    command.timeout(std::time::Duration::from_secs(120));
    command
}

/// A build without a name, which leaves a dangling image on every engine: its ID. The classic builder keeps the
/// image of each step too.
pub fn build(engine: &Engine, buildkit: bool, dockerfile: &str) -> String {
    let context = engine.folder().join("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let mut build = engine.inside("docker");
    build.env("DOCKER_BUILDKIT", if buildkit { "1" } else { "0" });
    let output =
        build.args(["build", "--quiet", "--network", "none", context.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// So many different ones.
pub fn dangling<const N: usize>(engine: &Engine) -> [String; N] {
    std::array::from_fn(|n| build(engine, true, &format!("FROM scratch\nCOPY Dockerfile /\nLABEL n={n}\n")))
}

/// The image that is there beside those that a test is about.
pub const APP: &str = "127.0.0.1:5000/app:1";

/// Eight dangling images under pressure.
pub fn eight_dangling_images() -> (Arc<Engine>, Proxy, [String; 8]) {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let dangling = dangling(&engine);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    (Arc::new(engine), proxy, dangling)
}

/// How many of these images are still there.
pub fn left(engine: &Engine, images: &[String]) -> usize {
    images.iter().filter(|id| engine.has_image(id)).count()
}

/// The program where every user can reach it. Another process copies it: were the copy open for writing
/// here while another test's thread starts a child, it could not be run ("text file busy").
pub fn reachable(engine: &Engine) -> PathBuf {
    let copy = engine.folder().join("ci-docker-prune");
    let program = assert_cmd::cargo::cargo_bin!("ci-docker-prune");
    let status = std::process::Command::new("cp").arg(program).arg(&copy).status().expect("run cp");
    assert!(status.success(), "copy the program");
    copy
}

/// The same as a command of the standard library, to be started and left running.
pub fn standard(template: &Command) -> std::process::Command {
    let mut command = std::process::Command::new(template.get_program());
    command.args(template.get_args());
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The one JSON object on stdout, which must be as `docs/schema.json` describes it.
#[track_caller]
pub fn json_of(assert: &Assert) -> Value {
    let stdout = &assert.get_output().stdout;
    let value: Value = serde_json::from_slice(stdout)
        .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(stdout)));
    if let Err(error) = SCHEMA.validate(&value) {
        panic!("{error} at {}: {value}", error.instance_path());
    }
    value
}

/// The documented schema, without the licence to add keys: none is undocumented.
static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let mut schema: Value =
        serde_json::from_str(include_str!("../../docs/schema.json")).expect("docs/schema.json is JSON");
    close(&mut schema);
    jsonschema::validator_for(&schema).expect("docs/schema.json is a schema")
});

fn close(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(close),
        Value::Object(object) => {
            object.values_mut().for_each(close);
            if object.get("properties").is_some_and(Value::is_object) && object.contains_key("required") {
                object.insert("additionalProperties".into(), false.into());
            }
        }
        _ => {}
    }
}

pub fn stdout(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
}

/// `prune` with these words, as JSON; it must succeed.
#[track_caller]
pub fn prune(engine: &Engine, words: &str) -> Value {
    let assert = program(engine).arg("prune").args(words.split_whitespace()).args(["-o", "json"]).assert();
    json_of(&assert.success())
}

/// The names of what a list in a report is about, cached images by their repository.
pub fn names(list: &Value) -> Vec<String> {
    let name = |object: &Value| {
        let name = object["names"][0].as_str().unwrap_or("-").trim_start_matches("127.0.0.1:5000/");
        // `name@sha256:…`, or on the containerd store `name:tag@sha256:…`.
        let name = name.split_once('@').map_or(name, |(name, _)| name.split(':').next().unwrap_or(name));
        name.to_owned()
    };
    list.as_array().expect("a list").iter().map(name).collect()
}

/// Why each object of a list in a report is in it.
pub fn codes(list: &Value) -> Vec<&str> {
    let objects = list.as_array().expect("a list").iter();
    objects.map(|object| object["reason"]["code"].as_str().expect("a code")).collect()
}

/// What a report would remove, without how long each image is unused: a second may pass between two reports.
pub fn planned_without_ages(report: &Value) -> Value {
    let mut planned = report["plan"]["remove"].clone();
    for removal in planned.as_array_mut().expect("a plan") {
        removal["reason"].as_object_mut().unwrap().remove("unused_seconds").unwrap();
    }
    planned
}

/// Does this the first time, and then nothing.
pub fn once(act: impl FnOnce() + Send + 'static) -> impl FnMut() + Send + 'static {
    let mut act = Some(act);
    move || act.take().into_iter().for_each(|act| act())
}

pub fn ledger_path(engine: &Engine) -> PathBuf {
    engine.folder().join("state/ledger.json")
}

pub fn ledger(engine: &Engine) -> Value {
    serde_json::from_slice(&fs::read(ledger_path(engine)).expect("read the ledger")).expect("JSON")
}

/// Let the ledger say that it saw each of these images in use so many days ago.
pub fn remember(engine: &Engine, images: &[(&str, i64)]) {
    let hours: Vec<_> = images.iter().map(|(id, days)| (*id, 24 * days, None)).collect();
    remember_hours(engine, &hours);
}

/// The same in hours, by this `name:tag`.
pub fn remember_hours(engine: &Engine, images: &[(&str, i64, Option<&str>)]) {
    let now = jiff::Timestamp::now();
    let entry = |hours: i64, name_tag: Option<&str>| {
        let at = (now - jiff::SignedDuration::from_hours(hours)).to_string();
        let references: serde_json::Map<_, _> =
            name_tag.into_iter().map(|name_tag| (name_tag.to_owned(), at.clone().into())).collect();
        json!({"first_seen": at, "last_used": at, "named": true, "references": references})
    };
    let images: serde_json::Map<String, Value> =
        images.iter().map(|(id, hours, name)| ((*id).to_owned(), entry(*hours, *name))).collect();
    fs::create_dir_all(engine.folder().join("state")).expect("create the state directory");
    let ledger = json!({"schema": 1, "events_until": now.to_string(), "images": images});
    fs::write(ledger_path(engine), ledger.to_string()).expect("write the ledger");
}

/// Change the ledger.
pub fn change_ledger(engine: &Engine, change: impl FnOnce(&mut Value)) {
    let mut value = ledger(engine);
    change(&mut value);
    fs::write(ledger_path(engine), value.to_string()).expect("write the ledger");
}

/// A Compose file with one service for each image.
pub fn compose(images: &[&str]) -> String {
    let services: String =
        images.iter().enumerate().map(|(n, image)| format!("  s{n}:\n    image: {image}\n")).collect();
    format!("version: '3.8'\nservices:\n{services}")
}

/// Create a service and wait until it has its replica.
#[track_caller]
pub fn create(engine: &Engine, name: &str, image: &str) {
    engine.docker(["service", "create", "--quiet", "--detach", "--name", name, image]);
    engine.converged();
}

/// Publish an image, let Swarm pull it by digest, and tear the service down: what a CI run leaves.
/// Its name by digest.
#[track_caller]
pub fn cached(engine: &Engine, image: &Image) -> String {
    let digest = engine.publish(image);
    let name = format!("127.0.0.1:5000/{}", image.repository);
    create(engine, "warm", &format!("{name}:{}", image.tag));
    engine.docker(["service", "rm", "warm"]);
    engine.no_container_named("warm");
    format!("{name}@{digest}")
}
