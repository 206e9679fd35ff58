//! The `runs` gate against stacks, services, Compose projects and plain containers.

use lab::{Engine, Image};
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{RUN, compose, program};

const IMAGE: &str = "127.0.0.1:5000/app:1";

#[track_caller]
fn blocked_by(engine: &Engine, what: &str) {
    program(engine).arg("runs").assert().code(3).stdout(contains(what).and(contains("(for ")));
}

#[track_caller]
fn open(engine: &Engine) {
    program(engine).arg("runs").assert().code(0).stdout(contains("no CI run is live"));
}

#[test]
fn stacks_services_projects_and_containers_of_a_run_close_the_gate() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    open(&engine);

    engine.deploy(RUN, &compose(&[IMAGE]));
    blocked_by(&engine, &format!("stack {RUN} ("));
    engine.tear_down(RUN);
    open(&engine);

    let service = format!("{RUN}_app");
    engine.docker(["service", "create", "--quiet", "--name", &service, "--replicas", "0", IMAGE]);
    blocked_by(&engine, &format!("service {service} ("));
    engine.docker(["service", "rm", &service]);
    open(&engine);

    let label = format!("com.docker.compose.project={RUN}");
    // As a container of an image that Compose built: its image's labels make it no part of a project.
    engine.docker(["run", "--detach", "--name", "built", "--label", &label, IMAGE]);
    open(&engine);
    let hash = "com.docker.compose.config-hash=01";
    engine.docker(["run", "--detach", "--name", "one", "--label", &label, "--label", hash, IMAGE]);
    blocked_by(&engine, &format!("compose project {RUN} ("));
    engine.docker(["pause", "one"]);
    blocked_by(&engine, &format!("compose project {RUN} ("));
    engine.docker(["unpause", "one"]);
    engine.docker(["kill", "one"]);
    open(&engine);

    // Created and never started: nothing of it runs.
    engine.docker(["create", "--name", RUN, IMAGE]);
    open(&engine);
    program(&engine).arg("runs").assert().stdout(contains("never started"));
    engine.docker(["rm", RUN]);
    open(&engine);
}

#[test]
fn names_just_beyond_the_pattern_are_no_runs() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    for name in [
        "abcde-0123ef_ci_commoninternet_net",
        "abcd-0123e_ci_commoninternet_net",
        "abcd-0123EF_ci_commoninternet_net",
        "abcd-0123ef_ci_commoninternet_nets",
    ] {
        engine.docker(["run", "--detach", "--name", name, IMAGE]);
    }
    open(&engine);
    program(&engine).args(["runs", "--run-pattern", "^abcde-"]).assert().code(3).stdout(contains("abcde-"));
}
