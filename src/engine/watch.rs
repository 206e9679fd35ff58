//! The engine's event stream: tells a prune under way that something began.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use regex::Regex;
use serde::Deserialize;
use serde_json::json;

use super::error::Failure;
use super::wire::encode;
use super::{Engine, EngineError};
use crate::facts::{EVICTION_REPOSITORY, label};
use crate::units::Time;

/// Something after which no removal is safe any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopEvent {
    /// A service of this name.
    ServiceCreated(String),
    /// A service of this name.
    ServiceUpdated(String),
    /// An image by this reference.
    Pulled(String),
    /// A container, network, volume, secret or config of a CI run.
    Run(String),
    /// The stream ended, for this reason.
    Lost(String),
}

/// Which events.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// All of this host's engine, and those that it remembers since then: it answers a subscription
    /// first and subscribes after that (source: moby `api/server/router/system`, `getEvents`).
    Everything(Time),
    /// Of a manager elsewhere: its pulls and containers are none of our business.
    Services,
}

#[derive(Debug, Default)]
struct Seen {
    /// The first.
    stop: Option<StopEvent>,
    /// How many other events there were: each makes the gates worth asking again.
    others: usize,
}

/// A subscription; it ends with the value.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// One event of the engine (`GET /events`).
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// What kind of object it is about, such as `container`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What happened, such as `create`.
    #[serde(rename = "Action")]
    pub action: String,
    /// The object.
    #[serde(rename = "Actor")]
    pub actor: Actor,
}

/// What an event is about.
#[derive(Debug, Clone, Deserialize)]
pub struct Actor {
    /// Its ID; of an image event the reference.
    #[serde(rename = "ID", default)]
    pub id: String,
    /// Its name, labels and more, by key.
    #[serde(rename = "Attributes")]
    pub attributes: Option<HashMap<String, String>>,
}

impl Engine {
    /// Subscribe.
    ///
    /// # Errors
    /// The engine does not answer the subscription.
    pub async fn watch(&self, scope: Scope, run_pattern: Regex) -> Result<Watch, EngineError> {
        let (kinds, since): (&[&str], _) = match scope {
            Scope::Everything(since) => {
                let since = format!("since={}.{:09}&", since.as_second(), since.subsec_nanosecond().max(0));
                (&["container", "image", "service", "network", "volume", "secret", "config"], since)
            }
            Scope::Services => (&["service", "network", "secret", "config"], String::new()),
        };
        let actions = ["create", "start", "rename", "update", "pull", "tag", "load", "import"];
        let filters = encode(&json!({"type": kinds, "event": actions}).to_string());
        let path = format!("/v{}/events?{since}filters={filters}", self.version);
        let error = |failure| EngineError::new(&self.host, "GET /events", failure);
        let response = match tokio::time::timeout(self.timeout, self.transport.request(&path)).await {
            Err(_) => return Err(error(Failure::TimedOut(self.timeout))),
            Ok(Err(lost)) => return Err(error(Failure::of(lost.as_ref()))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if !status.is_success() {
            return Err(error(Failure::Status { status: status.as_u16(), message: status.to_string() }));
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reader = tokio::spawn(read(response.into_body(), Arc::clone(&seen), run_pattern));
        Ok(Watch { seen, reader })
    }
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event after which no removal is safe, and how many lesser events there were.
    pub async fn poll_state(&self) -> (Option<StopEvent>, usize) {
        // A yield lets the runtime look at its sockets and the reader work off what came in.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        let seen = self.seen();
        (seen.stop.clone(), seen.others)
    }
}

async fn read(mut body: Incoming, seen: Arc<Mutex<Seen>>, run_pattern: Regex) {
    let note = |stop: Option<StopEvent>| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match stop {
            Some(stop) => drop(seen.stop.get_or_insert(stop)),
            None => seen.others += 1,
        }
    };
    let mut pending = Vec::new();
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return note(Some(StopEvent::Lost(error.to_string()))),
            None => return note(Some(StopEvent::Lost("the engine closed it".into()))),
        };
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        // One event a line.
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) => match classify(event, &run_pattern) {
                    Meaning::Stop(stop) => note(Some(stop)),
                    Meaning::Recheck => note(None),
                    Meaning::Ignore => {}
                },
                Err(error) => {
                    return note(Some(StopEvent::Lost(format!("an event makes no sense: {error}"))));
                }
            }
        }
    }
}

/// What an event means for a prune under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// No removal is safe any more.
    Stop(StopEvent),
    /// The gates are worth asking again.
    Recheck,
    /// Nothing that a prune needs to know.
    Ignore,
}

/// What does this event mean?
pub fn classify(event: Event, run_pattern: &Regex) -> Meaning {
    let attributes = event.actor.attributes.unwrap_or_default();
    let name = attributes.get("name").unwrap_or(&event.actor.id).clone();
    match (event.kind.as_str(), event.action.as_str()) {
        ("service", "create") => Meaning::Stop(StopEvent::ServiceCreated(name)),
        ("service", "update") => Meaning::Stop(StopEvent::ServiceUpdated(name)),
        ("image", "pull") => Meaning::Stop(StopEvent::Pulled(event.actor.id)),
        ("image", "tag")
            if name.starts_with(EVICTION_REPOSITORY) || event.actor.id.starts_with(EVICTION_REPOSITORY) =>
        {
            Meaning::Ignore
        }
        ("container", _) => {
            // Attributes include labels.
            let of_labels = [label::stack(&attributes), label::compose_project(&attributes)];
            let mut names = of_labels.into_iter().flatten().chain([name.as_str()]);
            let run = names.find(|name| run_pattern.is_match(name));
            run.map_or(Meaning::Recheck, |name| Meaning::Stop(StopEvent::Run(name.to_owned())))
        }
        ("network" | "volume" | "secret" | "config", _) if run_pattern.is_match(&name) => {
            Meaning::Stop(StopEvent::Run(name))
        }
        ("volume" | "secret" | "config", _) => Meaning::Ignore,
        _ => Meaning::Recheck,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let run = "abcd-0123ef_ci_commoninternet_net";
        let own = "ci-docker-prune.invalid/evicting:aa";
        let table = [
            ("service", "create", "app", "", Meaning::Stop(StopEvent::ServiceCreated("app".into()))),
            ("service", "update", "app", "", Meaning::Stop(StopEvent::ServiceUpdated("app".into()))),
            ("image", "pull", "app", "", Meaning::Stop(StopEvent::Pulled("id".into()))),
            ("image", "tag", "app:1", "", Meaning::Recheck),
            ("image", "tag", own, "", Meaning::Ignore),
            ("image", "load", "app:1", "", Meaning::Recheck),
            ("network", "create", run, "", Meaning::Stop(StopEvent::Run(run.into()))),
            // As `compose up` begins.
            ("network", "create", "other", "", Meaning::Recheck),
            ("volume", "create", "other", "", Meaning::Ignore),
            ("container", "create", "cron", "", Meaning::Recheck),
            ("container", "start", run, "", Meaning::Stop(StopEvent::Run(run.into()))),
            ("container", "create", "task", run, Meaning::Stop(StopEvent::Run(run.into()))),
        ];
        let pattern = Regex::new("_ci_commoninternet_net").unwrap();
        for (kind, action, name, stack, expected) in table {
            let mut attributes = crate::testing::labels(&[("name", name)]);
            if !stack.is_empty() {
                let of_stack = [(label::STACK, stack), (label::SERVICE_ID, "service")];
                attributes.extend(crate::testing::labels(&of_stack));
            }
            let actor = Actor { id: "id".into(), attributes: Some(attributes) };
            let event = Event { kind: kind.into(), action: action.into(), actor };
            assert_eq!(classify(event, &pattern), expected, "{kind} {action} {name}");
        }
        // What an image's own labels say counts for nothing.
        let baked = [("name", "web"), (label::STACK, run), (label::COMPOSE_PROJECT, run)];
        let actor = Actor { id: "id".into(), attributes: Some(crate::testing::labels(&baked)) };
        let event = Event { kind: "container".into(), action: "create".into(), actor };
        assert_eq!(classify(event, &pattern), Meaning::Recheck);
    }
}
