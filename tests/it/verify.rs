//! `verify`: each check, and the proof of layer reuse on a real Swarm.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use assert_cmd::assert::Assert;
use lab::{Engine, Image, Options, Proxy};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

use crate::support::{APP, bare, json_of, once, program, remember, standard};

/// `alice:s3cret`, and her bcrypt hash for a registry's htpasswd file.
const BASIC: &str = "YWxpY2U6czNjcmV0";
const HTPASSWD: &str = "alice:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";
const SECRET: &str = "s3cret";

/// The result of one check.
#[track_caller]
fn check(report: &Value, name: &str) -> Value {
    let checks = report["checks"].as_array().expect("checks");
    checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report}"))
        .clone()
}

/// Nothing that the program says or logs holds the secret, in any form.
#[track_caller]
fn keeps_the_secret(assert: &Assert) {
    let output = assert.get_output();
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains(SECRET) && !text.contains(BASIC), "{text}");
    }
}

/// What the login check says with this configuration; helpers are looked for in its folder first.
#[track_caller]
fn login(folder: &Path, config: &str, arguments: &[&str]) -> Value {
    fs::write(folder.join("config.json"), config).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let assert = bare()
        .env("DOCKER_CONFIG", folder)
        .env("PATH", path)
        .args(["verify", "-vvv", "-o", "json", "--host", "unix:///nowhere/docker.sock", "--timeout", "2s"])
        .args(arguments)
        .assert()
        .code(1);
    keeps_the_secret(&assert);
    check(&json_of(&assert), "login")
}

fn helper(folder: &Path, name: &str, script: &str) {
    let path = folder.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn credentials_are_found_in_every_form_and_what_fails_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let answer = |user: &str| {
        // The key that docker keeps Docker Hub's credential under, and no other.
        let known = r#"read server; [ "$server" = https://index.docker.io/v1/ ] || exit 4"#;
        format!(r#"{known}; echo '{{"ServerURL":"'$server'","Username":"{user}","Secret":"{SECRET}"}}'"#)
    };
    helper(folder, "good", &answer("alice"));
    helper(folder, "token", &answer("<token>"));
    helper(folder, "empty", "echo 'credentials not found in native keychain'; exit 1");
    helper(folder, "broken", &format!("echo {SECRET}; exit 3"));
    helper(folder, "nonsense", &format!("echo {SECRET}"));
    helper(folder, "hangs", "exec sleep 60");
    let hub = "https://index.docker.io/v1/";
    let table = [
        (json!({"auths": {hub: {"auth": BASIC}}}), "ok", "docker.io: user alice, from"),
        (json!({"auths": {hub: {"identitytoken": SECRET}}}), "ok", "docker.io: a token, from"),
        (json!({"auths": {hub: {}}, "credsStore": "good"}), "ok", "user alice, from docker-credential-good"),
        (json!({"credHelpers": {hub: "token"}}), "ok", "a token, from docker-credential-token"),
        (json!({}), "warning", "no credential in"),
        (json!({"auths": {"ghcr.io": {"auth": BASIC}}}), "warning", "docker login"),
        (json!({"auths": {hub: {"auth": SECRET}}}), "failed", "not base64"),
        (json!({"auths": [SECRET]}), "failed", "no valid JSON"),
        (json!({"credsStore": "empty"}), "warning", "docker-credential-empty has no entry; docker login"),
        (json!({"credsStore": "broken"}), "failed", "docker-credential-broken failed: exit status: 3"),
        (json!({"credsStore": "nonsense"}), "failed", "its answer is no credential"),
        (json!({"credsStore": "missing"}), "failed", "docker-credential-missing is not on the PATH"),
        (json!({"credsStore": "hangs"}), "failed", "docker-credential-hangs does not answer"),
    ];
    for (config, status, words) in table {
        let found = login(folder, &config.to_string(), &[]);
        assert_eq!(found["status"], status, "{config}: {found}");
        assert!(found["reason"]["message"].as_str().unwrap().contains(words), "{config}: {found}");
    }
    let config = json!({"auths": {"registry.example.org:5000": {"auth": BASIC}}}).to_string();
    let found = login(folder, &config, &["--registry", "registry.example.org:5000"]);
    assert_eq!(found["status"], "ok", "{found}");
    fs::remove_file(folder.join("config.json")).unwrap();
    let assert =
        bare().env("DOCKER_CONFIG", folder).arg("verify").env("DOCKER_HOST", "unix:///nowhere").assert();
    assert.code(1).stdout(contains("docker login").and(contains("no Docker engine at unix:///nowhere")));
}

#[test]
fn online_docker_hub_is_asked_how_many_pulls_are_left() {
    // What Docker's documentation says of the headers, on loopback.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for connection in listener.incoming().take(2) {
            let mut connection = BufReader::new(connection.unwrap());
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                assert!(connection.read_line(&mut request).unwrap() > 0, "{request}");
            }
            let body = r#"{"token":"a-token"}"#;
            let answer = if request.starts_with("GET /token") {
                format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            } else {
                "HTTP/1.1 200 OK\r\nConnection: close\r\nratelimit-limit: 200;w=21600\r\n\
                 ratelimit-remaining: 13;w=21600\r\n\r\n"
                    .to_owned()
            };
            connection.get_mut().write_all(answer.as_bytes()).unwrap();
            asked.push(request.to_lowercase());
        }
        asked
    });
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": BASIC}}});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let assert = bare()
        .env("DOCKER_CONFIG", folder.path())
        .args(["verify", "--online", "-vvv", "-o", "json", "--host", "unix:///nowhere", "--docker-hub", &url])
        .assert()
        .code(1);
    keeps_the_secret(&assert);
    let pulls = check(&json_of(&assert), "pulls").clone();
    assert_eq!((&pulls["status"], &pulls["reason"]["remaining_pulls"]), (&"warning".into(), &13.into()));
    let [limit, window] = ["limit_pulls", "window_seconds"].map(|figure| pulls["reason"][figure].as_u64());
    assert_eq!((limit, window), (Some(200), Some(6 * 3_600)), "{pulls}");
    let asked = server.join().unwrap();
    assert!(asked[0].contains(&format!("authorization: basic {}", BASIC.to_lowercase())), "{asked:?}");
    assert!(asked[1].starts_with("head /v2/ratelimitpreview/test/manifests/latest"), "{asked:?}");
    assert!(asked[1].contains("authorization: bearer a-token"), "{asked:?}");
}

/// A registry inside the lab that wants a password; it ends with the lab.
fn locked_registry(engine: &Engine) -> Child {
    let folder = engine.folder();
    fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n\
         http: {{addr: '127.0.0.1:5001'}}\nauth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}\n",
        folder = folder.display()
    );
    fs::write(folder.join("locked.yml"), config).unwrap();
    let mut command = engine.inside("docker-registry");
    command.arg("serve").arg(folder.join("locked.yml")).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("start the registry");
    engine.eventually("the registry listens", || {
        let ports = engine.inside("ss").args(["-ltn"]).output().expect("run ss");
        String::from_utf8_lossy(&ports.stdout).contains(":5001")
    });
    child
}

#[test]
fn the_registry_itself_tests_a_credential_and_the_proof_sends_it() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let mut registry = locked_registry(&engine);
    let folder = engine.folder().join("config");
    fs::create_dir(&folder).unwrap();
    let registry_name = "127.0.0.1:5001";
    let verify = |auth: &str| {
        let config = json!({"auths": {registry_name: {"auth": auth}}});
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let assert = program(&engine)
            .env("DOCKER_CONFIG", &folder)
            .args(["verify", "-vvv", "-o", "json", "--registry", registry_name, "--online"])
            .args(["--redeploy", "127.0.0.1:5001/app:1"])
            .assert();
        keeps_the_secret(&assert);
        json_of(&assert)
    };
    // alice:wrong
    let report = verify("YWxpY2U6d3Jvbmc=");
    let login = check(&report, "login");
    assert_eq!(login["status"], "failed", "{login}");
    assert_eq!(login["reason"]["code"], "refused", "{login}");
    assert_eq!(check(&report, "redeploy")["status"], "failed");

    let report = verify(BASIC);
    let login = check(&report, "login");
    assert_eq!(login["status"], "ok", "{login}");
    assert_eq!(login["reason"]["code"], "accepted", "{login}");
    assert_eq!(check(&report, "redeploy")["status"], "ok", "{report}");
    registry.kill().expect("end the registry");
    registry.wait().expect("wait for it");
}

fn services(engine: &Engine) -> String {
    engine.docker(["service", "ls", "--quiet"]) + &engine.docker(["ps", "--all", "--quiet"])
}

#[test]
fn a_second_deploy_downloads_nothing_and_leaves_nothing() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1").size_mib(32));
    let verify = || {
        let assert =
            program(&engine).args(["verify", "-o", "json", "--redeploy", "127.0.0.1:5000/app:1"]).assert();
        check(&json_of(&assert), "redeploy")
    };
    let redeploy = verify();
    assert_eq!(redeploy["status"], "ok", "{redeploy}");
    let facts = &redeploy["reason"];
    assert_eq!(facts["cold"]["layers_downloaded"], 2, "{facts}");
    assert_eq!(facts["warm"]["layers_downloaded"], 0, "{facts}");
    assert_eq!(engine.blobs_sent(), 3, "two layers and a configuration, once");
    assert!(facts["cold"]["duration_milliseconds"].as_u64().unwrap() > 0);
    assert_eq!(services(&engine), "");

    // It says so when the first deploy was not cold.
    let again = verify();
    assert_eq!(again["reason"]["cold"]["layers_downloaded"], 0);
    // And counts only layers that were not there: this one shares one with the first.
    engine.publish(&Image::new("other", "1"));
    let assert =
        program(&engine).args(["verify", "-o", "json", "--redeploy", "127.0.0.1:5000/other:1"]).assert();
    let other = check(&json_of(&assert), "redeploy");
    assert_eq!(other["reason"]["cold"]["layers_downloaded"], 1, "{other}");
}

#[test]
fn what_a_killed_proof_left_is_named_and_the_next_one_takes_it_away() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let left = "ci-docker-prune-verify-0123456789abcdef";
    let label = engine.docker(["info", "--format", "ci-docker-prune.verify={{.Swarm.NodeID}}"]);
    let words = ["service", "create", "--quiet", "--detach", "--label", &label, "--name", left];
    engine.docker(words.into_iter().chain(["127.0.0.1:5000/app:1"]));
    for command in ["prune", "--dry-run", "verify"] {
        let assert = program(&engine).arg(command).assert();
        assert.stderr(contains(left).and(contains("docker service rm")));
    }
    // Not while another proof runs.
    let mut inhibitor = standard(&program(&engine));
    inhibitor.args(["inhibit", "--why", "verify --redeploy app", "--", "sleep", "60"]);
    inhibitor.process_group(0);
    let mut child = inhibitor.spawn().unwrap();
    engine.eventually("the inhibitor is active", || {
        program(&engine).arg("runs").assert().get_output().status.code() == Some(3)
    });
    program(&engine).arg("prune").assert().stderr(contains(left).not());
    // Its command too.
    let group = format!("-{}", child.id());
    Command::new("kill").args(["-9", "--", &group]).status().unwrap();
    child.wait().unwrap();
    let redeploy = ["verify", "-o", "json", "--redeploy", "127.0.0.1:5000/app:1"];
    let assert =
        program(&engine).args(redeploy).assert().stderr(contains(format!("removing service {left}")));
    assert_eq!(check(&json_of(&assert), "redeploy")["status"], "ok");
    engine.eventually("nothing is left", || services(&engine).is_empty());
}

/// The proof, while this happens before the nth request that begins so.
fn meanwhile(
    engine: &Engine,
    (request, mut nth): (&'static str, usize),
    act: impl FnOnce() + Send + 'static,
) -> Value {
    let proxy = Proxy::before(engine);
    let mut act = once(act);
    proxy.on_request(move |_, line| {
        if line.starts_with(request) {
            nth = nth.saturating_sub(1);
            if nth == 0 {
                act();
            }
        }
        None
    });
    let assert = program(engine)
        .args(["verify", "-o", "json", "--redeploy", "127.0.0.1:5000/app:1", "--host", &proxy.url()])
        .assert()
        .code(1);
    check(&json_of(&assert), "redeploy")
}

#[test]
fn a_tag_that_moved_is_pulled_anew_and_the_proof_says_so() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let registry = engine.folder().join("registry");
    let busybox = lab::engine::busybox(&engine.kind.root());
    let redeploy = meanwhile(&engine, ("DELETE /services/", 1), move || {
        Image::new("app", "1").seed("moved").publish(&registry, &busybox);
    });
    assert_eq!(redeploy["status"], "failed", "{redeploy}");
    let reason = &redeploy["reason"];
    assert_eq!(reason["code"], "not_reused", "{redeploy}");
    assert_ne!(reason["cold"]["image"], reason["warm"]["image"], "{redeploy}");
    assert!(redeploy["reason"]["warm"]["layers_downloaded"].as_u64().unwrap() > 0, "{redeploy}");
}

#[test]
fn whoever_removes_images_is_found_out() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let mut command = engine.inside("sh");
    command.args(["-c", "docker rmi --force $(docker images --quiet --no-trunc)"]).stdout(Stdio::null());
    // After the plan in between, when the name is resolved for the second deploy.
    let redeploy = meanwhile(&engine, ("GET /distribution/", 2), move || {
        assert!(command.status().expect("run docker").success());
    });
    let reason = &redeploy["reason"];
    assert_eq!((&reason["code"], &reason["planned"]), (&"not_reused".into(), &false.into()), "{redeploy}");
    assert_eq!(reason["cold"]["image"], reason["warm"]["image"], "{redeploy}");
    assert!(reason["warm"]["layers_downloaded"].as_u64().unwrap() > 0, "{redeploy}");
    assert_eq!(redeploy["status"], "failed", "{redeploy}");
    assert_eq!(services(&engine), "");
}

#[test]
fn a_policy_that_would_evict_it_fails_the_proof() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["pull", "--quiet", "127.0.0.1:5000/app:1"]);
    let digest =
        engine.docker(["image", "inspect", "--format", "{{index .RepoDigests 0}}", "127.0.0.1:5000/app:1"]);
    let id = engine.image_id(&digest);
    engine.docker(["pull", "--quiet", &digest]);
    engine.docker(["image", "rm", "127.0.0.1:5000/app:1"]);
    if !engine.has_image(&digest) {
        engine.docker(["pull", "--quiet", &digest]);
    }
    remember(&engine, &[(&id, 30)]);
    let assert = program(&engine)
        .args(["verify", "-o", "json", "--redeploy", "127.0.0.1:5000/app:1"])
        .args(["--older-than", "0s"])
        .assert()
        .code(1);
    let redeploy = check(&json_of(&assert), "redeploy");
    assert_eq!(redeploy["reason"]["planned"], true, "{redeploy}");
}

#[test]
fn an_interrupted_proof_leaves_nothing() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    for request in ["GET /distribution/", "POST /services/create", "GET /tasks?", "DELETE /services/"] {
        let proxy = Proxy::before(&engine);
        let mut command: Command = standard(&program(&engine));
        command.args(["verify", "-o", "json", "--redeploy", "127.0.0.1:5000/app:1", "--host", &proxy.url()]);
        let (tell, pid) = std::sync::mpsc::channel::<u32>();
        let mut once = Some(pid);
        proxy.on_request(move |_, line| {
            if line.starts_with(request)
                && let Some(pid) = once.take()
            {
                let pid = nix_pid(pid.recv().expect("the program's process"));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("interrupt it");
            }
            None
        });
        let child =
            lab::engine::with_default_signals(command.stdout(Stdio::piped())).spawn().expect("start it");
        tell.send(child.id()).expect("the proxy waits");
        let output = child.wait_with_output().expect("wait for it");
        assert_eq!(output.status.code(), Some(1), "{request}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let redeploy = check(&report, "redeploy");
        assert_eq!(redeploy["reason"]["code"], "interrupted", "{request}: {redeploy}");
        assert_eq!(services(&engine), "", "{request}");
    }
}

fn nix_pid(pid: u32) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process ID"))
}

#[test]
fn an_image_that_is_not_there_or_cannot_start_fails_in_words() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let verify = |image: &str| {
        let assert = program(&engine).args(["verify", "-o", "json", "--redeploy", image]).assert().code(1);
        check(&json_of(&assert), "redeploy")["reason"]["message"].as_str().unwrap().to_owned()
    };
    let detail = verify("127.0.0.1:5000/missing:1");
    assert!(detail.contains("the first deploy") && detail.contains("missing"), "{detail}");
    assert_eq!(services(&engine), "");
    engine.publish(&Image { command: vec!["/nothing".into()], ..Image::new("broken", "1") });
    let detail = verify("127.0.0.1:5000/broken:1");
    assert!(detail.contains("the first deploy") && detail.contains("/nothing"), "{detail}");
    assert_eq!(services(&engine), "");
    bare().args(["verify", "--redeploy", "no image"]).assert().code(2).stderr(contains("--redeploy"));
    bare().args(["verify", "--registry", "https://x"]).assert().code(2).stderr(contains("--registry"));
}

#[test]
fn data_in_memory_is_told_from_data_on_a_disk() {
    let engine = Engine::start_with(Options { workers: 1, ..Options::default() });
    let retention = |socket: &str| {
        let url = format!("unix://{}", engine.folder().join(socket).display());
        let assert = program(&engine).args(["verify", "-o", "json", "--host", &url]).assert();
        check(&json_of(&assert), "retention")
    };
    assert_eq!(retention("data.sock")["status"], "ok");
    let in_memory = retention("worker1.sock");
    assert_eq!(in_memory["status"], "failed", "{in_memory}");
    assert_eq!(in_memory["reason"]["code"], "volatile", "{in_memory}");
}

#[test]
fn containers_and_services_that_prune_by_the_engines_socket_are_found() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let pruners = || {
        let assert = program(&engine).args(["verify", "-o", "json"]).assert();
        let found = check(&json_of(&assert), "pruners")["reason"].clone();
        (found["code"].as_str().unwrap().to_owned(), found["message"].as_str().unwrap().to_owned())
    };
    let command = ["sh", "-c", ": docker image prune -af; sleep 600"];
    // Without the socket it can prune nothing.
    engine.docker([&["run", "--detach", "--name", "harmless", APP][..], &command].concat());
    let (_, message) = pruners();
    assert!(!message.contains("harmless"), "{message}");
    engine.docker(
        [&["run", "--detach", "--name", "janitor", "--volume", "/run:/run", APP][..], &command].concat(),
    );
    let service = ["service", "create", "--quiet", "--detach", "--name", "sweeper", "--mount"];
    engine.docker([&service[..], &["type=bind,source=/run,target=/run", APP], &command].concat());
    let (code, message) = pruners();
    assert_eq!(code, "other_pruners", "{message}");
    for place in ["container janitor runs 'docker image prune'", "service sweeper runs"] {
        assert!(message.contains(place), "{message}");
    }
}
