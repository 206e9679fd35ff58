//! Every fault at every kind of request of a prune: it ends by itself, says what happened, and removes
//! nothing after a deploy has begun or a gate has become unknown. `tests/sim` does so at every single step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lab::{Engine, Fault, Image, Proxy};
use serde_json::Value;

use crate::support::{APP, build, json_of, program, remember, standard};

/// An engine with one object of each kind that is to go, and some that must stay.
struct Scene {
    engine: Arc<Engine>,
    proxy: Proxy,
    cached: Vec<(String, String)>,
    dangling: Mutex<String>,
    stays: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let engine = Engine::start();
        for name in ["app", "tagged"] {
            engine.publish(&Image::new(name, "1"));
        }
        engine.docker(["run", "--detach", "--name", "busy", "--volume", "data:/data", APP]);
        engine.docker(["pull", "--quiet", "127.0.0.1:5000/tagged:1"]);
        let stays = [APP, "127.0.0.1:5000/tagged:1"].map(|name| engine.image_id(name)).into();
        let cached = ["one", "two"].map(|name| {
            let digest = engine.publish(&Image::new(name, "1"));
            let name = format!("127.0.0.1:5000/{name}@{digest}");
            engine.docker(["pull", "--quiet", &name]);
            let id = engine.image_id(&name);
            (name, id)
        });
        let proxy = Proxy::before(&engine);
        let dangling = Mutex::default();
        let scene = Self { engine: Arc::new(engine), proxy, cached: cached.into(), dangling, stays };
        scene.build();
        scene.engine.fill_to(85);
        scene
    }

    /// A build without a name leaves a dangling image, and records in the build cache.
    fn build(&self) {
        let mut dangling = self.dangling.lock().unwrap();
        self.engine.docker_output(&["image", "rm", &dangling], None);
        *dangling = build(&self.engine, true, "FROM scratch\nCOPY Dockerfile /\n");
    }

    /// Put everything back that is to go.
    fn restore(&self) {
        let engine = &self.engine;
        if !engine.container_names().contains(&"old".to_owned()) {
            engine.docker(["create", "--name", "old", APP]);
        }
        for (name, id) in &self.cached {
            let own = format!("ci-docker-prune.invalid/evicting:{}", id.trim_start_matches("sha256:"));
            let (_, image) = engine.get(&format!("/images/{id}/json"));
            let has = |list: &str, name: &str| {
                image[list].as_array().is_some_and(|list| list.contains(&name.into()))
            };
            if !has("RepoDigests", name) {
                engine.docker(["pull", "--quiet", name]);
            }
            if has("RepoTags", &own) {
                engine.docker(["image", "rm", &own]);
            }
        }
        let dangling = self.dangling.lock().unwrap().clone();
        let cache_pruned = self.proxy.writes().iter().any(|request| request.starts_with("POST /build/prune"));
        if cache_pruned || !engine.has_image(&dangling) {
            self.build();
        }
        let dangling = self.dangling.lock().unwrap().clone();
        let there = self.cached.iter().all(|(_, id)| engine.has_image(id)) && engine.has_image(&dangling);
        assert!(there, "the scene is not whole");
        let ids: Vec<(&str, i64)> = self.cached.iter().map(|(_, id)| (id.as_str(), 30)).collect();
        remember(engine, &ids);
    }

    fn command(&self, timeout: &str) -> assert_cmd::Command {
        let mut command = program(&self.engine);
        command.args(["prune", "-o", "json", "--older-than", "0s", "--disk-target", "10"]);
        command.args(["--timeout", timeout, "--removal-timeout", timeout, "--host", &self.proxy.url()]);
        command
    }

    /// An undisturbed run, which removes one object of each kind but two cached images: the last of its requests of
    /// each kind, and the first order of each, as there is more to stop then.
    #[track_caller]
    fn sample(&self) -> Vec<Moment> {
        // The first run finds build cache of several builds, which goes in more steps.
        for _ in 0..2 {
            self.restore();
            self.proxy.on_request(|_, _| None);
            let report = json_of(&self.command("10s").assert().success());
            assert!(all_is_removed(&report), "{report}");
        }
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for request in self.proxy.requests() {
            *kinds.entry(kind(&request)).or_default() += 1;
        }
        let moments = kinds.into_iter().flat_map(|(kind, last)| {
            let first = if kind.starts_with("GET ") || last == 1 { None } else { Some(1) };
            first.into_iter().chain([last]).map(move |nth| Moment { kind: kind.clone(), nth })
        });
        moments.collect()
    }

    /// Whatever happened, these are still there.
    #[track_caller]
    fn nothing_else_is_gone(&self, case: &str) {
        for id in &self.stays {
            assert!(self.engine.has_image(id), "{case}: {id}");
        }
        let running = self.engine.list("/containers/json");
        assert!(running.iter().any(|container| container["Names"][0] == "/busy"), "{case}: {running:?}");
        assert_eq!(self.engine.get("/volumes/data").0, 200, "{case}");
    }
}

/// A request by its place among those of its kind: a run has one more or less where build cache goes in more steps.
#[derive(Debug, Clone)]
struct Moment {
    kind: String,
    nth: usize,
}

impl Moment {
    /// Its number among all requests of a run, from 1.
    fn number_in(&self, requests: &[String]) -> Option<usize> {
        let of_kind = requests.iter().enumerate().filter(|(_, request)| kind(request) == self.kind);
        of_kind.map(|(index, _)| index + 1).nth(self.nth - 1)
    }

    /// Do this when it comes.
    fn then<F>(&self, mut act: F) -> impl FnMut(usize, &str) -> Option<Fault> + Send + use<F>
    where
        F: FnMut() -> Option<Fault> + Send,
    {
        let Self { kind: awaited, nth } = self.clone();
        let mut seen = 0;
        move |_, request| {
            let is_of_kind = kind(request) == awaited;
            seen += usize::from(is_of_kind);
            if is_of_kind && seen == nth { act() } else { None }
        }
    }
}

/// Did the run remove the container, the dangling image, both cached images and the build cache?
fn all_is_removed(report: &Value) -> bool {
    report["removed"].as_array().is_some_and(|removed| removed.len() == 5)
}

/// To the stream of events that a run watches; a question about those that have been has an end.
const SUBSCRIPTION: &str = "GET /events?";

/// A request without what tells its object from others of its kind, and without its query.
fn kind(request: &str) -> String {
    if request.starts_with(SUBSCRIPTION) && !request.contains("until=") {
        return SUBSCRIPTION.to_owned();
    }
    let path = request.split('?').next().unwrap_or(request);
    let is_own = |part: &str| part.contains("ci-docker-prune.invalid");
    let is_object = |part: &str| part.len() > 30 || part.contains(['@', ':']);
    let part = |part: &str| match (is_own(part), is_object(part)) {
        (true, _) => "OURS".to_owned(),
        (false, true) => "OBJECT".to_owned(),
        (false, false) => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn is_removal(request: &str) -> bool {
    request.starts_with("DELETE ") || request.starts_with("POST /build/prune")
}

/// Those after request number `k`.
fn removals_after(requests: &[String], k: usize) -> Vec<&String> {
    requests.iter().skip(k).filter(|request| is_removal(request)).collect()
}

#[track_caller]
fn sweep(faults: &[Fault]) {
    let scene = Scene::new();
    let moments = scene.sample();
    let (mut cases, mut missed) = (0, vec![]);
    for &fault in faults {
        for moment in &moments {
            cases += 1;
            // Patience is short only where an answer never comes, and grows where a busy machine was too slow for it.
            let patience = if fault == Fault::Hang { ["400ms", "2s", "10s"] } else { ["10s"; 3] };
            let play = |timeout| {
                scene.restore();
                scene.proxy.on_request(moment.then(move || Some(fault)));
                let assert = scene.command(timeout).assert();
                (assert, scene.proxy.requests())
            };
            let mut played = play(patience[0]);
            for timeout in &patience[1..] {
                if moment.number_in(&played.1).is_none() {
                    played = play(timeout);
                }
            }
            let (assert, seen) = played;
            let code = assert.get_output().status.code();
            let Some(k) = moment.number_in(&seen) else {
                missed.push(format!("{fault:?} at {moment:?}"));
                continue;
            };
            let hit = seen[k - 1].clone();
            let case = format!("{fault:?} at {k} ({hit})");
            let stderr = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
            // It ended by itself, with a status of the contract and a report.
            assert!(matches!(code, Some(0 | 1)), "{case}: {code:?} {stderr}");
            let report = json_of(&assert);
            assert_eq!(code == Some(1), report["outcome"] == "failed", "{case}: {report}");
            let gate = ["/version", "/info", "/services", "/tasks", "/containers/json?"];
            let subscription = moment.kind == SUBSCRIPTION;
            let about_a_gate =
                subscription || gate.iter().any(|question| hit.starts_with(&format!("GET {question}")));
            // A stream that is cut is subscribed again.
            let harmless = matches!(fault, Fault::Delay(_)) || fault == Fault::LoseEvents && !subscription;
            if harmless {
                assert!(all_is_removed(&report), "{case}: {report}");
            }
            if about_a_gate && !harmless {
                assert_eq!(removals_after(&seen, k), Vec::<&String>::new(), "{case}");
                // Unless it was the last one, and there was nothing left to stop.
                assert!(code == Some(1) || all_is_removed(&report), "{case}: {report}");
            }
            scene.nothing_else_is_gone(&case);
        }
    }
    assert!(missed.len() * 10 <= cases, "not reached: {missed:?}");
    eprintln!("{cases} cases: {} faults at each of {} requests", faults.len(), moments.len());
}

#[test]
fn cut_connections() {
    sweep(&[Fault::CutBefore, Fault::CutMiddle]);
}

#[test]
fn lost_answers_and_events() {
    sweep(&[Fault::CutAfter, Fault::LoseEvents]);
}

#[test]
fn refusals() {
    sweep(&[Fault::Status(404), Fault::Status(409)]);
}

#[test]
fn errors_of_the_engine() {
    sweep(&[Fault::Status(500), Fault::Status(503)]);
}

#[test]
fn nonsense() {
    sweep(&[Fault::Malformed, Fault::Truncated]);
}

#[test]
fn late_answers() {
    sweep(&[Fault::Delay(150)]);
}

#[test]
fn silence() {
    sweep(&[Fault::Hang]);
}

#[test]
fn a_deploy_that_begins_at_any_kind_of_request_ends_all_removals() {
    let scene = Scene::new();
    let moments = scene.sample();
    let mut missed = vec![];
    for moment in &moments {
        scene.restore();
        let engine = Arc::clone(&scene.engine);
        scene.proxy.on_request(moment.then(move || {
            let image = "127.0.0.1:5000/one:1";
            engine.docker(["service", "create", "--quiet", "--detach", "--name", "deploy", image]);
            None
        }));
        // The deploy takes its time at one request.
        let assert = scene.command("10s").assert();
        let seen = scene.proxy.requests();
        let report = json_of(&assert.success());
        let Some(k) = moment.number_in(&seen) else {
            missed.push(moment);
            continue;
        };
        let case = format!("at {k} ({}): {report}", seen[k - 1]);
        assert_eq!(removals_after(&seen, k), Vec::<&String>::new(), "{case}");
        let is_told = report["outcome"] == "stopped" || report["outcome"] == "blocked";
        assert!(is_told || all_is_removed(&report), "{case}");
        scene.engine.converged();
        let tasks = scene.engine.docker(["service", "ps", "--format", "{{.CurrentState}}", "deploy"]);
        assert!(!tasks.contains("Rejected"), "{case}: {tasks}");
        scene.engine.docker(["service", "rm", "deploy"]);
        scene.engine.no_container_named("deploy");
        scene.nothing_else_is_gone(&case);
    }
    assert!(missed.len() * 10 <= moments.len(), "not reached: {missed:?}");
    eprintln!("{} cases: a deploy at each kind of request", moments.len());
}

#[test]
fn after_a_kill_at_any_kind_of_request_a_normal_run_works() {
    let scene = Scene::new();
    let moments = scene.sample();
    let mut missed = vec![];
    for moment in &moments {
        scene.restore();
        let pid = Arc::new(AtomicU32::new(0));
        let victim = Arc::clone(&pid);
        scene.proxy.on_request(moment.then(move || {
            while victim.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let pid = victim.load(Ordering::SeqCst).to_string();
            assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            Some(Fault::CutAfter)
        }));
        let template = scene.command("10s");
        let mut command = standard(&template);
        command.stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        pid.store(child.id(), Ordering::SeqCst);
        if child.wait().unwrap().success() {
            missed.push(moment);
            continue;
        }
        scene.nothing_else_is_gone(&format!("killed at {moment:?}"));
        // The ledger can be read, no lock is stale, and what was begun is finished.
        scene.proxy.on_request(|_, _| None);
        let report = json_of(&scene.command("10s").assert().success());
        let is_done = report["outcome"] == "pruned" || report["outcome"] == "nothing";
        assert!(is_done, "killed at {moment:?}: {report}");
        for (name, id) in &scene.cached {
            assert!(!scene.engine.has_image(id), "killed at {moment:?}: {name} is still there: {report}");
        }
        assert!(!scene.engine.has_image(&scene.dangling.lock().unwrap()), "killed at {moment:?}: {report}");
        let names = scene.engine.container_names();
        assert!(!names.contains(&"old".to_owned()), "killed at {moment:?}: {names:?}");
        scene.nothing_else_is_gone(&format!("after a kill at {moment:?}"));
    }
    assert!(missed.len() * 10 <= moments.len(), "not reached: {missed:?}");
    eprintln!("{} cases: killed at each kind of request", moments.len());
}
