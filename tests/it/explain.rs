//! `explain`: why an object goes or stays, now and later.

use lab::{Engine, Image};
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{cached, json_of, program, remember, stdout};

#[test]
fn it_says_what_protects_an_object_and_when_it_may_go() {
    let engine = Engine::start();
    let pulled = cached(&engine, &Image::new("app", "1").size_mib(2));
    engine.publish(&Image::new("web", "1").size_mib(1));
    let web = "127.0.0.1:5000/web:1";
    engine.docker(["run", "--detach", "--name", "front", web]);
    let id = engine.image_id(&pulled);
    remember(&engine, &[(&id, 2)]);
    let explain = |words: &[&str]| program(&engine).arg("explain").args(words).assert();

    // By digest, cut short; by the beginning of its ID; by the repository.
    let short = &pulled[..pulled.len() - 50];
    for name in [&pulled[..], short, &id[..20], &id[7..15], "127.0.0.1:5000/app"] {
        let assert = explain(&[name]).success();
        assert.stdout(
            contains("(cached image)")
                .and(contains("last used   48h ago"))
                .and(contains("next use    not seen to come back"))
                .and(contains(
                    "may go      now, once the disk is at or above 80%, down to 75% (unused for 24h)",
                )),
        );
    }
    let found = json_of(&explain(&[&pulled, web, "front", "-o", "json"]).success());
    let [app, image, container] = [0, 1, 2].map(|n| found["objects"][n]["found"][0].clone());
    assert_eq!((&app["class"], &app["reason"]["code"]), (&"cached".into(), &"cached_disk_has_room".into()));
    assert_eq!(app["ledger"]["last_used_seconds"].as_u64().unwrap() / 3_600, 48, "{app}");
    assert_eq!(app["eviction"]["conditions"][0]["unused_seconds"], 86_400, "{app}");
    assert_eq!(app["protections"], serde_json::json!([]));
    let codes: Vec<_> =
        image["protections"].as_array().unwrap().iter().map(|reason| &reason["code"]).collect();
    assert_eq!(codes, ["used_by_container", "tagged"], "{image}");
    assert_eq!(container["reason"]["code"], "container_live", "{container}");

    // Under pressure it goes, and the plan says the same.
    engine.fill_to(86);
    let assert = explain(&[&pulled]).success();
    assert!(stdout(&assert).contains("goes: in use 48h ago; not seen to come back"), "{}", stdout(&assert));
    // What there is not.
    let assert = explain(&["nothing:1", &pulled]).code(1);
    assert.stdout(contains("nothing:1: no such image or container").and(contains("(cached image)")));
    explain(&["front", "--host", "unix:///nowhere"]).code(1).stderr(contains("no Docker engine"));
}
