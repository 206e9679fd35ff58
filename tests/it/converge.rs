//! The `converge` gate against real services.

use lab::{Engine, Fault, Image, Options, Proxy};
use predicates::str::contains;

use crate::support::{APP, program};

const NEXT: &str = "127.0.0.1:5000/app:2";

fn engine() -> Engine {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.publish(&Image::new("app", "2"));
    engine
}

#[track_caller]
fn create(engine: &Engine, words: &str) {
    let fixed = ["service", "create", "--quiet", "--detach", "--name", "it"];
    engine.docker(fixed.into_iter().chain(words.split(' ')));
}

fn says(engine: &Engine, code: i32, text: &str) -> bool {
    let output = program(engine).arg("converge").output().expect("run converge");
    output.status.code() == Some(code) && String::from_utf8_lossy(&output.stdout).contains(text)
}

#[track_caller]
fn becomes(engine: &Engine, code: i32, text: &str) {
    engine.eventually(&format!("converge exits {code} and says {text}"), || says(engine, code, text));
}

#[track_caller]
fn gone(engine: &Engine) {
    engine.docker(["service", "rm", "it"]);
    becomes(engine, 0, "no services");
}

#[test]
fn services_of_every_mode_settle() {
    let engine = engine();
    becomes(&engine, 0, "no services");

    create(&engine, &format!("--replicas 2 {APP}"));
    becomes(&engine, 0, "1 service, converged");
    engine.docker(["service", "scale", "--detach", "it=0"]);
    becomes(&engine, 0, "1 service, converged");
    gone(&engine);

    create(&engine, &format!("--mode global {APP}"));
    becomes(&engine, 0, "1 service, converged");
    gone(&engine);

    create(&engine, &format!("--mode replicated-job --replicas 2 {APP} sleep 3"));
    assert!(says(&engine, 3, "service it 0/2"), "outstanding completions close the gate");
    becomes(&engine, 0, "1 service, converged");
    gone(&engine);

    create(&engine, &format!("--mode global-job {APP} true"));
    becomes(&engine, 0, "1 service, converged");
    gone(&engine);

    for condition in ["none", "on-failure"] {
        create(&engine, &format!("--restart-condition {condition} {APP} true"));
        engine.eventually("it is done", || engine.docker(["service", "ps", "it"]).contains("Complete"));
        becomes(&engine, 0, "1 service, converged");
        gone(&engine);
    }
}

#[test]
fn a_new_global_service_or_job_is_closed_from_its_first_moment() {
    let engine = engine();
    let proxy = Proxy::before(&engine);
    for mode in ["global", "global-job"] {
        create(&engine, &format!("--mode {mode} --no-resolve-image 127.0.0.1:5000/missing:1"));
        assert!(says(&engine, 3, "service it 0/1"), "{mode}");
        // As in the moment before Swarm makes the first task.
        proxy.on_request(|_, line| line.starts_with("GET /tasks").then_some(Fault::Answer("[]")));
        let look = program(&engine).args(["converge", "--host", &proxy.url()]).assert();
        look.code(3).stdout(contains("service it 0/1"));
        engine.docker(["service", "rm", "it"]);
    }
}

#[test]
fn what_hinders_a_service_is_told_apart() {
    let engine = engine();
    create(&engine, "--no-resolve-image 127.0.0.1:5000/missing:1");
    becomes(&engine, 3, "image not found");
    gone(&engine);

    create(&engine, &format!("--restart-delay 100ms {APP} false"));
    becomes(&engine, 3, "crash-looping");
    gone(&engine);

    create(&engine, &format!("--constraint node.labels.nowhere==1 {APP}"));
    becomes(&engine, 3, "no suitable node");
    gone(&engine);

    create(&engine, &format!("--restart-condition none {APP} false"));
    becomes(&engine, 3, "; Swarm will not start it again)");
    // What to do, where it is known that no run owns it.
    let hint = "docker service scale it=0  # opens the gate; undo with it=1";
    program(&engine).arg("check-gates").assert().code(3).stdout(contains(hint));
    assert!(!says(&engine, 3, hint));
    gone(&engine);

    // Its attempts are used up.
    create(
        &engine,
        "--restart-max-attempts 1 --restart-delay 100ms --no-resolve-image 127.0.0.1:5000/missing:1",
    );
    becomes(&engine, 3, "(image not found: 127.0.0.1:5000/missing:1; Swarm will not start it again)");
    gone(&engine);
}

#[test]
fn updates_and_rollbacks_close_until_they_are_over_or_paused() {
    let engine = engine();
    create(&engine, &format!("--replicas 2 --update-delay 2s --rollback-delay 2s {APP}"));
    becomes(&engine, 0, "1 service, converged");
    engine.docker(["service", "update", "--quiet", "--detach", "--image", NEXT, "it"]);
    becomes(&engine, 3, "update in progress");
    becomes(&engine, 0, "1 service, converged");
    engine.docker(["service", "rollback", "--quiet", "--detach", "it"]);
    becomes(&engine, 3, "rollback in progress");
    becomes(&engine, 0, "1 service, converged");
    // An update to an image that is not there is paused; the old replicas go on.
    let to_missing = ["service", "update", "--quiet", "--detach", "--no-resolve-image", "--update-order"];
    engine.docker(to_missing.into_iter().chain(["start-first", "--image", "127.0.0.1:5000/missing:1", "it"]));
    engine.eventually("the update is paused", || {
        engine.docker(["service", "inspect", "--format", "{{.UpdateStatus.State}}", "it"]) == "paused"
    });
    assert_eq!(engine.docker(["service", "ls", "--format", "{{.Replicas}}"]), "2/2");
    assert!(says(&engine, 0, "1 service, converged"));
}

#[test]
fn a_node_that_is_in_no_swarm_has_nothing_to_converge() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    program(&engine).arg("converge").assert().code(0).stdout(contains("not in a Swarm"));
    program(&engine).arg("check-gates").assert().code(3).stdout(contains("runs      open"));
}

#[test]
fn a_locked_manager_is_unknown() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    engine.docker(["swarm", "init", "--autolock", "--advertise-addr", "127.0.0.1"]);
    engine.restart();
    becomes(&engine, 255, "docker swarm unlock");
    program(&engine).arg("runs").assert().code(255).stdout(contains("docker swarm unlock"));
}

#[test]
fn a_running_task_without_a_container_in_the_list_means_that_the_engine_restores_containers() {
    let engine = engine();
    create(&engine, APP);
    becomes(&engine, 0, "1 service, converged");
    let proxy = Proxy::before(&engine);
    proxy.on_request(|_, line| line.starts_with("GET /containers/json").then_some(Fault::Answer("[]")));
    program(&engine)
        .args(["converge", "--host", &proxy.url()])
        .assert()
        .code(3)
        .stdout(contains("the engine is still restoring containers"));
}

#[test]
fn a_restarted_engine_is_open_once_its_containers_are_back() {
    let engine = engine();
    create(&engine, APP);
    becomes(&engine, 0, "1 service, converged");
    engine.restart();
    becomes(&engine, 0, "1 service, converged");
    assert!(!engine.docker(["ps", "--quiet"]).is_empty(), "open, and no container is listed");
}
