//! What ends a prune in the middle, and what does not.

use std::process::{Command, Stdio};
use std::sync::mpsc;

use lab::{Engine, Fault, Image, Proxy};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{
    APP, RUN, build, codes, dangling, eight_dangling_images, json_of, ledger, left, names, once, program,
    prune, remember, standard, stdout,
};

/// Three cached images that are to go, oldest first, under pressure.
fn scene() -> (Engine, Proxy, Vec<(String, String)>) {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["pull", "--quiet", APP]);
    let cached: Vec<(String, String)> = ["one", "two", "three"]
        .map(|name| {
            let digest = engine.publish(&Image::new(name, "1"));
            let name = format!("127.0.0.1:5000/{name}@{digest}");
            engine.docker(["pull", "--quiet", &name]);
            let id = engine.image_id(&name);
            (name, id)
        })
        .into();
    let days: Vec<(&str, i64)> =
        cached.iter().zip([40, 30, 20]).map(|((_, id), d)| (id.as_str(), d)).collect();
    remember(&engine, &days);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    (engine, proxy, cached)
}

/// A prune during which this is done once, before the first image loses its name.
fn meanwhile(
    engine: &Engine,
    proxy: &Proxy,
    act: impl FnOnce() + Send + 'static,
) -> assert_cmd::assert::Assert {
    let mut act = once(act);
    proxy.on_request(move |_, line| {
        if line.starts_with("DELETE /images/127.0.0.1") {
            act();
        }
        None
    });
    program(engine).args(["prune", "-o", "json", "--host", &proxy.url()]).assert()
}

fn docker(engine: &Engine, arguments: &[&str]) -> impl FnOnce() + Send + 'static + use<> {
    let mut command = engine.inside("docker");
    command.args(arguments).stdout(Stdio::null());
    move || assert!(command.status().expect("docker").success())
}

#[test]
fn a_foreign_container_makes_it_ask_again_and_go_on() {
    let (engine, proxy, cached) = scene();
    let assert = meanwhile(&engine, &proxy, docker(&engine, &["run", "--detach", "--name", "cron", APP]));
    let report = json_of(&assert.success());
    assert_eq!(report["outcome"], "pruned", "{report}");
    assert!(cached.iter().all(|(_, id)| !engine.has_image(id)), "{report}");
    // Asked for the plan, for the kind, and because of the container; and after the moment.
    let asked = proxy.requests().iter().filter(|request| request.starts_with("GET /services")).count();
    assert!(asked >= 4, "{asked}");
}

#[test]
fn a_foreign_pull_makes_it_ask_again_and_go_on() {
    let (engine, proxy, cached) = scene();
    let report = json_of(&meanwhile(&engine, &proxy, docker(&engine, &["pull", "--quiet", APP])).success());
    assert_eq!(report["outcome"], "pruned", "{report}");
    assert!(cached.iter().all(|(_, id)| !engine.has_image(id)), "{report}");
    let requests = proxy.requests();
    let order = requests.iter().position(|request| request.starts_with("DELETE /images/127.0.0.1")).unwrap();
    let after = |is: fn(&str) -> bool| requests[order + 1..].iter().position(|request| is(request)).unwrap();
    let (asked, next) =
        (after(|line| line.starts_with("GET /services")), after(|line| !line.starts_with("GET ")));
    assert!(asked < next, "{requests:?}");
}

#[test]
fn a_container_of_an_image_that_is_to_go_keeps_it() {
    let (engine, proxy, cached) = scene();
    // The first has lost its name already; the second is still to lose it.
    let (second, id) = cached[1].clone();
    let act = docker(&engine, &["run", "--detach", "--name", "late", &second]);
    let report = json_of(&meanwhile(&engine, &proxy, act).success());
    assert!(engine.has_image(&id), "{report}");
    assert!(engine.has_image(&second), "its name: {report}");
    assert_eq!(names(&report["removed"]), ["one", "three"], "{report}");
    assert_eq!(codes(&report["skipped"]), ["in_use"], "{report}");
}

#[test]
fn what_may_be_a_deploy_stops_it_and_leaves_the_layers() {
    let cases: [(&[&str], &str); 3] = [
        (&["service", "create", "--quiet", "--detach", "--name", "new", APP], "service_created"),
        (&["service", "update", "--quiet", "--detach", "--replicas", "2", "there"], "service_updated"),
        (&["run", "--detach", "--name", RUN, APP], "run_began"),
    ];
    for (act, why) in cases {
        let (engine, proxy, cached) = scene();
        engine.docker(["service", "create", "--quiet", "--detach", "--name", "there", APP]);
        engine.converged();
        let report = json_of(&meanwhile(&engine, &proxy, docker(&engine, act)).success());
        assert_eq!(report["outcome"], "stopped", "{why}: {report}");
        assert_eq!(report["stopped"]["code"], why, "{report}");
        assert!(cached.iter().all(|(_, id)| engine.has_image(id)), "{why}: {report}");
        // A deploy of the image that had just lost its name downloads nothing.
        let before = engine.blobs_sent();
        engine.docker(["pull", "--quiet", &cached[0].0]);
        assert_eq!(engine.blobs_sent(), before, "{why}");
        // The next run takes our tag off again.
        engine.docker(["service", "rm", "there"]);
        engine.docker_output(&["service", "rm", "new"], None);
        engine.docker_output(&["rm", "--force", RUN], None);
        engine.eventually("nothing converges", || {
            let report = prune(&engine, "--older-than 60d");
            report["outcome"] == "nothing"
        });
        assert!(
            !engine.docker(["image", "ls", "--format", "{{.Repository}}"]).contains("ci-docker-prune"),
            "{why}"
        );
        assert!(cached.iter().all(|(_, id)| engine.has_image(id)), "{why}");
    }
}

/// A prune of everything, during which this is done while the gates are asked for the first time after this request.
fn after(
    engine: &Engine,
    proxy: &Proxy,
    request: &'static str,
    act: impl FnOnce() + Send + 'static,
) -> Value {
    let mut act = once(act);
    let mut planned = false;
    proxy.on_request(move |_, line| {
        planned |= line.starts_with(request);
        if planned && line.starts_with("GET /services") {
            act();
        }
        None
    });
    let arguments = ["prune", "-o", "json", "--older-than", "0s", "--host", &proxy.url()];
    json_of(&program(engine).args(arguments).assert().success())
}

#[test]
fn a_dangling_image_that_gets_a_name_at_the_last_moment_stays() {
    let engine = Engine::start();
    let [dangling] = dangling(&engine);
    engine.fill_to(85);
    let proxy = Proxy::before(&engine);
    let report = after(&engine, &proxy, "GET /images/json", docker(&engine, &["tag", &dangling, "wanted:1"]));
    assert!(engine.has_image("wanted:1"), "{report}");
    assert_eq!(codes(&report["skipped"]), ["renamed"], "{report}");
}

#[test]
fn a_cached_image_that_gets_a_tag_or_is_pulled_after_the_plan_keeps_its_names() {
    for (act, why) in [("tag", "renamed"), ("pull", "in_use")] {
        let (engine, proxy, cached) = scene();
        let (name, id) = cached[0].clone();
        let words = if act == "tag" { vec!["tag", &id, "wanted:1"] } else { vec!["pull", "--quiet", &name] };
        let report = after(&engine, &proxy, "GET /images/json", docker(&engine, &words));
        assert!(engine.has_image(&name), "{report}");
        assert!(act == "pull" || engine.has_image("wanted:1"), "{report}");
        let skipped = report["skipped"].as_array().unwrap();
        let reason =
            skipped.iter().find(|object| object["id"] == id.as_str()).map(|object| &object["reason"]);
        assert_eq!(reason.unwrap()["code"], why, "{report}");
    }
}

fn orders(proxy: &Proxy) -> usize {
    proxy.writes().iter().filter(|request| request.starts_with("DELETE /images/")).count()
}

/// A prune of all dangling images.
fn prune_dangling_images(engine: &Engine, proxy: &Proxy) -> Value {
    let mut command = program(engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--timeout", "5s", "--removal-timeout", "5s"]);
    let report = json_of(&command.args(["--host", &proxy.url()]).assert());
    // Each object that was to go is accounted for once.
    let told = ["removed", "skipped", "failed"].map(|list| report[list].as_array().unwrap().len());
    assert_eq!(told.iter().sum::<usize>(), report["plan"]["remove"].as_array().unwrap().len(), "{report}");
    report
}

#[test]
fn a_deploy_meets_only_the_orders_that_are_in_flight() {
    let (engine, proxy, dangling) = eight_dangling_images();
    let deploy = docker(&engine, &["service", "create", "--quiet", "--detach", "--name", "new", APP]);
    let mut deploy = once(deploy);
    proxy.on_request(move |_, line| {
        if line.starts_with("DELETE /images/") {
            deploy();
        }
        None
    });
    let report = prune_dangling_images(&engine, &proxy);
    assert_eq!(report["outcome"], "stopped", "{report}");
    let removed =
        report["removed"].as_array().unwrap().iter().filter(|object| object["kind"] == "image").count();
    assert!((1..=3).contains(&removed), "{report}");
    assert_eq!(orders(&proxy), removed, "{report}");
    assert_eq!(left(&engine, &dangling), 8 - removed);
}

#[test]
fn an_order_for_a_dangling_image_that_is_never_answered_ends_the_run() {
    let (engine, proxy, dangling) = eight_dangling_images();
    let mut hung = false;
    proxy.on_request(move |_, line| {
        let first = !hung && line.starts_with("DELETE /images/");
        hung |= first;
        first.then_some(Fault::Hang)
    });
    let report = prune_dangling_images(&engine, &proxy);
    assert_eq!(report["outcome"], "failed", "{report}");
    assert_eq!(codes(&report["failed"]), ["timed_out"], "{report}");
    assert_eq!(report["stopped"]["code"], "not_available", "{report}");
    // The others in flight are carried out, and told.
    let beside = orders(&proxy) - 1;
    assert!(beside >= 2, "{report}");
    assert_eq!(left(&engine, &dangling), 8 - beside);
}

#[test]
fn after_an_order_for_a_dangling_image_that_fails_the_gates_are_asked_again() {
    let (engine, proxy, dangling) = eight_dangling_images();
    let mut failed = false;
    proxy.on_request(move |_, line| {
        let first = !failed && line.starts_with("DELETE /images/");
        failed |= first;
        first.then_some(Fault::Status(500))
    });
    let report = prune_dangling_images(&engine, &proxy);
    assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(left(&engine, &dangling), 1, "{report}");
    // Before the last of them at the latest; that none is ordered between, the core shows.
    let requests = proxy.requests();
    let is_order = |request: &String| request.starts_with("DELETE /images/");
    let (first, last) =
        (requests.iter().position(is_order).unwrap(), requests.iter().rposition(is_order).unwrap());
    let asked = requests[first..last].iter().filter(|request| request.starts_with("GET /services")).count();
    assert_eq!(asked, 1, "{requests:?}");
}

#[test]
fn three_orders_are_in_flight_and_no_more() {
    const ANSWER: std::time::Duration = std::time::Duration::from_millis(700);
    let (engine, proxy, dangling) = eight_dangling_images();
    let (tell, told) = mpsc::channel();
    proxy.on_request(move |_, line| {
        let is_order = line.starts_with("DELETE /images/");
        is_order.then(|| {
            tell.send(std::time::Instant::now()).unwrap();
            Fault::Delay(u64::try_from(ANSWER.as_millis()).unwrap())
        })
    });
    prune_dangling_images(&engine, &proxy);
    assert_eq!(left(&engine, &dangling), 0);
    drop(proxy);
    let given: Vec<_> = told.try_iter().collect();
    assert_eq!(given.len(), 8);
    // The fourth waits for the answer to one of the first three, and so on.
    for three in given.windows(4) {
        assert!(three[3] - three[0] >= ANSWER, "{:?}", three[3] - three[0]);
    }
}

#[test]
fn dangling_images_with_a_parent_in_common_all_go_and_none_fails() {
    let engine = Engine::start();
    for round in 0..4 {
        let mut with_parent = 0;
        for n in 0..6 {
            let id = build(&engine, false, &format!("FROM scratch\nENV round={round}\nLABEL n={n}\n"));
            let parent = engine.docker(["image", "inspect", "--format", "{{.Parent}}", &id]);
            with_parent += usize::from(!parent.is_empty());
        }
        engine.fill_to(85);
        let report = prune(&engine, "--older-than 0s");
        assert_eq!(report["outcome"], "pruned", "{report}");
        assert_eq!(report["removed"].as_array().unwrap().len(), 6, "{report}");
        assert_eq!(engine.docker(["image", "ls", "--all", "--quiet"]), "");
        // Not every containerd store tells parents.
        let told = report["plan"].to_string().matches("with it at most 1 untagged parent").count();
        assert_eq!(told, with_parent, "{report}");
    }
}

/// A tag of an interrupted eviction comes off an image that has its names back, before anything else.
#[test]
fn a_tag_of_our_own_that_does_not_come_off_ends_the_run() {
    let (engine, proxy, dangling) = eight_dangling_images();
    engine.docker(["pull", "--quiet", "127.0.0.1:5000/app:1"]);
    let id = engine.image_id("127.0.0.1:5000/app:1");
    let own = format!("ci-docker-prune.invalid/evicting:{}", id.trim_start_matches("sha256:"));
    engine.docker(["tag", &id, &own]);
    proxy
        .on_request(|_, line| line.contains("DELETE /images/ci-docker-prune.invalid").then_some(Fault::Hang));
    let mut command = program(&engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--timeout", "3s", "--removal-timeout", "3s"]);
    let report = json_of(&command.args(["--host", &proxy.url()]).assert().code(1));
    assert_eq!(report["stopped"]["code"], "not_available", "{report}");
    assert_eq!(left(&engine, &dangling), 8, "{report}");
}

#[test]
fn a_container_that_ran_again_stays() {
    let (engine, proxy, _) = scene();
    engine.docker(["run", "--name", "again", APP, "true"]);
    let report = after(&engine, &proxy, "GET /system/df", docker(&engine, &["start", "--attach", "again"]));
    assert!(report["skipped"].to_string().contains("it ran again"), "{report}");
    assert!(engine.docker(["ps", "--all", "--format", "{{.Names}}"]).contains("again"));
}

#[test]
fn signals_end_it_after_the_removal_in_flight_with_a_report() {
    for name in ["TERM", "INT"] {
        let (engine, proxy, cached) = scene();
        let (tell, told) = mpsc::channel::<u32>();
        proxy.on_request(move |_, line| {
            if line.starts_with("DELETE /images/127.0.0.1") {
                let pid = told.recv().unwrap_or_default();
                if pid != 0 {
                    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
                    assert!(status.unwrap().success());
                }
            }
            None
        });
        let mut command = standard(&program(&engine));
        command.args(["prune", "-o", "json", "--host", &proxy.url()]).stdout(Stdio::piped());
        // A shell lets its background jobs ignore SIGINT, and so would the program.
        let child = lab::engine::with_default_signals(&mut command).spawn().unwrap();
        tell.send(child.id()).unwrap();
        drop(tell);
        let output = child.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{report}");
        assert_eq!(report["stopped"]["code"], "signal");
        assert!(cached.iter().all(|(_, id)| engine.has_image(id)));
        assert_eq!(ledger(&engine)["schema"], 1);
        // The lock is free, and the next run finishes what was begun.
        assert_eq!(prune(&engine, "")["outcome"], "pruned");
        assert!(cached.iter().all(|(_, id)| !engine.has_image(id)));
    }
}

#[test]
fn pressure_that_no_prune_may_relieve_is_remembered_and_said() {
    let (engine, _, _) = scene();
    engine.docker(["run", "--detach", "--name", RUN, APP]);
    for n in 1..=3 {
        let report = prune(&engine, "");
        assert_eq!(report["outcome"], "blocked");
        assert_eq!(report["pressure"]["blocked"]["runs"], n);
    }
    // Let it have lasted.
    let text = std::fs::read_to_string(crate::support::ledger_path(&engine)).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let mut last_for = |hours| {
        let since = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours)).to_string();
        value["pressure"]["since"] = since.clone().into();
        value["pressure"]["owed_since"] = since.into();
        std::fs::write(crate::support::ledger_path(&engine), value.to_string()).unwrap();
    };
    last_for(70);
    let line = "at or above 80% for 70h, prunes blocked: 4 by runs";
    let assert = program(&engine).arg("prune").assert().success().stdout(contains(line));
    let once = stdout(&assert).matches(RUN).count();
    assert_eq!(once, 1, "a reason is told once: {}", stdout(&assert));
    last_for(73);
    let line = "at or above 80% for 3d, prunes blocked: 4 by runs";
    let error = format!("no prune could be carried out for 3d: the disk is {line}");
    program(&engine)
        .arg("prune")
        .assert()
        .code(10)
        .stdout(contains(line))
        .stderr(contains(&error).and(contains("manual intervention required")));
    // From the critical percentage on, whoever blocks it, and whenever.
    last_for(1);
    program(&engine).args(["prune", "--disk-critical", "82"]).assert().code(10);
    engine.docker(["rm", "--force", RUN]);
    engine.fill_to(50);
    program(&engine).arg("prune").assert().success().stdout(contains("at or above 80% for").not());
    assert_eq!(ledger(&engine)["pressure"], Value::Null);
}
