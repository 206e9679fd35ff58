//! An engine that is not there, not permitted, hangs or talks nonsense: one clear line each.

use std::os::unix::process::CommandExt;
use std::process::Command;

use lab::{Engine, Fault, Image, Options, Proxy};
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{RUN, bare, codes, dangling, json_of, program, reachable};

/// What each command says and how it ends where no gate can be answered.
#[track_caller]
fn unanswered(command: impl Fn() -> assert_cmd::Command, text: &str) {
    for gate in ["disk", "runs", "converge", "check-gates"] {
        let assert = command().arg(gate).assert().code(255).stdout(contains(text));
        let shown = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
        assert_eq!(shown.lines().count(), 1, "{gate} says it once: {shown}");
    }
    let assert = command().args(["check-gates", "-o", "json"]).assert().code(255);
    assert_eq!(json_of(&assert)["gates"].as_array().unwrap().len(), 3);
    command().arg("prune").assert().code(1).stdout(contains(text).and(contains("nothing removed")));
    command().arg("--dry-run").assert().code(1).stderr(contains(text));
    command().arg("record").assert().code(1).stderr(contains(text));
}

#[test]
fn no_engine() {
    let dir = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none.sock", dir.path().display());
    let command = || {
        let mut command = bare();
        command
            .args(["--host", &host])
            .env("STATE_DIRECTORY", dir.path())
            .env("RUNTIME_DIRECTORY", dir.path());
        command
    };
    unanswered(command, &format!("no Docker engine at {host}: there is no such socket; start the engine"));
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("none.sock")).unwrap());
    unanswered(command, &format!("no Docker engine at {host}"));
    bare()
        .args(["disk", "--host", "tcp://127.0.0.1:1"])
        .assert()
        .code(255)
        .stdout(contains("no Docker engine at tcp://127.0.0.1:1"));
}

#[test]
fn not_permitted() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    let copy = reachable(&engine);
    let output = Command::new(copy)
        .uid(65534)
        .gid(65534)
        .env_clear()
        .args(["disk", "--host", &engine.url()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stdout).contains("member of the docker group"));
}

#[test]
fn an_engine_that_hangs_fails_or_talks_nonsense_is_unknown_and_nothing_is_removed() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--name", "old", "127.0.0.1:5000/app:1", "true"]);
    engine.fill_to(90);
    let proxy = Proxy::before(&engine);
    let questions = ["/version", "/info", "/services", "/tasks", "/containers/json"];
    let faults = [
        (Fault::Hang, "--timeout"),
        (Fault::Status(500), "with 500: the proxy says no"),
        (Fault::Malformed, "cannot understand the answer"),
        (Fault::Truncated, "cannot understand the answer"),
        (Fault::CutBefore, "was lost"),
        (Fault::CutMiddle, "was lost"),
        (Fault::CutAfter, "was lost"),
    ];
    for question in questions {
        for (fault, text) in faults {
            proxy.on_request(move |_, line| line.contains(question).then_some(fault));
            let command = || {
                let mut command = program(&engine);
                command.args(["--host", &proxy.url(), "--timeout", "1s"]);
                command
            };
            command()
                .args(["prune", "--older-than", "0s"])
                .assert()
                .code(1)
                .stdout(contains(text).and(contains("unix://")))
                .stdout(contains("nothing removed"));
            assert_eq!(proxy.writes(), Vec::<String>::new(), "{question} {fault:?}");
            command().arg("check-gates").assert().code(255).stdout(contains(text));
        }
    }
}

#[test]
fn a_list_may_take_ten_timeouts_while_the_engine_answers_something_small() {
    let engine = Engine::start();
    let [dangling] = dangling(&engine);
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--name", "ended", "127.0.0.1:5000/app:1", "true"]);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let prune = || {
        let mut command = program(&engine);
        command.args(["prune", "--older-than", "0s", "--timeout", "1s", "--host", &proxy.url()]);
        let began = std::time::Instant::now();
        (command.assert(), began.elapsed().as_secs())
    };
    // It never comes.
    proxy.on_request(|_, line| line.ends_with("/images/json").then_some(Fault::Hang));
    let (assert, took) = prune();
    let output = assert.code(1).get_output().clone();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(text.contains("/images/json in 10s; ") && text.contains("ten times --timeout"), "{text}");
    assert!(took >= 10, "{took} s");
    // Containers wait for no list of images.
    assert_eq!(engine.container_names(), Vec::<String>::new());
    let requests = proxy.requests();
    let place = |part: &str| requests.iter().position(|request| request.contains(part));
    assert!(place("DELETE /containers/") < place("/images/json"), "{requests:?}");
    // Nothing else is answered any more.
    let mut hangs = false;
    proxy.on_request(move |_, line| {
        hangs |= line.ends_with("/images/json");
        hangs.then_some(Fault::Hang)
    });
    let (assert, took) = prune();
    assert.code(1);
    assert!(took < 10, "{took} s");
    assert!(engine.has_image(&dangling));
    // It comes late.
    let lists = ["/images/json", "/containers/json", "/system/df"];
    proxy.on_request(move |_, line| {
        lists.iter().any(|list| line.contains(list)).then_some(Fault::Delay(2_500))
    });
    prune().0.success();
    assert!(!engine.has_image(&dangling));
}

#[test]
fn a_blocked_prune_asks_for_no_list_of_images() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let proxy = Proxy::before(&engine);
    let asked = |percent, code| {
        engine.fill_to(percent);
        proxy.on_request(|_, _| None);
        program(&engine).args(["prune", "--host", &proxy.url()]).assert().code(code);
        let requests = proxy.requests();
        assert!(
            requests.len() > 5 && !requests.iter().any(|request| request.contains("/images/json")),
            "{requests:?}"
        );
    };
    asked(50, 0);
    engine.docker(["run", "--detach", "--name", RUN, "127.0.0.1:5000/app:1"]);
    asked(85, 0);
    // Also where it looks for what fills the disk.
    asked(97, 10);
}

#[test]
fn a_name_that_does_not_resolve_is_called_that() {
    let assert = bare().args(["disk", "--host", "tcp://manager.invalid:2375"]).assert().code(255);
    assert.stdout(contains("cannot resolve the host of tcp://manager.invalid:2375").and(contains("--host")));
}

#[test]
fn an_engine_of_the_wrong_age_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let versions = [("1.40", "1.12", "too old"), ("1.99", "1.90", "too new")];
    std::thread::spawn(move || {
        for (newest, oldest, _) in versions {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
            let body = format!(r#"{{"ApiVersion":"{newest}","MinAPIVersion":"{oldest}"}}"#);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    let host = format!("unix://{}", path.display());
    for (_, _, text) in versions {
        bare().args(["disk", "--host", &host]).assert().code(255).stdout(contains(text));
    }
}

#[test]
fn a_remote_engine_needs_a_path_to_measure() {
    let engine = Engine::start();
    // The same engine by TCP, through a forwarder of one thread a connection.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    let socket = engine.socket();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, socket) = (client.unwrap(), socket.clone());
            std::thread::spawn(move || {
                let engine = std::os::unix::net::UnixStream::connect(socket).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                let back = std::thread::spawn(move || {
                    let _ = std::io::copy(&mut { engine }, &mut { client });
                });
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
                let _ = back.join();
            });
        }
    });
    program(&engine).args(["disk", "--host", &host]).assert().code(255).stdout(contains("--disk-path"));
    program(&engine)
        .args(["disk", "--host", &host, "--disk-path"])
        .arg(engine.data())
        .assert()
        .code(3)
        .stdout(contains("keeping local image cache"));
    program(&engine).args(["runs", "--host", &host]).assert().code(0);
}

#[test]
fn gates_ask_each_question_once_and_cheaply() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "--name", RUN, "127.0.0.1:5000/app:1"]);
    let proxy = Proxy::before(&engine);
    proxy.on_request(|_, _| None);
    program(&engine).args(["check-gates", "--host", &proxy.url()]).assert().code(3);
    let mut asked: Vec<String> =
        proxy.requests().iter().map(|request| request.split('?').next().unwrap().to_owned()).collect();
    asked.sort();
    let expected =
        ["GET /containers/json", "GET /events", "GET /info", "GET /services", "GET /tasks", "GET /version"];
    assert_eq!(asked, expected);
    assert!(!proxy.requests().iter().any(|request| request.contains("all=1")));
}

#[test]
fn what_the_engine_does_not_tell_is_listed_stays_and_makes_exit_1() {
    let engine = Engine::start();
    let [dangling] = dangling(&engine);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    for (part, stays) in [(format!("/images/{dangling}/json"), true), ("/system/df".into(), false)] {
        proxy.on_request(move |_, line| line.contains(&part).then_some(Fault::Status(500)));
        for command in ["--dry-run", "prune"] {
            let mut program = program(&engine);
            program.args([command, "--older-than", "0s", "-o", "json", "--host", &proxy.url()]);
            let report = json_of(&program.assert().code(1));
            let unread = report["plan"]["unread"].as_array().unwrap();
            assert_eq!(unread.len(), 1, "{report}");
            assert_eq!(codes(&report["plan"]["unread"]), ["not_available"], "{report}");
            // It is not even planned, and everything else is.
            let planned = report["plan"]["remove"].as_array().unwrap();
            let images = planned.iter().filter(|removal| removal["kind"] == "image").count();
            assert_eq!(images, usize::from(!stays), "{report}");
        }
        let text =
            program(&engine).args(["--dry-run", "--older-than", "0s", "--host", &proxy.url()]).assert();
        text.code(1).stdout(contains("could not be read, and stays: "));
        assert_eq!(engine.has_image(&dangling), stays);
    }
}

#[test]
fn a_removal_that_takes_too_long_ends_the_run_and_the_next_one_begins_with_the_rest() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--name", "huge", "127.0.0.1:5000/app:1", "true"]);
    let [dangling] = dangling(&engine);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    proxy.on_request(|_, line| line.starts_with("DELETE /containers/").then_some(Fault::Hang));
    let run = || {
        let mut command = program(&engine);
        command.args([
            "prune",
            "--older-than",
            "0s",
            "-o",
            "json",
            "--timeout",
            "1s",
            "--removal-timeout",
            "3s",
        ]);
        json_of(&command.args(["--host", &proxy.url()]).assert().code(1))
    };
    let report = run();
    assert_eq!(codes(&report["failed"]), ["timed_out"], "{report}");
    let alive = proxy.requests().iter().filter(|request| request.ends_with("/version")).count();
    assert!(alive >= 3, "the engine was asked whether it lives: {alive}");
    assert!(report["stopped"].is_object() && engine.has_image(&dangling), "{report}");
    // What stopped the last run comes last.
    let report = run();
    assert!(report["removed"].to_string().contains(&dangling), "{report}");
    assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
    proxy.on_request(|_, _| None);
    program(&engine).args(["prune", "--older-than", "0s"]).assert().success();
    assert_eq!(engine.docker(["ps", "--all", "--quiet"]), "");
}

#[test]
fn podman_is_refused_by_name() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    let proxy = Proxy::before(&engine);
    let version =
        r#"{"ApiVersion": "1.41", "MinAPIVersion": "1.24", "Components": [{"Name": "Podman Engine"}]}"#;
    proxy.on_request(move |_, line| line.ends_with("/version").then_some(Fault::Answer(version)));
    let assert = program(&engine).args(["prune", "--host", &proxy.url()]).assert().code(1);
    assert.stdout(contains("is Podman").and(contains("--host")));
}
