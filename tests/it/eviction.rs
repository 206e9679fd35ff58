//! The rungs of eviction on a real engine, under real pressure, and what a full disk says.

use std::process::Command;

use lab::{Engine, Image};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{
    RUN, build, cached, change_ledger, create, json_of, ledger, names, once, planned_without_ages, program,
    prune, remember, remember_hours, stdout,
};

/// Images of 6 % of the disk each, as Swarm's pulls leave them: their names by digest and their IDs.
fn large<const N: usize>(engine: &Engine, repositories: [&str; N]) -> [(String, String); N] {
    // The containerd store keeps what it pulled beside what it unpacked.
    let size = if engine.kind.containerd_store() { 60 } else { 120 };
    repositories.map(|repository| {
        let name = cached(engine, &Image::new(repository, "1").size_mib(size));
        let id = engine.image_id(&name);
        (name, id)
    })
}

fn remember_uses(engine: &Engine, images: &[(String, String)], hours: &[i64]) {
    let uses: Vec<_> = images.iter().zip(hours).map(|((_, id), hours)| (id.as_str(), *hours, None)).collect();
    remember_hours(engine, &uses);
}

#[test]
fn each_rung_is_used_only_while_the_disk_is_as_full_as_it_asks_for() {
    let engine = Engine::start();
    let images = large(&engine, ["month", "days", "day", "hours", "now"]);
    remember_uses(&engine, &images, &[30 * 24, 5 * 24, 26, 2, 0]);

    // At 85 the two that were used longest ago bring it below 75.
    engine.fill_to(85);
    let dry = program(&engine).arg("--dry-run").assert().success();
    let text = stdout(&dry);
    assert!(text.contains("while the disk is at or above 75%, in this order:"), "{text}");
    // By the sizes: images of at least 5 % each.
    let json = json_of(&program(&engine).args(["--dry-run", "-o", "json"]).assert().success());
    let projected = json["projected_percent"].as_u64().unwrap();
    assert!((70..80).contains(&projected), "{json}");
    let rungs: Vec<_> = json["plan"]["remove"]
        .as_array()
        .unwrap()
        .iter()
        .map(|removal| removal["reason"]["rung"].as_str())
        .collect();
    assert_eq!(rungs, [Some("target"); 3]);
    let report = prune(&engine, "");
    assert_eq!(
        planned_without_ages(&report),
        planned_without_ages(&json),
        "a run carries out what the dry run showed"
    );
    assert_eq!(names(&report["removed"]), ["month", "days"]);
    let skipped = &report["skipped"][0]["reason"];
    assert_eq!((&skipped["code"], &skipped["limit_percent"]), (&"enough_space".into(), &75.into()));

    // What was used within the last day stays, whatever is missing to the target.
    engine.fill_to(94);
    let report = prune(&engine, "");
    assert_eq!(names(&report["removed"]), ["day"]);

    // The last rung, from 95 on, takes what was used two hours ago, and never what was used within one.
    engine.fill_to(97);
    let report = json_of(&program(&engine).args(["prune", "-o", "json"]).assert());
    assert!(names(&report["removed"]).contains(&"hours".to_owned()), "{report}");
    assert!(engine.has_image(&images[4].0), "{report}");
    let kept = report["plan"]["keep"].as_array().unwrap();
    let now = kept.iter().find(|object| object["id"] == images[4].1.as_str()).unwrap();
    let conditions = now["reason"]["conditions"].as_array().unwrap();
    let ages: Vec<_> =
        conditions.iter().map(|condition| condition["unused_seconds"].as_u64().unwrap()).collect();
    assert_eq!(ages, [86_400, 3_600], "{now}");
}

#[test]
fn a_superseded_image_goes_first_and_what_another_tag_names_is_not_superseded() {
    let engine = Engine::start();
    let name = "127.0.0.1:5000/db";
    // What CI does: deploy db:15, later a new build of db:15, beside db:16.
    let deploy = |tag: &str, seed: &str| {
        engine.publish(&Image::new("db", tag).seed(seed));
        create(&engine, "db", &format!("{name}:{tag}"));
        program(&engine).arg("record").assert().success();
        let id = engine.docker(["ps", "--quiet", "--filter", "name=db"]);
        let id = engine.docker(["container", "inspect", "--format", "{{.Image}}", &id]);
        engine.docker(["service", "rm", "db"]);
        engine.no_container_named("db");
        id
    };
    let [old, other, new] = [("15", "a"), ("16", "b"), ("15", "c")].map(|(tag, seed)| deploy(tag, seed));
    let known = ledger(&engine);
    let by =
        |id: &str| known["images"][id]["references"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(by(&old), [format!("{name}:15")], "{known}");
    assert_eq!((by(&other), by(&new)), (vec![format!("{name}:16")], vec![format!("{name}:15")]));

    // Days later: the replaced one goes first, although another one was used longer ago.
    let tagged = |tag: &str| Some(format!("{name}:{tag}"));
    let (fifteen, sixteen) = (tagged("15"), tagged("16"));
    remember_hours(
        &engine,
        &[(&old, 30, fifteen.as_deref()), (&other, 60, sixteen.as_deref()), (&new, 26, fifteen.as_deref())],
    );
    engine.fill_to(75);
    let report = prune(&engine, "--disk-threshold 75");
    assert_eq!(report["removed"][0]["id"], old.as_str(), "{report}");
    let planned = report["plan"]["remove"].as_array().unwrap();
    let of = |key: &str| planned.iter().map(|removal| removal["reason"][key].clone()).collect::<Vec<_>>();
    assert_eq!(of("code"), ["superseded", "overdue", "overdue"], "{report}");
    assert_eq!(planned[0]["reason"]["expected"]["name_tag"], format!("{name}:15"), "{report}");
}

#[test]
fn what_a_service_may_roll_back_to_stays_although_it_is_superseded() {
    let engine = Engine::start();
    let name = "127.0.0.1:5000/app:1";
    engine.publish(&Image::new("app", "1").seed("a"));
    create(&engine, "app", name);
    program(&engine).arg("record").assert().success();
    let old = ledger(&engine)["images"].as_object().unwrap().keys().next().unwrap().clone();
    engine.publish(&Image::new("app", "1").seed("b"));
    engine.docker(["service", "update", "--quiet", "--detach", "--image", name, "app"]);
    engine.eventually("the update is over", || {
        let format = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}";
        engine.docker(["service", "inspect", "--format", format, "app"]) == "completed"
    });
    engine.docker(["container", "prune", "--force"]);
    program(&engine).arg("record").assert().success();
    engine.fill_to(96);
    let assert =
        program(&engine).args(["prune", "-o", "json", "--older-than", "0s", "--critical-age", "0s"]).assert();
    let report = json_of(&assert);
    assert_eq!(names(&report["removed"]), Vec::<String>::new(), "{report}");
    assert!(engine.has_image(&old), "{report}");
    assert!(report["plan"]["keep"].to_string().contains("may roll back to it"), "{report}");
}

#[test]
fn tagged_images_go_by_consent_and_only_by_name() {
    let engine = Engine::start();
    // One that was pulled, with its digest beside the tag, and one that was built here, with two tags.
    engine.publish(&Image::new("ci/pulled", "c1").size_mib(8));
    let pulled = "127.0.0.1:5000/ci/pulled:c1";
    engine.docker(["pull", "--quiet", pulled]);
    let built = build(&engine, true, "FROM scratch\nCOPY Dockerfile /\nLABEL n=1\n");
    for tag in ["ci/built:c1", "ci/built:latest"] {
        engine.docker(["tag", &built, tag]);
    }
    engine.publish(&Image::new("ci/used", "c1"));
    engine.docker(["run", "--detach", "127.0.0.1:5000/ci/used:c1"]);
    engine.publish(&Image::new("ci/named", "c1"));
    create(&engine, "named", "127.0.0.1:5000/ci/named:c1");
    engine.docker(["service", "scale", "--detach", "named=0"]);
    engine.docker(["pull", "--quiet", "127.0.0.1:5000/ci/named:c1"]);
    engine.load(&Image::new("base", "1"), Some("base:1"));
    engine.docker(["tag", "base:1", "ci/base:1"]);
    engine.eventually("no task is left", || {
        engine.docker(["ps", "--quiet", "--filter", "name=named"]).is_empty()
    });
    let all = [pulled, &built, "127.0.0.1:5000/ci/used:c1", "127.0.0.1:5000/ci/named:c1", "base:1"];
    let ids = all.map(|name| engine.image_id(name));
    remember(&engine, &ids.each_ref().map(|id| (id.as_str(), 30)));
    engine.fill_to(85);

    let report = prune(&engine, "");
    assert_eq!(report["outcome"], "nothing", "without consent: {report}");
    // Each tag must match: `ci/built:latest` does not.
    let report =
        prune(&engine, "--evict-tagged ^127.0.0.1:5000/ci/.*:c[0-9]+$ --evict-tagged ^ci/.*:c[0-9]+$");
    let removed = report["removed"].as_array().unwrap();
    assert_eq!(removed.len(), 1, "{report}");
    assert_eq!(
        (&removed[0]["class"], &removed[0]["names"][0]),
        (&"tagged".into(), &pulled.into()),
        "{report}"
    );
    assert!(!engine.has_image(pulled) && !engine.has_image(&ids[0]), "{report}");
    let report = prune(&engine, "--evict-tagged /ci/ --evict-tagged ^ci/");
    assert!(!engine.has_image(&built), "{report}");
    for name in &all[2..] {
        assert!(engine.has_image(name), "{name}: {report}");
    }
}

#[test]
fn a_tag_that_appears_meanwhile_keeps_a_tagged_image() {
    let engine = Engine::start();
    engine.load(&Image::new("ci", "c1").size_mib(8), Some("ci:c1"));
    let id = engine.image_id("ci:c1");
    remember(&engine, &[(&id, 30)]);
    engine.fill_to(85);
    let proxy = lab::Proxy::before(&engine);
    let mut tag = engine.inside("docker");
    tag.args(["tag", &id, "wanted:1"]);
    let mut tag = once(move || assert!(tag.status().expect("docker").success()));
    proxy.on_request(move |_, line| {
        // Its own tag is there, and its name about to go.
        if line.starts_with("DELETE /images/ci:c1") {
            tag();
        }
        None
    });
    let report = prune(&engine, &format!("--evict-tagged ^ci: --host {}", proxy.url()));
    assert_eq!(names(&report["removed"]), Vec::<String>::new(), "{report}");
    assert!(engine.has_image("wanted:1"), "{report}");
    assert!(engine.has_image("ci:c1"), "its own tag is back: {report}");
    // Nothing was removed by ID, and nothing of ours stays.
    assert!(
        !proxy.writes().iter().any(|request| request.contains(&format!("DELETE /images/{id}"))),
        "{:?}",
        proxy.writes()
    );
    prune(&engine, "");
    assert!(!engine.docker(["image", "ls", "--format", "{{.Repository}}"]).contains("ci-docker-prune"));
}

#[test]
fn pressure_elsewhere_evicts_no_cache() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1").size_mib(8));
    let id = engine.image_id(&name);
    remember(&engine, &[(&id, 30)]);
    engine.docker(["run", "--name", "ended", &name, "true"]);
    engine.docker(["pull", "--quiet", &name]);
    let elsewhere = engine.folder().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=16M", "tmpfs"]).arg(&elsewhere).status();
    assert!(mount.unwrap().success());
    std::fs::write(elsewhere.join("ballast"), vec![0; 15 << 20]).unwrap();
    engine.eventually("the container is a second old", || {
        let words = format!(
            "--older-than 1s --disk-path {} --disk-path {}",
            elsewhere.display(),
            engine.data().display()
        );
        let report = prune_any(&engine, &words);
        assert_eq!(report["gates"][0]["state"], "open", "{report}");
        engine.docker(["ps", "--all", "--quiet", "--filter", "name=ended"]).is_empty()
    });
    remember(&engine, &[(&id, 30)]);
    // Above the target, and below the threshold: no pressure of its own.
    engine.fill_to(75);
    let report = prune_any(&engine, &format!("--disk-path {}", elsewhere.display()));
    assert!(report["plan"]["keep"].to_string().contains("may go from"), "{report}");
    assert!(engine.has_image(&name), "{report}");
}

/// A prune whatever its exit status, which is 10 where the disk stays critical.
fn prune_any(engine: &Engine, words: &str) -> Value {
    json_of(&program(engine).args(["prune", "-o", "json"]).args(words.split_whitespace()).assert())
}

#[test]
fn too_little_space_is_pressure_too() {
    let engine = Engine::start();
    let images = large(&engine, ["old", "older"]);
    remember_uses(&engine, &images, &[10 * 24, 20 * 24]);
    engine.fill_to(50);
    let closed = program(&engine).args(["disk", "--disk-min-free", "500M"]).assert().code(3);
    assert!(stdout(&closed).contains("(>= 500.0 MB), keeping local image cache"), "{}", stdout(&closed));
    let open = program(&engine).args(["disk", "--disk-min-free", "1100M"]).assert().success();
    assert!(stdout(&open).contains("(< 1.1 GB)"), "{}", stdout(&open));
    // One image is enough.
    let report = prune(&engine, "--disk-min-free 1000M");
    assert_eq!(names(&report["removed"]), ["older"], "{report}");
    assert!(report["disk"]["after"]["available_bytes"].as_u64().unwrap() >= 1_000_000_000, "{report}");
    for text in ["20X", "", "lots"] {
        let command = program(&engine).args(["disk", "--disk-min-free", text]).assert().code(2);
        command.stderr(contains("--disk-min-free").and(contains("20G")));
    }
}

/// The size of an image that takes so many MiB: the containerd store keeps what it pulled beside what it unpacked.
fn mib(engine: &Engine, size: usize) -> usize {
    if engine.kind.containerd_store() { size / 2 } else { size }
}

#[test]
fn an_image_that_shares_its_layers_with_what_stays_is_passed_over_and_the_dry_run_tells_the_end() {
    let engine = Engine::start();
    // Six images with the layers of one that has a tag and stays, and two of their own, used later.
    let same = |n: usize| {
        let (n, size) = (n.to_string(), mib(&engine, 60));
        Image::new("same", &n).seed("same").size_mib(size).label("n", &n)
    };
    engine.publish(&same(0));
    engine.docker(["pull", "--quiet", "127.0.0.1:5000/same:0"]);
    let mut by_digest: Vec<String> = (1..=6).map(|n| cached(&engine, &same(n))).collect();
    by_digest.extend(large(&engine, ["own", "later"]).map(|(name, _)| name));
    let ids: Vec<String> = by_digest.iter().map(|name| engine.image_id(name)).collect();
    let ages = [40, 39, 38, 37, 36, 35, 30, 20];
    remember(&engine, &ids.iter().map(String::as_str).zip(ages).collect::<Vec<_>>());
    engine.fill_to(85);
    let dry = program(&engine).arg("--dry-run").assert().success();
    let json = json_of(&program(&engine).args(["--dry-run", "-o", "json"]).assert().success());
    assert!(stdout(&dry).contains(", and would end at ") && !stdout(&dry).contains("at best"));
    let report = prune(&engine, "");
    assert_eq!(names(&report["removed"]), ["own", "later"], "{report}");
    let after = report["disk"]["after"]["used_percent"].as_u64().unwrap();
    assert!(json["projected_percent"].as_u64().unwrap().abs_diff(after) <= 1, "{json} {report}");
    // As the engine's disk tells it.
    let frees: u64 = report["removed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| object["frees_bytes"].as_u64().unwrap())
        .sum();
    let reclaimed = report["reclaimed_bytes"].as_u64().unwrap();
    assert!(reclaimed.abs_diff(frees) < frees / 20, "{frees} and {reclaimed}: {report}");
    let kept = report["plan"]["keep"].as_array().unwrap();
    let shared = kept.iter().filter(|object| object["reason"]["code"] == "cached_frees_nothing");
    assert_eq!(shared.count(), 6, "{report}");
    // Each image is asked about once.
    let proxy = lab::Proxy::before(&engine);
    engine.fill_to(85);
    prune(&engine, &format!("--host {}", proxy.url()));
    assert!(!proxy.requests().iter().any(|request| request.contains("/history")), "{:?}", proxy.requests());
}

#[test]
fn evictions_that_free_nothing_end_after_two_batches_and_are_tried_again_on_a_fuller_disk() {
    let engine = Engine::start_with(lab::Options { size_mib: 1024, ..lab::Options::default() });
    let size = mib(&engine, 50);
    let by_digest: Vec<String> =
        (1..=5).map(|n| cached(&engine, &Image::new("held", &n.to_string()).size_mib(size))).collect();
    let ids: Vec<String> = by_digest.iter().map(|name| engine.image_id(name)).collect();
    remember(&engine, &ids.iter().zip(30..).map(|(id, days)| (id.as_str(), days)).collect::<Vec<_>>());
    // Snapshots keep what is removed, as do processes that have it open.
    let mut held = Vec::new();
    hold(&engine.data(), &mut held);
    engine.fill_to(82);
    // One image would be enough for each batch.
    let words = "--disk-target 79";
    let report = prune(&engine, words);
    assert_eq!(report["removed"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["freed_nothing"]["images"], 2, "{report}");
    assert_eq!(report["skipped"][0]["reason"]["code"], "freed_nothing", "{report}");
    // Not again at once, but for everything else.
    engine.docker(["run", "--name", "ended", &by_digest[0], "true"]);
    engine.docker(["rm", "ended"]);
    engine.docker(["create", "--name", "ended", &by_digest[0]]);
    engine.eventually("the container is a second old", || {
        let report = prune(&engine, "--disk-target 79 --older-than 1s");
        assert!(report["plan"]["keep"].to_string().contains("eviction_useless"), "{report}");
        !engine.container_names().contains(&"ended".to_owned())
    });
    // A point further, and with the space given back.
    let full = engine.df_percent();
    held.clear();
    // A process that another test's thread just starts has them open until it is another program.
    engine.eventually("the space comes back", || engine.df_percent() + 8 <= full);
    engine.fill_to(84);
    let report = prune(&engine, words);
    assert!(!report["removed"].as_array().unwrap().is_empty(), "{report}");
    assert!(report["freed_nothing"].is_null(), "{report}");
}

/// Open all large files below a folder.
fn hold(folder: &std::path::Path, held: &mut Vec<std::fs::File>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            hold(&entry.path(), held);
        } else if metadata.is_file() && metadata.len() > 1 << 20 {
            held.extend(std::fs::File::open(entry.path()));
        }
    }
}

/// `ci/app:main` and `ci/app:also`, of an image that no registry has, on a disk under pressure: its ID.
fn commit(engine: &Engine) -> String {
    engine.load(&Image::new("ci/app", "main").size_mib(8), Some("ci/app:main"));
    engine.docker(["tag", "ci/app:main", "ci/app:also"]);
    engine.load(&Image::new("newer", "x"), Some("newer:x"));
    let id = engine.image_id("ci/app:main");
    remember(engine, &[(&id, 30)]);
    engine.fill_to(85);
    id
}

const CONSENT: &str = "--evict-tagged ^ci/app:";

#[test]
fn a_tag_that_a_newer_image_has_meanwhile_is_not_taken_from_it() {
    let engine = Engine::start();
    let id = commit(&engine);
    let proxy = lab::Proxy::before(&engine);
    let mut tag = engine.inside("docker");
    tag.args(["tag", "newer:x", "ci/app:main"]);
    let mut tag = once(move || assert!(tag.status().expect("docker").success()));
    proxy.on_request(move |_, line| {
        if !line.starts_with("DELETE /images/ci-docker-prune.invalid") {
            return None;
        }
        // Its names are off: a build takes one, and then the engine fails.
        tag();
        Some(lab::Fault::Status(500))
    });
    let words = format!("{CONSENT} --host {}", proxy.url());
    let report = prune_any(&engine, &words);
    assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(engine.image_id("ci/app:main"), engine.image_id("newer:x"), "{report}");
    assert_eq!(engine.image_id("ci/app:also"), id, "the name that nobody took is back: {report}");
}

#[test]
fn a_tag_that_moves_before_its_turn_is_not_taken_off_the_newer_image() {
    let engine = Engine::start();
    let id = commit(&engine);
    engine.docker(["rmi", "ci/app:also"]);
    engine.docker(["tag", "newer:x", "ci/app:other"]);
    engine.docker(["rmi", "newer:x"]);
    let newer = engine.image_id("ci/app:other");
    let proxy = lab::Proxy::before(&engine);
    let mut build = engine.inside("sh");
    // The newer image has no other name.
    build.args(["-c", "docker tag ci/app:other ci/app:main && docker rmi ci/app:other"]);
    let mut build = once(move || assert!(build.status().expect("docker").success()));
    proxy.on_request(move |_, line| {
        if line.starts_with("POST /images/") {
            build();
        }
        None
    });
    let report = prune_any(&engine, &format!("{CONSENT} --host {}", proxy.url()));
    assert_eq!(engine.image_id("ci/app:main"), newer, "{report}");
    assert!(!engine.has_image(&id), "what lost its name to it goes: {report}");
}

#[test]
fn after_a_kill_in_an_eviction_the_tags_come_back_or_the_image_goes() {
    let engine = Engine::start();
    for consent in [false, true] {
        let id = commit(&engine);
        let mut prune_under_way = crate::support::standard(&program(&engine));
        let mut child =
            prune_under_way.arg("prune").args(CONSENT.split(' ')).spawn().expect("start the program");
        let lost = || !engine.has_image("ci/app:main") && !engine.has_image("ci/app:also");
        engine.eventually("its names are off", lost);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(engine.has_image(&id));
        let evicting = &ledger(&engine)["evicting"][&id];
        assert!(evicting.to_string().contains("ci/app:main"), "{evicting}");
        // On a disk that needs no prune any more.
        engine.fill_to(50);
        prune_any(&engine, if consent { CONSENT } else { "" });
        let there = [engine.has_image("ci/app:main"), engine.has_image("ci/app:also"), engine.has_image(&id)];
        assert_eq!(there, [!consent; 3], "with consent it is finished, without it is undone");
        assert!(!engine.docker(["image", "ls", "--format", "{{.Repository}}"]).contains("ci-docker-prune"));
        assert!(ledger(&engine)["evicting"].is_null(), "{}", ledger(&engine));
    }
}

#[test]
fn an_image_that_others_were_built_from_keeps_its_name() {
    let engine = Engine::start();
    let id = commit(&engine);
    // The classic builder makes a child of it.
    build(&engine, false, "FROM ci/app:main\nLABEL a=b\n");
    // The builder ran a container of it.
    remember(&engine, &[(&id, 30)]);
    let report = prune(&engine, CONSENT);
    let kept = report["plan"]["keep"].as_array().unwrap();
    let base = kept.iter().find(|object| object["id"] == id.as_str()).unwrap();
    assert_eq!(base["reason"]["code"], "cached_frees_nothing", "{report}");
    assert!(engine.has_image("ci/app:main") && engine.has_image("ci/app:also"), "{report}");
}

#[test]
fn on_a_disk_without_a_free_byte_the_reserve_lets_evictions_begin() {
    let engine = Engine::start_with(lab::Options { size_mib: 512, ..lab::Options::default() });
    let size = mib(&engine, 46);
    let image = |name: &str| cached(&engine, &Image::new(name, "1").size_mib(size));
    let by_digest = ["a", "b", "c", "d", "e"].map(image);
    let ids: Vec<String> = by_digest.iter().map(|name| engine.image_id(name)).collect();
    // The state directory lies on the engine's disk, as on most hosts.
    let state = engine.data().join("state");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::symlink(&state, engine.folder().join("state")).unwrap();
    remember(&engine, &ids.iter().map(|id| (id.as_str(), 30)).collect::<Vec<_>>());
    // Below its target a prune keeps the reserve.
    engine.fill_to(85);
    prune(&engine, "--disk-threshold 84 --disk-target 83");
    assert!(state.join("reserve").exists());
    let left = by_digest.iter().filter(|name| engine.has_image(name)).count();
    assert!((2..5).contains(&left), "{left}");
    engine.fill_up();
    let report = prune_any(&engine, "");
    assert!(report["failed"].as_array().unwrap().is_empty(), "{report}");
    assert!(report["disk"]["after"]["used_percent"].as_u64().unwrap() < 75, "below the target: {report}");
    assert!(state.join("reserve").exists(), "and it is kept again");
    let before = report["disk"]["before"]["available_bytes"].as_u64().unwrap();
    assert_eq!(before, 0, "{report}");
}

#[test]
fn on_a_disk_without_a_free_byte_and_without_a_reserve_the_run_stops_and_says_what_frees_space() {
    let engine = Engine::start_with(lab::Options { size_mib: 512, ..lab::Options::default() });
    let size = mib(&engine, 30);
    let by_digest = ["a", "b", "c"].map(|name| cached(&engine, &Image::new(name, "1").size_mib(size)));
    let nameless = Image::new("nameless", "1");
    engine.load(&nameless, None);
    let ids: Vec<String> = by_digest.iter().map(|name| engine.image_id(name)).collect();
    let mut uses: Vec<_> = ids.iter().map(|id| (id.as_str(), 30)).collect();
    remember(&engine, &uses);
    engine.fill_up();
    if engine.kind.containerd_store() {
        // Its database has room inside: nothing fails.
        let report = prune_any(&engine, "");
        assert_eq!(names(&report["removed"]).len(), 3, "{report}");
        return;
    }
    let report = prune_any(&engine, "");
    assert_eq!(report["stopped"]["code"], "no_space", "{report}");
    assert_eq!(report["failed"].as_array().unwrap().len(), 1, "one, and not image after image: {report}");
    assert_eq!(report["skipped"].as_array().unwrap().len(), 2, "{report}");
    assert!(by_digest.iter().all(|name| engine.has_image(name)), "{report}");
    // A dangling image goes first, by its ID, and what it frees is enough for the others.
    let nameless = engine.id_of(&nameless);
    uses.push((&nameless, 30));
    remember(&engine, &uses);
    // It never had a name.
    change_ledger(&engine, |ledger| ledger["images"][&nameless]["named"] = false.into());
    engine.fill_up();
    let report = prune_any(&engine, "");
    assert_eq!(report["removed"][0]["id"], nameless.as_str(), "{report}");
    assert_eq!(names(&report["removed"]).len(), 4, "{report}");
}

#[test]
fn a_full_disk_says_why_a_run_hangs_what_holds_the_space_and_how_to_free_more() {
    let engine = Engine::start();
    let [(name, id)] = large(&engine, ["large"]);
    remember_hours(&engine, &[(&id, 2, Some("127.0.0.1:5000/large:1"))]);
    engine.publish(&Image::new("wanted", "1").size_mib(64));
    engine.fill_to(100);
    // A run that finds no space for its image.
    let service = format!("{RUN}_app");
    let label = format!("com.docker.stack.namespace={RUN}");
    engine.docker([
        "service",
        "create",
        "--quiet",
        "--detach",
        "--restart-delay",
        "1s",
        "--label",
        &label,
        "--name",
        &service,
        "127.0.0.1:5000/wanted:1",
    ]);
    engine.eventually("its task was rejected", || {
        engine.docker(["service", "ps", "--format", "{{.CurrentState}}", &service]).contains("Rejected")
    });
    let gates = stdout(&program(&engine).arg("check-gates").assert().code(3));
    for part in ["is at 100%", "\"No such image\"", &format!("docker stack rm {RUN}")] {
        assert!(gates.contains(part), "{part}: {gates}");
    }
    let assert = program(&engine).arg("prune").assert().code(10);
    let text = stdout(&assert);
    for part in ["Largest consumers", "docker stack rm"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Without the run: the policy keeps the image, and the text says which command would not.
    engine.docker(["service", "rm", &service]);
    engine.eventually("nothing is left of the run", || {
        program(&engine).args(["check-gates", "-o", "json"]).assert().get_output().status.code() == Some(0)
    });
    let text = stdout(&program(&engine).args(["prune", "--critical-age", "6h"]).assert().code(10));
    for part in [
        "ci-docker-prune prune --older-than 1h: 1 cached image more, at most ",
        "127.0.0.1:5000/large:1 (",
        "2h",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    prune_any(&engine, "--older-than 1h");
    assert!(!engine.has_image(&name));
}
