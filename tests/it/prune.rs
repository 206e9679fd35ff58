//! `prune` and its dry run on a real engine, under real pressure.

use std::fs;

use std::process::Command;

use lab::{Engine, Image, Proxy};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{
    RUN, cached, compose, create, dangling, json_of, names, planned_without_ages, program, prune, remember,
    standard, stdout,
};

const STACK: &str = "shop";

/// What this tool is for: a stack of an image built long ago is deployed, torn down, the disk fills,
/// something prunes, and the stack comes back. How many blobs the second deploy downloads.
fn redeploy(engine: &Engine, mut prune: impl FnMut()) -> usize {
    engine.publish(&Image::new("library/redis", "7-alpine").size_mib(8));
    let file = compose(&["redis:7-alpine"]);
    engine.deploy(STACK, &file);
    assert!(engine.blobs_sent() >= 3, "the first deploy downloads two layers and a configuration");
    engine.tear_down(STACK);
    engine.fill_to(85);
    prune();
    let before = engine.blobs_sent();
    engine.deploy(STACK, &file);
    engine.blobs_sent() - before
}

#[test]
fn a_redeploy_after_our_prune_downloads_nothing() {
    let engine = Engine::start();
    let downloaded = redeploy(&engine, || {
        let report = prune(&engine, "");
        assert_eq!(report["outcome"], "nothing");
        assert!(report["disk"]["after"]["used_percent"].as_u64().unwrap() >= 80);
    });
    assert_eq!(downloaded, 0);
}

#[test]
fn a_redeploy_after_dockers_own_prune_downloads_every_layer_again() {
    let engine = Engine::start();
    let downloaded = redeploy(&engine, || {
        engine.docker(["image", "prune", "--force", "--filter", "until=24h"]);
    });
    // The containerd store never finds such an image, and so never reclaims it either.
    assert_eq!(downloaded, if engine.kind.containerd_store() { 0 } else { 3 });
}

#[test]
fn cached_images_go_least_recently_used_first_until_the_target() {
    let engine = Engine::start();
    // The containerd store keeps what it pulled beside what it unpacked.
    let size = if engine.kind.containerd_store() { 60 } else { 120 };
    let big = |n: &str| Image::new(n, "1").size_mib(size);
    let names_by_digest: Vec<String> =
        ["old", "older", "oldest", "recent"].map(|n| cached(&engine, &big(n))).into();
    let ids: Vec<String> = names_by_digest.iter().map(|name| engine.image_id(name)).collect();
    remember(&engine, &[(&ids[0], 10), (&ids[1], 20), (&ids[2], 30), (&ids[3], 2)]);
    engine.fill_to(85);

    let plan = program(&engine).args(["--dry-run", "-o", "json", "--disk-target", "75"]).assert().success();
    let plan = json_of(&plan);
    // The last one only while the disk is above the threshold.
    assert_eq!(names(&plan["plan"]["remove"]), ["oldest", "older", "old", "recent"]);

    // Each is 6 % of the disk: 85, 79, 73, and below 75 it ends.
    let report = prune(&engine, "--disk-target 75");
    assert_eq!(report["outcome"], "pruned");
    let same = planned_without_ages(&report) == planned_without_ages(&plan);
    assert!(same, "a run carries out what the dry run showed: {report}");
    assert_eq!(names(&report["removed"]), ["oldest", "older"]);
    let skipped = &report["skipped"][0]["reason"];
    assert_eq!((&skipped["code"], &skipped["limit_percent"]), (&"enough_space".into(), &75.into()));
    let reclaimed = report["reclaimed_bytes"].as_u64().unwrap();
    assert!((230 << 20..270 << 20).contains(&reclaimed), "{reclaimed} is not two images");
    assert!(!engine.has_image(&names_by_digest[2]) && !engine.has_image(&names_by_digest[1]));
    assert!(engine.has_image(&names_by_digest[0]) && engine.has_image(&names_by_digest[3]));
}

#[test]
fn what_someone_needs_stays_under_full_pressure() {
    let engine = Engine::start();
    for tag in ["1", "2", "3"] {
        engine.publish(&Image::new("app", tag));
    }
    let name = |tag: &str| format!("127.0.0.1:5000/app:{tag}");
    // Scaled to 0 after an update: the spec names 2, the previous spec 1.
    create(&engine, "app", &name("1"));
    let to_2 = ["service", "update", "--quiet", "--detach", "--image", &name("2"), "--replicas", "0", "app"];
    engine.docker(to_2);
    engine.eventually("no container is running", || engine.docker(["ps", "--quiet"]).is_empty());
    engine.docker(["container", "prune", "--force"]);
    let label = "ci-docker-prune.keep";
    let kept = cached(&engine, &Image::new("kept", "1").label(label, ""));
    let young = cached(&engine, &Image::new("young", "1"));
    let idle = cached(&engine, &Image::new("idle", "1"));
    engine.docker(["pull", "--quiet", &name("3")]);

    let by_digest = |tag: &str| {
        let images = engine.docker(["service", "inspect", "--format", "{{json .}}", "app"]);
        let service: Value = serde_json::from_str(&images).unwrap();
        let spec = if tag == "1" { "PreviousSpec" } else { "Spec" };
        let image = service[spec]["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap().to_owned();
        format!("127.0.0.1:5000/app@{}", image.split_once('@').unwrap().1)
    };
    let (spec, previous) = (by_digest("2"), by_digest("1"));
    engine.docker(["pull", "--quiet", &spec]);
    let ids: Vec<String> =
        [&spec, &previous, &kept, &idle, &name("3")].map(|name| engine.image_id(name)).into();
    remember(&engine, &ids.iter().map(|id| (id.as_str(), 90)).collect::<Vec<_>>());
    engine.fill_to(95);

    let report = prune(&engine, "--disk-critical 100");
    assert_eq!(names(&report["removed"]), ["idle"]);
    for name in [&spec, &previous, &kept, &young, &name("3")] {
        assert!(engine.has_image(name), "{name}");
    }
    assert!(!engine.has_image(&idle));
    let reasons = report["plan"]["keep"].to_string();
    for reason in [
        "service app names it",
        "service app may roll back to it",
        "keep label",
        "tagged",
        "never seen in use",
    ] {
        assert!(reasons.contains(reason), "{reason} in {reasons}");
    }
}

#[test]
fn containers_go_by_the_time_they_finished_and_volumes_stay() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let image = "127.0.0.1:5000/app:1";
    let label = "ci-docker-prune.keep=yes";
    engine.docker(["run", "--name", "ended", "--volume", "named:/a", "--volume", "/b", image, "true"]);
    engine.docker(["run", "--name", "kept", "--label", label, image, "true"]);
    engine.docker(["run", "--name", "mine", "--label", "owner=me", image, "true"]);
    let keep = "--keep-label owner=me --keep-label ci-docker-prune.keep";
    engine.docker(["create", "--name", "never", image]);
    engine.docker(["run", "--detach", "--name", "running", image]);
    engine.docker(["run", "--detach", "--name", "paused", image]);
    engine.docker(["pause", "paused"]);
    engine.docker([
        "service",
        "create",
        "--quiet",
        "--detach",
        "--restart-condition",
        "none",
        "--name",
        "job",
        image,
        "true",
    ]);
    engine.eventually("the one-shot has ended", || {
        !engine.docker(["ps", "--quiet", "--filter", "status=exited", "--filter", "name=job"]).is_empty()
    });
    engine.fill_to(85);
    let volumes = engine.docker(["volume", "ls", "--quiet"]);
    assert_eq!(volumes.lines().count(), 2);

    assert_eq!(prune(&engine, "")["outcome"], "nothing", "nothing is a day old");
    engine.eventually("a second has passed since the last end", || {
        let report = prune(&engine, &format!("--older-than 1s {keep}"));
        let mut gone = names(&report["removed"]);
        gone.sort();
        gone == ["ended", "never"] || {
            assert!(gone.iter().all(|name| name == "ended" || name == "never"), "{gone:?}");
            !engine.docker(["ps", "--all", "--format", "{{.Names}}"]).contains("ended")
                && !engine.docker(["ps", "--all", "--format", "{{.Names}}"]).contains("never")
        }
    });
    let left = engine.docker(["ps", "--all", "--format", "{{.Names}}"]);
    for name in ["kept", "mine", "running", "paused", "job.1."] {
        assert!(left.contains(name), "{name} in {left}");
    }
    assert_eq!(engine.docker(["volume", "ls", "--quiet"]), volumes);
}

#[test]
fn dangling_images_go_when_their_age_is_known_and_long_enough() {
    let engine = Engine::start();
    // A tag that moves leaves its old image without any name.
    engine.load(&Image::new("built", "1").seed("a"), Some("built:1"));
    engine.load(&Image::new("odd", "1").seed("b").created(Some("1970-01-01T00:00:01Z")), Some("odd:1"));
    let mut built = engine.image_id("built:1");
    let mut odd = engine.image_id("odd:1");
    prune(&engine, "");
    engine.load(&Image::new("built", "1").seed("c"), Some("built:1"));
    engine.load(&Image::new("odd", "1").seed("d"), Some("odd:1"));
    if !engine.has_image(&built) {
        // 26.1 with the containerd store drops such an image by itself: there only builds leave dangling images.
        assert!(engine.kind.containerd_store());
        [built] = dangling(&engine);
        odd = built.clone();
    }
    engine.fill_to(85);

    let report = prune(&engine, "");
    assert_eq!(report["outcome"], "nothing", "both lost their names just now: {report}");
    engine.eventually("both are a second old", || {
        prune(&engine, "--older-than 1s");
        !engine.has_image(&built) && !engine.has_image(&odd)
    });
    assert!(engine.has_image("built:1") && engine.has_image("odd:1"));
}

#[test]
fn stale_build_cache_goes_and_what_images_share_stays() {
    let engine = Engine::start();
    let dockerfile = "FROM 127.0.0.1:5000/app:1\nRUN dd if=/dev/zero of=/x bs=1M count=4\n";
    engine.publish(&Image::new("app", "1"));
    let context = engine.folder().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let build = |tag: &str| {
        let folder = context.to_str().unwrap();
        let output = engine
            .inside("docker")
            .env("DOCKER_BUILDKIT", "1")
            .args(["build", "--quiet", "--network", "none", "--tag", tag, folder])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        engine.docker(["image", "inspect", "--format", "{{json .RootFS.Layers}}", tag])
    };
    let layers = build("built:1");
    engine.fill_to(85);
    assert_eq!(names(&prune(&engine, "")["removed"]), Vec::<String>::new());
    // What the image shares stays while it is there: the same build has the same layers, and makes none anew.
    prune(&engine, "--older-than 0s");
    assert_eq!(build("built:1"), layers);
    engine.docker(["image", "rm", "built:1"]);
    build("built:1");
    engine.docker(["image", "rm", "built:1"]);
    let proxy = Proxy::before(&engine);
    let mut removed = 0;
    engine.eventually("all of the cache is a second old and gone", || {
        let report = prune(&engine, &format!("--older-than 1s --host {}", proxy.url()));
        let planned = report["plan"]["remove"].as_array().unwrap();
        let gone = report["removed"].as_array().unwrap();
        removed += gone.iter().filter(|removal| removal["kind"] == "build-cache").count();
        planned.is_empty() && removed > 0
    });
    // In Go's notation, without which younger records go.
    let order = proxy.writes().into_iter().find(|request| request.starts_with("POST /build/prune"));
    let until = "{\"until\":[\"1s\"]}";
    assert!(order.as_ref().is_some_and(|order| decoded(order).contains(until)), "{order:?}");
}

/// A URL without its percent signs.
fn decoded(url: &str) -> String {
    percent_encoding::percent_decode_str(url).decode_utf8_lossy().into_owned()
}

/// Steps that no image has, on a base image that is there: overlay2 frees them, and the containerd store never does.
#[test]
fn build_cache_that_the_containerd_store_never_frees_is_told_with_the_command() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let base = "127.0.0.1:5000/app:1";
    engine.docker(["pull", "--quiet", base]);
    crate::support::build(
        &engine,
        true,
        &format!(
            "FROM {base} AS made\nRUN dd if=/dev/zero of=/x bs=1M count=4\nFROM {base}\nCOPY --from=made /bin/sh /y\n"
        ),
    );
    engine.fill_to(85);
    let mut report = Value::Null;
    engine.eventually("the cache is a second old, and what may go is gone", || {
        report = prune(&engine, "--older-than 1s");
        let shared = &report["plan"]["shared_build_cache_bytes"];
        if engine.kind.containerd_store() {
            shared.as_u64().is_some_and(|bytes| bytes > 4_000_000)
        } else {
            shared.is_null() && report["removed"].to_string().contains("build-cache")
        }
    });
    let text = stdout(&program(&engine).args(["prune", "--older-than", "1s"]).assert().success());
    let told = text.contains("docker builder prune --all --filter until=24h");
    assert_eq!(told, engine.kind.containerd_store(), "{text}");
}

#[test]
fn a_dry_run_sends_nothing_but_reads_and_shows_the_plan_also_when_a_gate_is_closed() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1").size_mib(8));
    remember(&engine, &[(&engine.image_id(&name), 30)]);
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "--name", RUN, "127.0.0.1:5000/app:1"]);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let assert = program(&engine).args(["--dry-run", "--host", &proxy.url()]).assert().success();
    let text = stdout(&assert);
    assert!(
        text.contains("dry run: nothing was removed, and a prune now would be blocked by runs"),
        "{text}"
    );
    assert_eq!(proxy.writes(), Vec::<String>::new());
    for path in ["state/ledger.lock", "runtime"] {
        assert!(!engine.folder().join(path).exists(), "{path}");
    }
    let verbose = program(&engine).args(["--dry-run", "-v"]).assert().success();
    assert!(stdout(&verbose).contains("used by container"), "{}", stdout(&verbose));
}

#[test]
fn only_the_documented_removals_are_on_the_wire() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1").size_mib(8));
    remember(&engine, &[(&engine.image_id(&name), 30)]);
    engine.publish(&Image::new("other", "1"));
    engine.docker(["run", "--name", "ended", "127.0.0.1:5000/other:1", "true"]);
    engine.load(&Image::new("built", "1").seed("a"), Some("built:1"));
    engine.load(&Image::new("built", "1").seed("b"), Some("built:1"));
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    engine.eventually("everything is a second old", || {
        prune(&engine, &format!("--older-than 1s --host {}", proxy.url()));
        let ended = engine.docker(["ps", "--all", "--quiet", "--filter", "name=ended"]);
        !engine.has_image(&name) && ended.is_empty()
    });
    for expected in ["DELETE /containers/", "POST /images/sha256", "DELETE /images/ci-docker-prune.invalid"] {
        assert!(
            proxy.writes().iter().any(|request| request.starts_with(expected)),
            "{expected}: {:?}",
            proxy.writes()
        );
    }
    for request in proxy.writes() {
        let (method, path) = request.split_once(' ').unwrap();
        let kind = path.split('/').nth(1).unwrap();
        // Our own tag, for the time of an eviction.
        let eviction_tag = method == "POST" && path.contains("/tag?repo=ci-docker-prune.invalid");
        assert!(
            method == "DELETE" && matches!(kind, "images" | "containers")
                || eviction_tag
                || request.starts_with("POST /build/prune"),
            "{request}"
        );
        assert!(!path.contains("force=true") && !path.contains("all=true"), "{request}");
    }
}

#[test]
fn one_stuck_or_vanished_object_never_ends_the_run() {
    let (engine, report, _) =
        spoiled(&[lab::Fault::Status(409), lab::Fault::Status(404), lab::Fault::Status(500)]);
    assert_eq!(report["outcome"], "failed");
    assert_eq!(report["skipped"].as_array().unwrap().len(), 1);
    // What is not there by the answer, and still there, is as little removed as what fails.
    assert_eq!(report["failed"].as_array().unwrap().len(), 2);
    assert_eq!(report["removed"].as_array().unwrap().len(), 1);
    assert_eq!(engine.container_names().len(), 3);
}

/// Four ended containers, and a prune of them through a proxy that answers the first removals with these faults.
fn spoiled(faults: &'static [lab::Fault]) -> (Engine, Value, Vec<String>) {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    for name in ["one", "two", "three", "four"] {
        engine.docker(["run", "--name", name, "127.0.0.1:5000/app:1", "true"]);
    }
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let mut faults = faults.iter().copied();
    proxy.on_request(move |_, line| if line.starts_with("DELETE") { faults.next() } else { None });
    let arguments = ["prune", "-o", "json", "--older-than", "0s", "--host", &proxy.url()];
    let report = json_of(&program(&engine).args(arguments).assert());
    let orders = proxy.writes().into_iter().filter(|request| request.starts_with("DELETE")).collect();
    (engine, report, orders)
}

#[test]
fn an_object_that_is_still_there_after_a_404_is_not_removed() {
    let (engine, report, _) = spoiled(&[lab::Fault::Status(404)]);
    assert_eq!((&report["outcome"], report["removed"].as_array().unwrap().len()), (&"failed".into(), 3));
    let failed = &report["failed"][0]["reason"];
    assert_eq!((&failed["code"], &failed["http_status"]), (&"engine_error".into(), &Value::Null));
    assert_eq!(engine.container_names().len(), 1);
    // The same of an image.
    let [dangling] = dangling(&engine);
    let proxy = Proxy::before(&engine);
    proxy.on_request(|_, line| line.starts_with("DELETE /images/").then_some(lab::Fault::Status(404)));
    let mut command = program(&engine);
    let report = json_of(
        &command.args(["prune", "--older-than", "0s", "-o", "json", "--host", &proxy.url()]).assert().code(1),
    );
    assert_eq!(report["failed"][0]["id"], dangling.as_str(), "{report}");
    assert!(engine.has_image(&dangling));
}

#[test]
fn a_busy_engine_is_asked_again() {
    const BUSY: lab::Fault = lab::Fault::Says(409, "removal of container one is already in progress");
    let (engine, report, orders) = spoiled(&[BUSY, BUSY]);
    assert_eq!(report["outcome"], "pruned", "{report}");
    assert_eq!((orders.len(), engine.container_names().len()), (6, 0), "{orders:?}");
}

#[test]
fn what_the_engine_forbids_is_asked_for_once() {
    let (engine, report, orders) = spoiled(&[lab::Fault::Says(403, "<html>Forbidden</html>"); 4]);
    assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
    let skipped = report["skipped"].as_array().unwrap();
    assert!(
        skipped.len() == 3 && skipped.iter().all(|object| object["reason"]["code"] == "forbidden"),
        "{report}"
    );
    assert_eq!((orders.len(), engine.container_names().len()), (1, 4));
}

#[test]
fn a_second_prune_says_that_one_is_running() {
    let engine = Engine::start();
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let (entered, first_is_in) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    proxy.on_request(move |number, _| {
        if number == 1 {
            entered.send(()).unwrap();
            wait.recv().unwrap();
        }
        None
    });
    let url = proxy.url();
    let mut first = standard(&program(&engine));
    first.args(["prune", "--host", &url]).stdout(std::process::Stdio::null());
    let mut first = first.spawn().unwrap();
    first_is_in.recv().unwrap();
    let pid = first.id();
    program(&engine)
        .arg("prune")
        .assert()
        .success()
        .stdout(contains(format!("another prune is running (process {pid})")));
    go_on.send(()).unwrap();
    assert!(first.wait().unwrap().success());
    program(&engine).arg("prune").assert().success().stdout(contains("another prune").not());
}

#[test]
fn a_disk_that_stays_critical_exits_10() {
    let engine = Engine::start();
    engine.fill_to(97);
    program(&engine)
        .arg("prune")
        .assert()
        .code(10)
        .stdout(contains("is still at 9").and(contains("Stays:")))
        .stderr(contains("at or above --disk-critical 95%: manual intervention required"));
}

#[test]
fn a_prune_works_on_a_disk_that_is_100_percent_full() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1").size_mib(64));
    remember(&engine, &[(&engine.image_id(&name), 30)]);
    engine.fill_to(100);
    let report =
        json_of(&program(&engine).args(["prune", "-o", "json", "--disk-critical", "80"]).assert().code(10));
    assert_eq!(names(&report["removed"]), ["app"]);
    assert!(report["reclaimed_bytes"].as_u64().unwrap() > 60 << 20);
}

#[test]
fn what_fills_the_disk_is_told_where_a_prune_does_not_help() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1").size_mib(48));
    let image = "127.0.0.1:5000/app:1";
    let write = |mib: &str, path: &str| format!("dd if=/dev/zero of={path} bs=1M count={mib}");
    engine.docker([
        "run",
        "--name",
        "volume",
        "--volume",
        "data:/data",
        image,
        "sh",
        "-c",
        &write("40", "/data/x"),
    ]);
    engine.docker(["run", "--name", "layer", image, "sh", "-c", &write("32", "/x")]);
    engine.docker([
        "run",
        "--name",
        "log",
        image,
        "sh",
        "-c",
        "yes 0123456789012345678901234567890 | head -n 300000",
    ]);
    // As the engine leaves one when it dies in the middle of a removal.
    let forgotten = engine.data().join("overlay2").join("0".repeat(64));
    let graph = !engine.kind.containerd_store();
    if graph {
        std::fs::create_dir_all(&forgotten).unwrap();
        std::fs::write(forgotten.join("file"), vec![1; 20 << 20]).unwrap();
        let status = Command::new("touch").args(["--date", "3 days ago"]).arg(&forgotten).status();
        assert!(status.unwrap().success());
    }
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let told = |report: &Value| -> Vec<(String, String)> {
        let largest = report["consumers"]["largest"].as_array().expect("consumers").iter();
        assert!(largest.clone().count() <= 10, "{report}");
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        largest.map(|consumer| (text(&consumer["kind"]), text(&consumer["names"][0]))).collect()
    };
    let arguments = ["--dry-run", "-v", "-o", "json", "--host", &proxy.url()];
    let looked = json_of(&program(&engine).args(arguments).assert().success());
    let largest = told(&looked);
    for (kind, name) in [("image", image), ("volume", "data"), ("container-layer", "layer")] {
        assert!(largest.contains(&(kind.into(), name.into())), "{kind} {name}: {largest:?}");
    }
    assert!(largest.iter().any(|(kind, _)| kind == "log"), "{largest:?}");
    if graph {
        // The ballast is the largest of all, and no thing of Docker's.
        assert_eq!(largest[0].0, "other", "{looked}");
        assert_eq!(looked["consumers"]["unreferenced"], serde_json::json!([forgotten]));
    } else {
        let requests = proxy.requests();
        let slow = |request: &&String| {
            request.contains("/system/df") && (!request.contains("type=") || request.contains("type=image"))
        };
        assert_eq!(requests.iter().find(slow), None);
    }
    let text = stdout(&program(&engine).args(["--dry-run", "-v"]).assert().success());
    assert!(text.contains("Largest consumers"), "{text}");

    // The same at the end of a run that could not help; one that need not says nothing of it.
    let ended = json_of(&program(&engine).args(["prune", "-o", "json"]).assert().success());
    assert_eq!(told(&ended)[0].0, largest[0].0, "{ended}");
    assert!(!graph || forgotten.exists(), "never touched");
    std::fs::remove_file(engine.data().join("ballast")).unwrap();
    let eased = json_of(&program(&engine).args(["prune", "-o", "json"]).assert().success());
    assert!(ended["consumers"].is_object() && eased.get("consumers").is_none(), "{eased}");
}

#[test]
fn a_bar_shows_how_far_it_is_on_a_terminal_only() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["pull", "--quiet", "127.0.0.1:5000/app:1"]);
    engine.fill_to(85);
    let prune = |terminal: bool| {
        for n in 0..5 {
            engine.docker(["create", "--name", &format!("c{n}"), "127.0.0.1:5000/app:1"]);
        }
        let program = standard(program(&engine).args(["prune", "--older-than", "0s"]));
        let words: Vec<_> = std::iter::once(program.get_program()).chain(program.get_args()).collect();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command"]);
        // The log and the bar go to stderr; only that is the terminal, or is not.
        let stderr = engine.folder().join("stderr");
        fs::write(&stderr, "of another run").unwrap();
        let elsewhere = if terminal { String::new() } else { format!("2> {}", stderr.display()) };
        command.arg(format!("{} {elsewhere}", words.join(" "))).arg("/dev/null").env("TERM", "xterm");
        for (name, value) in program.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let output = command.output().expect("run script (util-linux)");
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        (stdout, fs::read_to_string(stderr).unwrap())
    };
    let (shown, _) = prune(true);
    assert!(shown.contains("pruning") && shown.contains("of 5"), "{shown:?}");
    let (shown, log) = prune(false);
    assert!(!shown.contains("pruning") && log.is_empty(), "{shown:?} {log:?}");
    assert!(shown.contains("Removed:"), "{shown:?}");
}
