//! The engine's event stream, by which a prune under way notices that something began.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::future::select_all;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use regex::Regex;
use serde::Deserialize;
use tokio::sync::watch as channel;
use tokio::time::Instant;

use super::Engine;
use super::error::Failure;
use super::wire::stamp;
use crate::facts::{EVICTION_REPOSITORY, label};
use crate::units::Time;
use crate::world::{EngineError, EngineEvents, EventSummary, StopEvent};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// What concerns services, of a manager on another node: its pulls and containers do not affect this one.
    Services,
}

impl Scope {
    fn includes(self, kind: &str) -> bool {
        self == Self::Everything || ["service", "network", "secret", "config"].contains(&kind)
    }
}

impl EventSummary {
    pub fn record(&mut self, event: Event, run_pattern: &Regex) {
        let images = images(&event);
        let attributes = event.actor.attributes.as_ref();
        let of_service = attributes.is_some_and(|attributes| attributes.contains_key(label::SERVICE_ID));
        match classify(event, run_pattern) {
            Meaning::Ignore => return,
            Meaning::Recheck => {
                self.others += 1;
                self.of_services += usize::from(of_service);
            }
            Meaning::Stop(stop) => {
                self.others += 1;
                self.stop(stop);
            }
        }
        self.images.extend(images);
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    seen: EventSummary,
    /// How many events may have opened or closed a gate.
    moves: u64,
    /// The stream ended, and it is not yet known whether events were missed.
    is_interrupted: bool,
}

#[derive(Debug)]
pub struct Watch {
    state: channel::Receiver<State>,
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
    #[serde(rename = "Actor")]
    pub actor: Actor,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Actor {
    #[serde(rename = "ID", default)]
    pub id: String,
    #[serde(rename = "Attributes")]
    pub attributes: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Timed {
    #[serde(flatten)]
    event: Event,
    #[serde(rename = "timeNano")]
    time: i64,
    /// `swarm` or `local`.
    #[serde(default)]
    scope: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    time: i64,
    /// Of what Swarm keeps, and not of this engine alone.
    is_swarm: bool,
    kind: String,
    action: String,
    id: String,
}

impl Timed {
    fn key(&self) -> Key {
        let Event { kind, action, actor } = &self.event;
        let (kind, action, id) = (kind.clone(), action.clone(), actor.id.clone());
        Key { time: self.time, is_swarm: self.scope == "swarm", kind, action, id }
    }
}

/// How many events the engine keeps (moby: `daemon/events`, `eventsLimit`).
const EVENTS_KEPT: usize = 256;
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_secs(1);
/// A stream that ends earlier may have been refused by what ends it.
const STEADY_FROM: Duration = Duration::from_secs(5);
/// After this many short streams in a row without a new event the stream is lost.
const ATTEMPTS: usize = 5;

impl Engine {
    /// Subscribe to the events since that time by the engine's clock, else from now on.
    ///
    /// A stream that ends is subscribed again, and continues where it ended: the engine must still have an event
    /// that was seen before. Otherwise events may have been missed, and the stream is lost.
    pub async fn watch(
        &self,
        scope: Scope,
        since: Option<Time>,
        run_pattern: Regex,
    ) -> Result<Watch, EngineError> {
        // The engine answers a subscription first and subscribes after that (source: moby `api/server/router/system`,
        // `getEvents`): what happens in between it replays.
        let lines = self.events(since.map(stamp).as_deref()).await?;
        let past: Vec<Timed> = match since {
            Some(since) => self.get_lines(&format!("/events?since=0&until={}", stamp(since))).await?,
            None => vec![],
        };
        let (sender, state) = channel::channel(State::default());
        let known = past.iter().map(Timed::key).collect();
        let reader = Reader { engine: self.clone(), scope, run_pattern, known, state: sender };
        Ok(Watch { state, reader: tokio::spawn(reader.run(lines)) })
    }

    /// Future events, and those since then that the engine still has.
    async fn events(&self, since: Option<&str>) -> Result<Lines<Incoming>, EngineError> {
        let since = since.map(|since| format!("?since={since}")).unwrap_or_default();
        let path = format!("/v{}/events{since}", self.version);
        let error = |failure: Failure| failure.at(&self.host, "GET /events");
        let response = match tokio::time::timeout(self.timeout, self.transport.request(&path)).await {
            Err(_) => return Err(error(Failure::TimedOut(self.timeout))),
            Ok(Err(lost)) => return Err(error(Failure::of(lost.as_ref()))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if !status.is_success() {
            return Err(error(Failure::Status { status: status.as_u16(), message: status.to_string() }));
        }
        Ok(Lines { body: response.into_body(), pending: Vec::new() })
    }
}

impl Watch {
    /// What was seen so far. While the stream is subscribed again this waits.
    pub async fn poll_state(&self) -> EventSummary {
        // A yield lets the runtime poll its sockets, and the reader handle what came in.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        let mut state = self.state.clone();
        // A reader that has ended changes nothing more.
        let _ = state.wait_for(|state| !state.is_interrupted).await;
        self.state.borrow().seen.clone()
    }
}

/// What a container does inside, such as a health check, moves no gate.
fn moves_gates(event: &Event) -> bool {
    match event.kind.as_str() {
        "container" => {
            let moves = ["create", "start", "die", "destroy", "rename", "pause", "unpause"];
            moves.contains(&event.action.as_str())
        }
        "service" | "node" => true,
        _ => false,
    }
}

impl EngineEvents for Vec<Watch> {
    async fn poll(&self) -> EventSummary {
        let mut all = EventSummary::default();
        for watch in self {
            let EventSummary { stops, others, of_services, images } = watch.poll_state().await;
            all.stops.extend(stops);
            all.others += others;
            all.of_services += of_services;
            all.images.extend(images);
        }
        all
    }

    fn moves(&self) -> u64 {
        self.iter().map(|watch| watch.state.borrow().moves).sum()
    }

    async fn moved(&self, since: u64) {
        let mut states: Vec<_> = self.iter().map(|watch| watch.state.clone()).collect();
        while self.moves() <= since && !states.is_empty() {
            let changes = states.iter_mut().map(|state| Box::pin(state.changed()));
            // A reader that has ended: the stream is lost.
            if select_all(changes).await.0.is_err() {
                return;
            }
        }
    }
}

enum Next {
    Event(Timed),
    End(String),
    Malformed(String),
}

struct Lines<B> {
    body: B,
    pending: Vec<u8>,
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> Lines<B> {
    async fn next(&mut self) -> Next {
        let malformed = |error| Next::Malformed(format!("malformed event: {error}"));
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map_or_else(malformed, Next::Event);
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Next::End(error.to_string()),
                None if self.pending.is_empty() => return Next::End("the engine closed it".into()),
                None => {
                    let line = std::mem::take(&mut self.pending);
                    return serde_json::from_slice(&line).map_or_else(malformed, Next::Event);
                }
            };
            self.pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> Lines<B> {
    /// The first event that tells whether the engine was restarted. Where a local event is known that is the first local
    /// one: an engine that was restarted may tell once more what Swarm keeps, with its date from before (observed on 28.5:
    /// the creation of nodes and services). `of_swarm` has what stood before it.
    async fn first_that_tells(&mut self, known: &VecDeque<Key>, of_swarm: &mut Vec<Timed>) -> Next {
        let is_local_known = known.iter().any(|key| !key.is_swarm);
        loop {
            match self.next().await {
                Next::Event(event) if is_local_known && event.key().is_swarm => of_swarm.push(event),
                first => return first,
            }
        }
    }
}

/// Reads the stream, and subscribes again when it ends.
struct Reader {
    engine: Engine,
    scope: Scope,
    run_pattern: Regex,
    /// The latest events, including those from before the subscription: as many as the engine may keep.
    known: VecDeque<Key>,
    state: channel::Sender<State>,
}

impl Reader {
    async fn run(mut self, mut lines: Lines<Incoming>) {
        let mut unsteady = 0;
        let lost = loop {
            let began = Instant::now();
            let mut is_new = false;
            let why = loop {
                match lines.next().await {
                    Next::Event(event) => is_new |= self.record_event(event),
                    Next::End(why) => break why,
                    Next::Malformed(why) => return self.end(why),
                }
            };
            unsteady = if is_new || began.elapsed() >= STEADY_FROM { 0 } else { unsteady + 1 };
            if unsteady == ATTEMPTS {
                break why;
            }
            self.state.send_modify(|state| state.is_interrupted = true);
            tokio::time::sleep_until(began + RESUBSCRIBE_INTERVAL).await;
            match self.subscribe_again().await {
                Ok(again) => lines = again,
                Err(gap) => break format!("{why}; {gap}"),
            }
            // What happened in between is still to be read, but a gate may already show it: have them evaluated
            // again.
            self.state.send_modify(|state| {
                state.is_interrupted = false;
                state.seen.others += 1;
                state.seen.of_services += 1;
            });
        };
        self.end(lost);
    }

    /// The stream from the first event that the engine still has. If the first that tells is known, none was missed.
    async fn subscribe_again(&mut self) -> Result<Lines<Incoming>, String> {
        let mut lines = self.engine.events(Some("0")).await.map_err(|error| error.to_string())?;
        let mut of_swarm = Vec::new();
        let first = lines.first_that_tells(&self.known, &mut of_swarm);
        let first = tokio::time::timeout(self.engine.timeout, first).await;
        resumed(first.ok(), &self.known)?;
        for event in of_swarm {
            self.record_event(event);
        }
        Ok(lines)
    }

    fn end(&self, why: String) {
        self.state.send_modify(|state| {
            state.seen.stop(StopEvent::Lost(why));
            state.is_interrupted = false;
        });
    }

    fn record_event(&mut self, event: Timed) -> bool {
        let key = event.key();
        if self.known.contains(&key) {
            return false;
        }
        if self.known.len() == EVENTS_KEPT {
            self.known.pop_front();
        }
        self.known.push_back(key);
        if self.scope.includes(&event.event.kind) {
            self.state.send_modify(|state| {
                state.moves += u64::from(moves_gates(&event.event));
                state.seen.record(event.event, &self.run_pattern);
            });
        }
        true
    }
}

/// Whether a stream that begins with this event continues one with these known events; otherwise why events may
/// have been missed.
fn resumed(first: Option<Next>, known: &VecDeque<Key>) -> Result<(), String> {
    match first {
        Some(Next::Event(first)) if known.contains(&first.key()) => Ok(()),
        Some(Next::Event(_)) => {
            Err("the engine no longer has any event from before: it was restarted, or is busy".into())
        }
        Some(Next::End(why) | Next::Malformed(why)) => Err(why),
        None => Err("the engine remembers no event: it was restarted".into()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    Stop(StopEvent),
    Recheck,
    Ignore,
}

/// The images that an event names as used or asked for, if it matters.
fn images(event: &Event) -> Vec<String> {
    let attribute = |key| event.actor.attributes.as_ref().and_then(|attributes| attributes.get(key));
    let id = Some(&event.actor.id);
    let images = match (event.kind.as_str(), event.action.as_str()) {
        // The attribute `name` is the repository.
        ("image", "pull") => [id, None],
        ("image", "tag" | "load" | "import") => [id, attribute("name")],
        ("container", "create" | "start") => [attribute("image"), None],
        _ => [None, None],
    };
    images.into_iter().flatten().filter(|image| !image.is_empty()).cloned().collect()
}

pub fn classify(event: Event, run_pattern: &Regex) -> Meaning {
    let begins = ["create", "start", "rename", "update", "pull", "tag", "load", "import"];
    if !begins.contains(&event.action.as_str()) {
        return Meaning::Ignore;
    }
    let attributes = event.actor.attributes.unwrap_or_default();
    let name = attributes.get("name").unwrap_or(&event.actor.id).clone();
    match (event.kind.as_str(), event.action.as_str()) {
        ("service", "create") => Meaning::Stop(StopEvent::ServiceCreated(name)),
        ("service", "update") => Meaning::Stop(StopEvent::ServiceUpdated(name)),
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
        ("image" | "network", _) => Meaning::Recheck,
        _ => Meaning::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    #[test]
    fn events_name_the_images_that_are_asked_for_or_used() {
        let own = "ci-docker-prune.invalid/evicting:aa";
        let table = [
            ("image", "pull", "app:1", "app", "app:1"),
            ("image", "pull", "app@sha256:aa", "app", "app@sha256:aa"),
            ("image", "tag", "sha256:aa", "app:1", "sha256:aa app:1"),
            ("image", "tag", "sha256:aa", own, ""),
            ("image", "load", "sha256:aa", "app:1", "sha256:aa app:1"),
            ("image", "import", "sha256:aa", "", "sha256:aa"),
            ("image", "untag", "sha256:aa", "sha256:aa", ""),
            ("image", "delete", "sha256:aa", "sha256:aa", ""),
            ("container", "create", "0123", "web", "web:1"),
            ("container", "start", "0123", "web", "web:1"),
            ("container", "die", "0123", "web", ""),
            ("container", "rename", "0123", "web", ""),
            ("service", "create", "0123", "web", ""),
        ];
        let pattern = Regex::new("^run-").unwrap();
        for (kind, action, id, name, expected) in table {
            let attributes = crate::testing::labels(&[("name", name), ("image", "web:1")]);
            let actor = Actor { id: id.into(), attributes: Some(attributes) };
            let mut seen = EventSummary::default();
            seen.record(Event { kind: kind.into(), action: action.into(), actor }, &pattern);
            assert_eq!(seen.images.join(" "), expected, "{kind} {action} {name}");
        }
    }

    /// A stream in these pieces.
    async fn read(pieces: &[&str], then: Option<&str>) -> String {
        let pieces = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes()))));
        let cut = then.map(|why| Err(why.to_owned()));
        let frames: Vec<Result<Frame<Bytes>, String>> = pieces.chain(cut).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut lines = Lines { body, pending: Vec::new() };
        let mut shown = String::new();
        loop {
            // The clock of these tests goes on by itself.
            let next = tokio::time::timeout(Duration::from_secs(1), lines.next());
            match next.await.expect("the stream says something, if only that it ended") {
                Next::Event(event) => shown += &format!("{} ", event.time),
                Next::End(why) => return shown + "end: " + &why,
                Next::Malformed(why) => return shown + why.split(':').next().unwrap_or_default(),
            }
        }
    }

    fn line(time: i64) -> String {
        line_of("swarm", time)
    }

    fn line_of(scope: &str, time: i64) -> String {
        let event =
            r#""Type": "service", "Action": "create", "Actor": {"ID": "id", "Attributes": {"name": "app"}}"#;
        format!(r#"{{{event}, "scope": "{scope}", "timeNano": {time}}}"#) + "\n"
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_one_event_a_line_until_it_is_closed_or_cut() {
        let (one, two) = (line(1), line(2));
        let (half, rest) = two.split_at(20);
        let closed = "end: the engine closed it";
        assert_eq!(read(&[], None).await, closed);
        assert_eq!(read(&[&one, &two], None).await, format!("1 2 {closed}"));
        assert_eq!(read(&[&(one.clone() + half), rest], None).await, format!("1 2 {closed}"));
        assert_eq!(read(&[&one, two.trim_end()], None).await, format!("1 2 {closed}"));
        assert_eq!(read(&[&one, half], None).await, "1 malformed event");
        assert_eq!(read(&[&one, "<html>\n", &two], None).await, "1 malformed event");
        assert_eq!(read(&[&one, "{}\n", &two], None).await, "1 malformed event");
        assert_eq!(read(&[&one, half], Some("reset")).await, "1 end: reset");
    }

    #[test]
    fn a_stream_goes_on_where_it_begins_with_an_event_that_is_known() {
        let event = |time, action: &str| {
            let actor = Actor { id: "id".into(), attributes: None };
            Timed {
                event: Event { kind: "image".into(), action: action.into(), actor },
                time,
                scope: "local".into(),
            }
        };
        let known = VecDeque::from([event(1, "pull").key(), event(2, "pull").key()]);
        assert_eq!(resumed(Some(Next::Event(event(2, "pull"))), &known), Ok(()));
        for (first, part) in [
            (Some(Next::Event(event(3, "pull"))), "no longer has any event"),
            (Some(Next::Event(event(2, "tag"))), "no longer has any event"),
            (Some(Next::End("reset".into())), "reset"),
            (Some(Next::Malformed("<html>".into())), "<html>"),
            (None, "remembers no event: it was restarted"),
        ] {
            let why = resumed(first, &known).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }

    #[tokio::test]
    async fn what_swarm_tells_again_after_a_restart_is_no_proof_where_a_local_event_is_known() {
        let event = |scope: &str, time| {
            let actor = Actor { id: "id".into(), attributes: None };
            Timed {
                event: Event { kind: "service".into(), action: "create".into(), actor },
                time,
                scope: scope.into(),
            }
        };
        let keys =
            |events: &[(&str, i64)]| events.iter().map(|(scope, time)| event(scope, *time).key()).collect();
        let (of_swarm, both) = (keys(&[("swarm", 1)]), keys(&[("local", 2), ("swarm", 1)]));
        for (known, told, resumes, skipped) in [
            (&both, vec![("swarm", 1), ("local", 3)], false, 1),
            (&both, vec![("swarm", 1), ("swarm", 4), ("local", 2)], true, 2),
            (&of_swarm, vec![("swarm", 1), ("local", 3)], true, 0),
            (&of_swarm, vec![("local", 3), ("swarm", 1)], false, 0),
        ] {
            let line =
                |(scope, time): &(&str, i64)| Ok::<_, String>(Frame::data(line_of(scope, *time).into()));
            let lines: Vec<_> = told.iter().map(line).collect();
            let body = StreamBody::new(futures_util::stream::iter(lines));
            let mut before = Vec::new();
            let mut lines = Lines { body, pending: Vec::new() };
            let first = lines.first_that_tells(known, &mut before).await;
            assert_eq!((resumed(Some(first), known).is_ok(), before.len()), (resumes, skipped), "{told:?}");
        }
    }

    #[test]
    fn of_a_manager_elsewhere_only_what_concerns_services_is_taken_in() {
        for (kind, expected) in [
            ("service", true),
            ("network", true),
            ("secret", true),
            ("config", true),
            ("image", false),
            ("container", false),
            ("volume", false),
        ] {
            assert_eq!(Scope::Services.includes(kind), expected, "{kind}");
            assert!(Scope::Everything.includes(kind), "{kind}");
        }
    }

    #[test]
    fn events_are_told_apart() {
        let run = crate::testing::RUN;
        let own = "ci-docker-prune.invalid/evicting:aa";
        let table = [
            ("service", "create", "app", "", Meaning::Stop(StopEvent::ServiceCreated("app".into()))),
            ("service", "update", "app", "", Meaning::Stop(StopEvent::ServiceUpdated("app".into()))),
            ("image", "pull", "app", "", Meaning::Recheck),
            ("image", "tag", "app:1", "", Meaning::Recheck),
            ("image", "tag", own, "", Meaning::Ignore),
            ("image", "load", "app:1", "", Meaning::Recheck),
            ("network", "create", run, "", Meaning::Stop(StopEvent::Run(run.into()))),
            ("volume", "create", run, "", Meaning::Stop(StopEvent::Run(run.into()))),
            ("secret", "create", run, "", Meaning::Stop(StopEvent::Run(run.into()))),
            ("config", "create", run, "", Meaning::Stop(StopEvent::Run(run.into()))),
            ("secret", "create", "other", "", Meaning::Ignore),
            ("config", "update", "other", "", Meaning::Ignore),
            ("container", "rename", "other", "", Meaning::Recheck),
            ("image", "import", "x", "", Meaning::Recheck),
            ("plugin", "create", "x", "", Meaning::Ignore),
            // As `compose up` begins.
            ("network", "create", "other", "", Meaning::Recheck),
            ("volume", "create", "other", "", Meaning::Ignore),
            ("container", "exec_start: true", run, "", Meaning::Ignore),
            ("container", "die", run, "", Meaning::Ignore),
            ("network", "destroy", run, "", Meaning::Ignore),
            ("daemon", "reload", "host", "", Meaning::Ignore),
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
