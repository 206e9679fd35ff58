//! What is in use, or wanted again, stays: what containers mount, and containers that are no finished jobs.

use lab::{Engine, Image, Kind};
use serde_json::Value;

use crate::support::{APP, RUN, build, json_of, ledger, program, prune, remember};

fn engine() -> Engine {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine
}

/// Prune what is a second old, until this container is gone that nothing keeps.
#[track_caller]
fn prune_until_gone(engine: &Engine, name: &str) -> Value {
    engine.eventually("it is a second old, and gone", || {
        prune(engine, "--older-than 1s");
        !engine.container_names().contains(&name.to_owned())
    });
    prune(engine, "--older-than 0s")
}

/// The reason why this container stays.
#[track_caller]
fn kept<'a>(report: &'a Value, name: &str) -> &'a Value {
    let kept = report["plan"]["keep"].as_array().unwrap().iter().find(|kept| kept["names"][0] == name);
    &kept.unwrap_or_else(|| panic!("{name} in {report}"))["reason"]
}

/// Image mounts are new in API 1.48.
fn mounts_images() -> bool {
    matches!(Kind::from_env(), Kind::Testing | Kind::TestingContainerd)
}

#[test]
fn images_that_containers_mount_stay_with_their_names() {
    if !mounts_images() {
        return;
    }
    let engine = engine();
    engine.docker(["pull", "--quiet", APP]);
    let dangling = ["a", "b", "free"]
        .map(|seed| build(&engine, true, &format!("FROM scratch\nCOPY Dockerfile /\nLABEL seed={seed}\n")));
    let cached = ["one", "two", "idle"].map(|name| {
        let digest = engine.publish(&Image::new(name, "1"));
        let name = format!("127.0.0.1:5000/{name}@{digest}");
        engine.docker(["pull", "--quiet", &name]);
        name
    });
    let mount = |image: &str, words: &[&str]| {
        let mount = format!("type=image,source={image},target=/mounted");
        let (options, command) =
            words.split_at(words.iter().take_while(|word| word.starts_with("--")).count());
        let mut arguments = vec!["run", "--quiet", "--mount", &mount, "--label", "ci-docker-prune.keep"];
        arguments.extend(options);
        arguments.push(APP);
        arguments.extend(command);
        engine.docker(arguments);
    };
    mount(&dangling[0], &["--detach"]);
    mount(&cached[0], &["--detach"]);
    // By the beginning of its ID, as people type it.
    mount(&dangling[1].trim_start_matches("sha256:")[..12], &["true"]);
    mount(&cached[1], &["true"]);
    let ids: Vec<String> = cached.iter().map(|name| engine.image_id(name)).collect();
    let days: Vec<(&str, i64)> = ids.iter().chain(&dangling).map(|id| (id.as_str(), 90)).collect();
    remember(&engine, &days);
    engine.fill_to(85);

    let report = prune(&engine, "--older-than 0s");
    let removed = report["removed"].as_array().unwrap().iter().filter(|removed| removed["kind"] == "image");
    assert_eq!(removed.count(), 2, "{report}");
    for id in ids[..2].iter().chain(&dangling[..2]) {
        assert!(engine.has_image(id), "{id}: {report}");
        // A mount is a use.
        let entry = &ledger(&engine)["images"][id];
        assert!(entry["last_used"].as_str() > entry["first_seen"].as_str(), "{entry}");
    }
    assert!(!engine.has_image(&ids[2]) && !engine.has_image(&dangling[2]), "{report}");
    for name in &cached[..2] {
        engine.docker(["image", "inspect", name]);
    }
    let text = report["plan"]["keep"].to_string();
    assert_eq!(text.matches("used_by_container").count(), 5, "{text}");
}

/// Between the plan and the order.
#[test]
fn an_image_that_a_container_mounts_at_the_last_moment_stays() {
    if !mounts_images() {
        return;
    }
    let engine = engine();
    engine.docker(["pull", "--quiet", APP]);
    let dangling = build(&engine, true, "FROM scratch\nCOPY Dockerfile /\n");
    engine.fill_to(85);
    let proxy = lab::Proxy::before(&engine);
    let mount = format!("type=image,source={dangling},target=/mounted");
    let mut run = engine.inside("docker");
    run.args(["run", "--quiet", "--detach", "--mount", &mount, APP]);
    let mut asked = 0;
    proxy.on_request(move |_, line| {
        asked += usize::from(line.starts_with("GET /services"));
        if asked == 2 {
            asked += 1;
            assert!(run.status().unwrap().success());
        }
        None
    });
    let mut command = program(&engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--host", &proxy.url()]);
    let report = json_of(&command.assert().success());
    assert!(engine.has_image(&dangling), "{report}");
    assert!(report["skipped"].to_string().contains("\"in_use\""), "{report}");
}

#[test]
fn an_ended_container_that_the_engine_starts_again_stays() {
    let engine = engine();
    for (name, policy) in [("forever", "always"), ("until", "unless-stopped"), ("job", "on-failure")] {
        engine.docker(["run", "--detach", "--name", name, "--restart", policy, APP]);
        engine.docker(["kill", name]);
    }
    engine.docker(["create", "--name", "created", "--restart", "always", APP]);
    engine.fill_to(85);
    let report = prune_until_gone(&engine, "job");
    for (name, policy) in [("forever", "always"), ("until", "unless-stopped"), ("created", "always")] {
        let reason = kept(&report, name);
        assert_eq!((&reason["code"], &reason["policy"]), (&"restart_policy".into(), &policy.into()));
    }
}

#[test]
fn the_container_of_a_builder_stays_with_its_volume() {
    let engine = engine();
    let name = "buildx_buildkit_ci0";
    let volume = format!("{name}_state:/var/lib/buildkit");
    engine.docker(["run", "--name", name, "--volume", &volume, APP, "true"]);
    engine.docker(["run", "--name", "other", "--volume", &volume, APP, "true"]);
    engine.fill_to(85);
    let report = prune_until_gone(&engine, "other");
    let reason = kept(&report, name);
    assert_eq!((&reason["code"], &reason["builder"]), (&"buildkit_builder".into(), &"ci".into()));
}

#[test]
fn a_container_of_a_compose_project_stays_unless_that_is_a_run_with_nothing_live() {
    let engine = engine();
    let run = |name: &str, project: &str, by_compose: bool| {
        let project = format!("com.docker.compose.project={project}");
        let mut arguments = vec!["run", "--name", name, "--label", &project];
        if by_compose {
            arguments.extend(["--label", "com.docker.compose.config-hash=01"]);
        }
        arguments.extend([APP, "true"]);
        engine.docker(arguments);
    };
    run("stopped", "shop", true);
    run("ended", RUN, true);
    // Of an image that Compose built.
    run("built", "shop", false);
    engine.fill_to(85);
    prune_until_gone(&engine, "ended");
    let report = prune_until_gone(&engine, "built");
    let reason = kept(&report, "stopped");
    assert_eq!((&reason["code"], &reason["project"]), (&"compose_project".into(), &"shop".into()));
}
