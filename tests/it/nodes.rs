//! A Swarm of several nodes: a manager and workers, each with a network and an engine of its own.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use lab::engine::{MANAGER, fill_to};
use lab::{Engine, Image, Options};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{json_of, names, program, remember};

fn swarm(workers: usize) -> Engine {
    Engine::start_with(Options { workers, tls: true, ..Options::default() })
}

/// The program for the engine of a worker.
fn on_worker(engine: &Engine, n: usize) -> Command {
    let mut command = program(engine);
    command.env("DOCKER_HOST", engine.worker_url(n));
    command
}

/// The docker CLI against a worker, which must succeed.
#[track_caller]
fn worker_docker(engine: &Engine, n: usize, arguments: &[&str]) -> String {
    let output = engine.worker_docker(n, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The name that every node knows the registry by.
fn name(image: &str) -> String {
    format!("{MANAGER}:5000/{image}")
}

#[test]
fn a_worker_cannot_judge_alone_and_with_its_manager_it_can() {
    let engine = swarm(2);
    engine.publish(&Image::new("app", "1"));
    for n in [1, 2] {
        for gate in ["converge", "runs"] {
            on_worker(&engine, n).arg(gate).assert().code(255).stdout(contains("--swarm-host"));
            on_worker(&engine, n).args([gate, "--swarm-host", &engine.url()]).assert().code(0);
        }
        fill_to(&engine.folder().join(format!("worker{n}")), 85);
        worker_docker(&engine, n, &["create", "--name", "ended", &name("app:1")]);
        let assert =
            on_worker(&engine, n).args(["prune", "-o", "json", "--older-than", "0s"]).assert().code(1);
        assert_eq!(json_of(&assert)["removed"], Value::Array(vec![]));
        assert_ne!(worker_docker(&engine, n, &["ps", "--all", "--quiet"]), "", "it is still there");
        worker_docker(&engine, n, &["rm", "ended"]);
        let assert = on_worker(&engine, n).args(["verify", "-o", "json"]).assert();
        let engine_check = json_of(&assert)["checks"][0].clone();
        assert_eq!(engine_check["status"], "warning", "{engine_check}");
    }
    // A service that comes up nowhere holds back every node that asks.
    let nowhere = ["service", "create", "--quiet", "--detach", "--constraint", "node.labels.x==y"];
    engine.docker(nowhere.into_iter().chain(["--name", "nowhere", &name("app:1")]));
    for n in [1, 2] {
        let assert = on_worker(&engine, n).args(["converge", "--swarm-host", &engine.url()]).assert().code(3);
        assert.stdout(contains("service nowhere 0/1"));
    }
}

#[test]
fn a_worker_prunes_its_own_disk_and_keeps_what_the_manager_may_start_here() {
    let engine = swarm(1);
    for image in ["needed", "busy"] {
        engine.publish(&Image::new(image, "1").size_mib(48));
    }
    let idle = engine.publish(&Image::new("idle", "1").size_mib(48));
    // One service may start here again, another runs here, and what is idle here is in use on the manager.
    let here = worker_docker(&engine, 1, &["info", "--format", "{{.Swarm.NodeID}}"]);
    let create = |service: &str, node: &str, image: &str| {
        let constraint = format!("node.id{node}{here}");
        let words =
            ["service", "create", "--quiet", "--detach", "--constraint", &constraint, "--name", service];
        engine.docker(words.into_iter().chain([name(image).as_str()]));
        engine.converged();
    };
    create("needed", "==", "needed:1");
    create("busy", "==", "busy:1");
    create("idle-here", "==", "idle:1");
    create("idle-there", "!=", "idle:1");
    engine.docker(["service", "rm", "idle-here"]);
    engine.docker(["service", "update", "--quiet", "--detach", "--replicas", "0", "needed"]);
    engine.eventually("only the busy one is left here", || {
        worker_docker(&engine, 1, &["ps", "--all", "--format", "{{.Names}}"]).lines().count() == 1
    });
    let list = worker_docker(&engine, 1, &["images", "--quiet", "--no-trunc"]);
    remember(&engine, &list.lines().map(|id| (id, 30)).collect::<Vec<_>>());
    fill_to(&engine.folder().join("worker1"), 90);
    let manager_before = engine.docker(["images", "--quiet", "--no-trunc"]);
    let there = engine.image_id(&format!("{}@{idle}", name("idle")));

    let assert = on_worker(&engine, 1)
        .args(["prune", "-o", "json", "--swarm-host", &engine.url(), "--disk-critical", "100"])
        .assert()
        .success();
    let report = json_of(&assert);
    // The manager's specs name `idle` too: it may start here.
    assert_eq!(names(&report["removed"]), Vec::<String>::new(), "{report}");
    engine.docker(["service", "rm", "idle-there"]);
    engine.eventually("its container is gone", || engine.docker(["ps", "--all", "--quiet"]).is_empty());
    let assert = on_worker(&engine, 1)
        .args(["prune", "-o", "json", "--swarm-host", &engine.url(), "--disk-critical", "100"])
        .assert()
        .success();
    let report = json_of(&assert);
    assert_eq!(report["removed"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["removed"][0]["names"][0].as_str().unwrap().contains("/idle"), "{report}");
    assert_eq!(report["disk"]["before"]["path"], engine.folder().join("worker1").to_str().unwrap());
    let left = worker_docker(&engine, 1, &["images", "--digests", "--format", "{{.Repository}}"]);
    assert!(left.contains("/needed") && left.contains("/busy") && !left.contains("/idle"), "{left}");
    assert!(engine.has_image(&there), "the manager's own image is not touched");
    assert_eq!(engine.docker(["images", "--quiet", "--no-trunc"]), manager_before);
}

/// The program in the network of the manager, with these certificates, asking about the worker.
fn by_tls(engine: &Engine, certificates: Option<&Path>, arguments: &[&str]) -> Command {
    let template = on_worker(engine, 1);
    let mut inner = engine.in_its_network(Path::new(template.get_program()));
    inner.args(arguments);
    let mut command = Command::from_std(inner);
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = certificates {
        command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", folder);
    }
    command
}

#[test]
fn a_manager_is_asked_by_tls_and_only_with_the_right_certificates() {
    let engine = swarm(1);
    let right = engine.folder().join("certificates");
    let manager = format!("tcp://{MANAGER}:2376");
    let asks = ["check-gates", "--timeout", "5s", "--swarm-host", &manager];
    engine.eventually("the port answers", || {
        by_tls(&engine, Some(&right), &asks).output().unwrap().status.code() == Some(3)
    });
    let assert = by_tls(&engine, Some(&right), &asks).assert();
    assert.stdout(contains("converge  open").and(contains("unknown").not()));
    // Everything by TLS, removals too.
    engine.publish(&Image::new("app", "1"));
    engine.docker(["create", "--name", "ended", &name("app:1")]);
    let all = ["prune", "--host", &manager, "--disk-path", engine.folder().to_str().unwrap()];
    let now = ["--older-than", "0s", "--disk-target", "0", "--disk-threshold", "0"];
    by_tls(&engine, Some(&right), &[&all[..], &now].concat()).assert().success();
    assert_eq!(engine.docker(["ps", "--all", "--quiet"]), "", "it was removed");

    let folder = |name: &str| {
        let folder = engine.folder().join(name);
        lab::tls::certificates(&folder, &[MANAGER]).expect("make certificates");
        folder
    };
    // Of another authority altogether; and a right authority with somebody else's certificate.
    let strange = folder("strange");
    let mixed = folder("mixed");
    fs::copy(right.join("ca.pem"), mixed.join("ca.pem")).unwrap();
    let halved = folder("halved");
    fs::remove_file(halved.join("key.pem")).unwrap();
    let garbled = folder("garbled");
    fs::write(garbled.join("ca.pem"), "no certificate").unwrap();
    let table = [
        (Some(&strange), "is not trusted"),
        (Some(&mixed), "refuses our certificate"),
        (Some(&halved), "key.pem"),
        (Some(&garbled), "ca.pem: no certificate"),
        (None, "the Docker engine at tcp://10.77.0.1:2376 answered GET /version with 400"),
    ];
    for (certificates, words) in table {
        let assert = by_tls(&engine, certificates.map(std::path::PathBuf::as_path), &asks).assert().code(255);
        assert.stdout(contains("unknown").and(contains(words)).and(contains(&manager)));
    }
    // A name that the certificate is not for.
    let elsewhere = ["check-gates", "--timeout", "5s", "--swarm-host", "tcp://127.0.0.1:2376"];
    let assert = by_tls(&engine, Some(&right), &elsewhere).assert().code(255);
    assert.stdout(contains("is not trusted").and(contains("for that name or address")));
    // A port without TLS.
    let registry = format!("tcp://{MANAGER}:5000");
    let plain = ["check-gates", "--timeout", "5s", "--swarm-host", &registry];
    by_tls(&engine, Some(&right), &plain).assert().code(255).stdout(contains("no TLS with"));
}

#[test]
fn what_failed_on_a_drained_node_does_not_keep_the_gate_closed_for_ever() {
    let engine = swarm(1);
    engine.publish(&Image::new("app", "1"));
    let nodes = engine.docker(["node", "ls", "--format", "{{.ID}} {{.ManagerStatus}}"]);
    let worker = nodes.lines().find(|line| !line.contains("Leader")).unwrap().trim().to_owned();
    // It ends in failure wherever the file is not: on the worker, whose engine has no such volume.
    engine.docker(["volume", "create", "here"]);
    engine.docker(["run", "--rm", "--volume", "here:/v", &name("app:1"), "/bin/sh", "-c", "echo > /v/here"]);
    let idle = "trap 'exit 0' TERM; [ -e /v/here ] || exit 1; while :; do sleep 3600 & wait; done";
    let words = ["service", "create", "--quiet", "--detach", "--name", "everywhere", "--mode", "global"];
    let once = ["--restart-condition", "none", "--mount", "type=volume,source=here,target=/v"];
    let image = name("app:1");
    engine.docker(words.into_iter().chain(once).chain([image.as_str(), "/bin/sh", "-c", idle]));
    let converge = || program(&engine).arg("converge").assert();
    let failed =
        || engine.docker(["service", "ps", "everywhere", "--format", "{{.CurrentState}}"]).contains("Failed");
    engine.eventually("it failed on the worker", failed);
    converge().code(3).stdout(contains("service everywhere"));
    engine.docker(["node", "update", "--availability", "drain", &worker]);
    engine.eventually("the gate opens", || converge().get_output().status.code() == Some(0));
}
