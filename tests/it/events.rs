//! The engine's event stream: one that ends is subscribed again, and one with a gap ends a prune.

use std::sync::Arc;

use lab::{Engine, Fault, Proxy};
use serde_json::Value;

use crate::support::{APP, eight_dangling_images, json_of, left, program};

fn is_subscription(line: &str) -> bool {
    line.starts_with("GET /events") && !line.contains("until=")
}

/// A prune of them all whose event stream ends so at the first order; this decides about the next subscription.
fn interrupted(
    engine: &Engine,
    proxy: &Proxy,
    end: Fault,
    mut again: impl FnMut() -> Option<Fault> + Send + 'static,
) -> Value {
    let (mut subscriptions, mut ended) = (0, false);
    proxy.on_request(move |_, line| {
        subscriptions += usize::from(is_subscription(line));
        if line.starts_with("DELETE /images/") && !ended {
            ended = true;
            return Some(end);
        }
        if is_subscription(line) && subscriptions > 1 { again() } else { None }
    });
    let mut command = program(engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--timeout", "5s", "--host", &proxy.url()]);
    json_of(&command.assert())
}

#[test]
fn a_stream_that_ends_is_subscribed_again_and_the_run_goes_on() {
    for end in [Fault::EndEvents, Fault::LoseEvents] {
        let (engine, proxy, dangling) = eight_dangling_images();
        let report = interrupted(&engine, &proxy, end, || None);
        assert_eq!(report["outcome"], "pruned", "{end:?}: {report}");
        assert_eq!(left(&engine, &dangling), 0, "{end:?}: {report}");
        let requests = proxy.requests();
        assert_eq!(requests.iter().filter(|request| is_subscription(request)).count(), 2, "{requests:?}");
        // What happened in between is asked for before anything else goes.
        let again = requests.iter().rposition(|request| is_subscription(request)).unwrap();
        let after = &requests[again..];
        let next = |part: &str| after.iter().position(|request| request.starts_with(part)).unwrap();
        assert!(next("GET /services") < next("DELETE /images/"), "{requests:?}");
    }
}

#[test]
fn a_deploy_that_begins_while_the_stream_is_interrupted_ends_the_run() {
    for end in [Fault::EndEvents, Fault::LoseEvents] {
        let (engine, proxy, dangling) = eight_dangling_images();
        let deploying = Arc::clone(&engine);
        let report = interrupted(&engine, &proxy, end, move || {
            deploying.docker(["service", "create", "--quiet", "--detach", "--name", "deploy", APP]);
            None
        });
        assert_eq!(report["outcome"], "stopped", "{end:?}: {report}");
        let why = &report["stopped"]["code"];
        assert!(why == "service_created" || why == "gate_not_open", "{end:?}: {report}");
        let requests = proxy.requests();
        let again = requests.iter().rposition(|request| is_subscription(request)).unwrap();
        assert!(!requests[again..].iter().any(|request| request.starts_with("DELETE ")), "{requests:?}");
        assert!(left(&engine, &dangling) >= 5, "{report}");
    }
}

#[test]
fn a_deploy_that_begins_after_the_stream_was_subscribed_again_is_seen() {
    let (engine, proxy, dangling) = eight_dangling_images();
    let mut deploy = engine.inside("docker");
    deploy.args(["service", "create", "--quiet", "--detach", "--name", "deploy", APP]);
    let (mut subscriptions, mut orders) = (0, 0);
    proxy.on_request(move |_, line| {
        subscriptions += usize::from(is_subscription(line));
        if line.starts_with("DELETE /images/") {
            if orders == 0 {
                orders = 1;
                return Some(Fault::EndEvents);
            }
            if subscriptions == 2 && orders == 1 {
                orders = 2;
                assert!(deploy.status().unwrap().success());
            }
        }
        None
    });
    let mut command = program(&engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--host", &proxy.url()]);
    let report = json_of(&command.assert().success());
    assert_eq!(report["stopped"]["code"], "service_created", "{report}");
    assert!(left(&engine, &dangling) > 0, "{report}");
}

#[test]
fn a_stream_that_cannot_be_subscribed_again_ends_the_run() {
    for again in [Fault::Status(500), Fault::CutBefore, Fault::Hang, Fault::Answer(""), Fault::Malformed] {
        let (engine, proxy, dangling) = eight_dangling_images();
        let report = interrupted(&engine, &proxy, Fault::EndEvents, move || Some(again));
        assert_eq!(report["outcome"], "failed", "{again:?}: {report}");
        assert_eq!(report["stopped"]["code"], "events_lost", "{again:?}: {report}");
        assert!(left(&engine, &dangling) >= 5, "{again:?}: {report}");
    }
}

/// A proxy may close every stream at once: that must neither go on for ever nor as fast as it can.
#[test]
fn a_stream_that_never_lasts_is_given_up() {
    let (engine, proxy, dangling) = eight_dangling_images();
    let subscribed = std::time::Instant::now();
    let mut subscriptions = 0;
    proxy.on_request(move |_, line| {
        subscriptions += usize::from(is_subscription(line));
        // The next question after each subscription, which the gates have.
        (subscriptions > 0 && line.starts_with("GET /services")).then_some(Fault::EndEvents)
    });
    let mut command = program(&engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--host", &proxy.url()]);
    let report = json_of(&command.assert().code(1));
    assert_eq!(report["stopped"]["code"], "events_lost", "{report}");
    assert_eq!(left(&engine, &dangling), 8, "{report}");
    let asked = proxy.requests().iter().filter(|request| is_subscription(request)).count();
    assert!(asked <= 6 && subscribed.elapsed().as_secs() + 1 >= asked as u64, "{asked}");
}

#[test]
fn a_restart_of_the_engine_ends_the_run() {
    let (engine, proxy, dangling) = eight_dangling_images();
    let restarting = Arc::clone(&engine);
    let (mut ended, mut restarted) = (false, false);
    proxy.on_request(move |_, line| {
        if line.starts_with("DELETE /images/") && !ended {
            ended = true;
            return Some(Fault::EndEvents);
        }
        if ended && is_subscription(line) && !restarted {
            restarted = true;
            restarting.restart();
        }
        None
    });
    let mut command = program(&engine);
    command.args(["prune", "-o", "json", "--older-than", "0s", "--timeout", "5s", "--host", &proxy.url()]);
    let report = json_of(&command.assert().code(1));
    assert_eq!(report["stopped"]["code"], "events_lost", "{report}");
    assert!(left(&engine, &dangling) >= 5, "{report}");
}
