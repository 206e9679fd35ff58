//! `inhibit`: keeps prune away while a command runs, however it ends.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{Engine, Fault, Image, Options, Proxy};
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{dangling, json_of, ledger, program, reachable, remember, standard};

/// `inhibit` with these words, as a command of the standard library.
fn inhibit(engine: &Engine, words: &[&str]) -> Command {
    let mut command = standard(&program(engine));
    command.arg("inhibit").args(words).process_group(0);
    lab::engine::with_default_signals(&mut command);
    command
}

fn active(engine: &Engine) -> bool {
    program(engine).arg("runs").assert().get_output().status.code() == Some(3)
}

fn start(engine: &Engine, words: &[&str]) -> Child {
    let child = inhibit(engine, words).stdin(Stdio::null()).spawn().unwrap();
    engine.eventually("the inhibitor is active", || active(engine));
    child
}

/// End an inhibitor and its command, which outlives it.
fn end(mut child: Child) {
    let group = format!("-{}", child.id());
    Command::new("kill").args(["-9", "--", &group]).status().unwrap();
    child.wait().unwrap();
}

/// Is there a file of an inhibitor? The lock of removals lies beside them.
fn has_inhibitor(runtime: &Path) -> bool {
    let files = fs::read_dir(runtime.join("inhibitors"));
    files.is_ok_and(|files| files.flatten().any(|file| file.file_name() != ".removing.lock"))
}

fn idle_engine() -> Engine {
    Engine::start_with(Options { swarm: false, ..Options::default() })
}

#[test]
fn it_has_the_commands_streams_and_status_and_leaks_no_descriptor() {
    let engine = idle_engine();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)] {
        let status = inhibit(&engine, &["--", "sh", "-c", script]).status().unwrap();
        assert_eq!(status.code(), Some(code), "{script}");
    }
    let count = "ls /proc/self/fd | wc -l";
    // What this test's own parents left open is there with and without us.
    let without = Command::new("sh").args(["-c", count]).output().unwrap().stdout;
    let without = String::from_utf8_lossy(&without).trim().to_owned();
    let mut child = inhibit(&engine, &["--", "sh", "-c", &format!("cat; echo err >&2; {count}")]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("in\n{without}"));
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(inhibit(&engine, &["--", "no-such-command"]).status().unwrap().code(), Some(127));
    assert_eq!(inhibit(&engine, &["--", "/etc/passwd"]).status().unwrap().code(), Some(126));
    program(&engine).arg("inhibit").assert().code(2).stderr(contains("<CMD>"));
    // Without -- where the command does not begin with a dash: what follows it is its own.
    let own = program(&engine).args(["inhibit", "printf", "%s ", "--why", "-h", "--", "x"]).assert();
    own.success().stdout("--why -h -- x ");
}

#[test]
fn the_gates_show_it_with_its_reason_and_a_prune_is_blocked() {
    let engine = idle_engine();
    engine.fill_to(85);
    let mut child = start(&engine, &["--why", "deploy shop", "--", "sleep", "60"]);
    let shown = format!("inhibited by process {} 'deploy shop' of root (", child.id());
    for gate in ["runs", "check-gates"] {
        program(&engine).arg(gate).assert().code(3).stdout(contains(&shown).and(contains("(for ")));
    }
    let facts = json_of(&program(&engine).args(["runs", "-o", "json"]).assert());
    assert_eq!(facts["gates"][0]["reason"]["runs"][0]["pid"], child.id());
    program(&engine).arg("prune").assert().success().stdout(contains("blocked by runs"));
    let list = |output| program(&engine).args(["inhibit", "--list", "-o", output]).assert().success();
    list("text").stdout(contains(child.id().to_string()).and(contains("deploy shop")));
    assert_eq!(json_of(&list("json"))["inhibitors"][0]["pid"], child.id());
    program(&engine).args(["inhibit", "--list", "true"]).assert().code(2);
    // kill -9 frees it at once.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!active(&engine));
    end(child);
}

#[test]
fn signals_reach_the_command() {
    let engine = idle_engine();
    for signal in ["TERM", "INT", "HUP", "USR1"] {
        let script = format!("trap 'exit 42' {signal}; echo; while :; do sleep 0.05; done");
        let mut child =
            inhibit(&engine, &["--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        // The trap is set when the line comes.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(status.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(42), "{signal}");
    }
}

#[test]
fn what_nohup_ignores_the_command_ignores_too() {
    let engine = idle_engine();
    let shell = "trap '' HUP; exec \"$0\" inhibit -- sh -c 'echo; sleep 0.5; exit 5'";
    let template = standard(&program(&engine));
    let mut nohup = Command::new("sh");
    nohup.args(["-c", shell]).arg(template.get_program());
    nohup.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = nohup.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let status = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn images_in_use_at_its_end_are_recorded() {
    let engine = idle_engine();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "127.0.0.1:5000/app:1"]);
    assert!(inhibit(&engine, &["--", "true"]).status().unwrap().success());
    let id = engine.image_id("127.0.0.1:5000/app:1");
    assert!(ledger(&engine)["images"][id]["last_used"].is_string());
}

#[test]
fn a_prune_under_way_yields_after_at_most_the_removal_in_flight() {
    let engine = Engine::start();
    let cached: Vec<String> = ["one", "two"]
        .map(|name| {
            let digest = engine.publish(&Image::new(name, "1"));
            let name = format!("127.0.0.1:5000/{name}@{digest}");
            engine.docker(["pull", "--quiet", &name]);
            engine.image_id(&name)
        })
        .into();
    remember(&engine, &[(&cached[0], 40), (&cached[1], 30)]);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let marker = engine.folder().join("began");
    let mut deploy = inhibit(&engine, &["--why", "deploy", "--", "sh", "-c"]);
    deploy.arg(format!("touch {}; sleep 60", marker.display()));
    let url = proxy.url();
    let (began, shown) = (marker.clone(), std::sync::Arc::new(std::sync::Mutex::new(None::<Child>)));
    let child = std::sync::Arc::clone(&shown);
    let waited = std::sync::Arc::new(AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&waited);
    let runtime = engine.folder().join("runtime");
    proxy.on_request(move |_, line| {
        let mut child = child.lock().unwrap();
        if line.starts_with("DELETE /images/127.0.0.1") && child.is_none() {
            // While this removal is in flight the inhibitor registers, and must not begin.
            *child = Some(deploy.spawn().unwrap());
            let waited = lab::engine::wait_for(Duration::from_secs(10), || has_inhibitor(&runtime));
            // It has half a second to do the wrong thing.
            let began = lab::engine::wait_for(Duration::from_millis(500), || began.exists());
            seen.store(waited && !began, Ordering::SeqCst);
        }
        None
    });
    let report = json_of(&program(&engine).args(["prune", "-o", "json", "--host", &url]).assert().success());
    assert_eq!(report["outcome"], "stopped", "{report}");
    // By the look at the inhibitors, or by a gate that was just evaluated again.
    let code = report["stopped"]["code"].as_str().unwrap();
    assert!(["inhibited", "gate_not_open"].contains(&code), "{report}");
    assert!(waited.load(Ordering::SeqCst), "the command began beside a removal");
    engine.eventually("the command begins", || marker.exists());
    let deletes = proxy.writes().iter().filter(|request| request.starts_with("DELETE")).count();
    assert_eq!(deletes, 1, "{:?}", proxy.writes());
    end(shown.lock().unwrap().take().unwrap());
}

#[test]
fn the_command_waits_for_every_order_in_flight() {
    let engine = Engine::start();
    let _: [String; 6] = crate::support::dangling(&engine);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let marker = engine.folder().join("began");
    let mut deploy = inhibit(&engine, &["--", "touch"]);
    deploy.arg(&marker);
    let child = std::sync::Arc::new(std::sync::Mutex::new(None::<(Child, std::time::SystemTime)>));
    let started = std::sync::Arc::clone(&child);
    let runtime = engine.folder().join("runtime");
    proxy.on_request(move |_, line| {
        if !line.starts_with("DELETE /images/") {
            return None;
        }
        let mut child = started.lock().unwrap();
        if child.is_some() {
            return Some(Fault::Delay(1500));
        }
        *child = Some((deploy.spawn().unwrap(), std::time::SystemTime::now()));
        assert!(lab::engine::wait_for(Duration::from_secs(10), || has_inhibitor(&runtime)));
        None
    });
    let mut command = program(&engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--host", &proxy.url()]);
    let report = json_of(&command.assert().success());
    assert_eq!(report["outcome"], "stopped", "{report}");
    let (mut child, spawned) = child.lock().unwrap().take().unwrap();
    assert!(child.wait().unwrap().success());
    let orders = proxy.writes().iter().filter(|request| request.starts_with("DELETE")).count();
    assert!((2..=3).contains(&orders), "{:?}", proxy.writes());
    let waited = fs::metadata(&marker).unwrap().modified().unwrap().duration_since(spawned).unwrap();
    assert!(waited >= Duration::from_millis(1500), "the command began {waited:?} after the first order");
}

#[test]
fn a_user_of_the_sockets_group_can_inhibit_and_another_is_told_what_to_do() {
    let engine = idle_engine();
    let group = 4242;
    std::os::unix::fs::chown(engine.socket(), None, Some(group)).unwrap();
    // The first prune of root makes the directory.
    program(&engine).arg("prune").assert().success();
    let copy = reachable(&engine);
    let run = |gid: u32| {
        let mut command = Command::new(&copy);
        command.uid(65534).gid(gid).env_clear().env("PATH", "/usr/bin:/bin");
        command
            .env("DOCKER_HOST", engine.url())
            .env("STATE_DIRECTORY", engine.folder().join("state"))
            .env("RUNTIME_DIRECTORY", engine.folder().join("runtime"))
            .args(["inhibit", "--", "echo", "ran"])
            .output()
            .unwrap()
    };
    let output = run(group);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"ran\n");
    assert_eq!(output.stderr, b"");
    let output = run(65534);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"", "the command did not start");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--runtime-dir"));
}

/// flock works on whatever was opened for reading.
#[test]
fn a_stranger_can_hold_neither_locks_nor_stale_inhibitors() {
    let engine = idle_engine();
    let group = 4242;
    std::os::unix::fs::chown(engine.socket(), None, Some(group)).unwrap();
    program(&engine).arg("record").assert().success();
    let dangling = dangling::<1>(&engine);
    engine.fill_to(85);
    program(&engine).args(["prune", "--older-than", "0s"]).assert().success();
    assert!(!engine.has_image(&dangling[0]), "it took the lock of removals");
    let child = start(&engine, &["--", "sleep", "60"]);
    let folder = engine.folder().join("runtime/inhibitors");
    let mut files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let inhibitor = files.find(|file| !file.ends_with(".removing.lock")).unwrap();
    end(child);
    let files = [
        (engine.folder().join("state/ledger.lock"), false),
        (engine.folder().join("runtime/prune.lock"), false),
        (engine.folder().join("runtime/inhibitors/.removing.lock"), true),
        (inhibitor, true),
    ];
    for (file, for_group) in files {
        assert!(file.exists(), "{}", file.display());
        for (gid, may) in [(65534, false), (group, for_group)] {
            let mut flock = Command::new("flock");
            flock.args(["--nonblock", "--shared"]).arg(&file).arg("true");
            let status = flock.uid(65534).gid(gid).stderr(Stdio::null()).status().unwrap();
            assert_eq!(status.success(), may, "{} by group {gid}", file.display());
        }
    }
}
