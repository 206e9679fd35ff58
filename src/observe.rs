//! What a prune asks the engine and the host: each question once, concurrently.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use futures_util::future::{OptionFuture, join4};
use futures_util::{StreamExt, stream};

use crate::facts::{
    Answer, EnginePlaces, Image, ImageClass, Info, Inventory, Kind, Layer, Mode, Reference, Service, Survey,
    SwarmState, Unavailable, Unread, Usage, name_tag,
};
use crate::ledger::{ImageUse, Ledger, Observations, replay_since};
use crate::plan::{self, containers, images};
use crate::units::Time;
use crate::world::{ContainerScope, EngineApi, EngineError, ImageEvent, World};

/// Concurrent requests about objects of one kind, at most.
pub const AT_A_TIME: usize = 8;

#[derive(Clone, Copy)]
pub struct Questions {
    pub services: bool,
    pub tasks: bool,
    pub containers: Option<ContainerScope>,
    pub inhibitors: bool,
    /// Where the engine keeps its data, and how full the filesystems are.
    pub disk: bool,
    /// What the ledger knows of runs and services.
    pub past: bool,
}

impl Questions {
    pub const NONE: Self =
        Self { services: false, tasks: false, containers: None, inhibitors: false, disk: false, past: false };
    pub const IN_USE: Self = Self { containers: Some(ContainerScope::All), ..Self::NONE };
    /// What `runs` and `converge` need, and which images are in use.
    pub const DEPLOYS: Self = Self { services: true, tasks: true, inhibitors: true, ..Self::IN_USE };
    pub const EVERYTHING: Self = Self { disk: true, past: true, ..Self::DEPLOYS };
}

pub async fn survey<W: World>(
    world: &W,
    engine: &W::Engine,
    questions: Questions,
    disk_paths: &[PathBuf],
) -> Survey {
    let services = OptionFuture::from(questions.services.then(|| engine.services()));
    let tasks = OptionFuture::from(questions.tasks.then(|| engine.tasks()));
    let containers = OptionFuture::from(questions.containers.map(|which| engine.containers(which)));
    // The manager's own state is not asked for: its answer about the services shows it.
    let (info, services, tasks, containers) = join4(engine.info(), services, tasks, containers).await;
    let unasked = Survey::unavailable(&Unavailable("not asked".into()));
    let mut survey = Survey {
        info: info.map_err(Unavailable::from),
        services: answer(services),
        tasks: answer(tasks),
        containers: answer(containers),
        manager_elsewhere: engine.manager_elsewhere(),
        ..unasked
    };
    explain_missing_services(&mut survey);
    // Only the tasks of a global service stay listed on a node that is away.
    let global = |service: &Service| matches!(service.mode, Mode::Global | Mode::GlobalJob);
    if questions.tasks && survey.services.iter().flatten().any(global) {
        survey.nodes_away = engine.nodes_away().await.unwrap_or_else(|error| {
            log::warn!("no node counts as down or drained: {error}");
            HashSet::new()
        });
    }
    if questions.disk {
        survey.places = match &survey.info {
            Ok(info) => Ok(engine_places(world, engine, info).await),
            Err(why) if engine.is_local() => Err(why.clone()),
            Err(_) => Ok(None),
        };
        survey.filesystems = match survey.disk_places(disk_paths) {
            Ok(places) => world.measure(&places.measured).await,
            Err(why) => Err(why),
        };
    }
    if questions.inhibitors {
        survey.inhibitors = world.inhibitors().map_err(Unavailable::from);
    }
    if questions.past {
        survey.past = world.ledger().past(world.now());
    }
    survey
}

fn answer<T>(answer: Option<Result<T, EngineError>>) -> Answer<T> {
    answer.ok_or_else(|| Unavailable("not asked".into()))?.map_err(Unavailable::from)
}

/// A node that is no manager refuses to list services (503). In no Swarm that means that there are none; otherwise
/// `/info` shows the reason.
fn explain_missing_services(survey: &mut Survey) {
    let Ok(info) = &survey.info else { return };
    if survey.manager_elsewhere || survey.services.is_ok() {
        return;
    }
    match &info.swarm.state {
        SwarmState::Inactive => {
            survey.services = Ok(vec![]);
            survey.tasks = Ok(vec![]);
        }
        // The engine's own error says more.
        SwarmState::Failed(_) => {}
        state => {
            if let Some(why) = state.obstacle() {
                survey.services = Err(Unavailable(why));
            }
        }
    }
}

/// Where the engine keeps its data; `None` where that is on another host.
async fn engine_places<W: World>(world: &W, engine: &W::Engine, info: &Info) -> Option<EnginePlaces> {
    if !engine.is_local() {
        return None;
    }
    let traces = world.engine_traces(info).await;
    let here = traces.is_here(info);
    let (images, known) = traces.images(info);
    log::debug!(
        "the images lie in {}: on this host {here:?}, known {known}, by {traces:?}",
        images.display()
    );
    let places = EnginePlaces { root: info.root.clone(), images, certain: known && here == Some(true) };
    (here != Some(false)).then_some(places)
}

/// What containers use now, and what events since the last record used.
pub async fn image_uses(
    engine: &impl EngineApi,
    survey: &Survey,
    events_until: Option<Time>,
    now: Time,
) -> Answer<Observations> {
    let containers = survey.containers.as_ref().map_err(Unavailable::clone)?;
    // Events have the engine's time, which on another host is not ours.
    let until = survey.info.as_ref().ok().and_then(|info| info.time).unwrap_or(now);
    let since = replay_since(events_until, until);
    // By reference: when the first use began that is known, and the latest use.
    let mut by_events: HashMap<String, (Option<Time>, Time)> = HashMap::new();
    let mut events = recent_uses(engine, since, until).await?;
    events.sort_by_key(|event| event.at);
    for ImageEvent { image, at, is_creation } in events {
        // One that begins with another event was in use before.
        by_events.entry(image).or_insert((is_creation.then_some(at), at)).1 = at;
    }
    let mut uses = Vec::new();
    for container in containers {
        // A container that exists uses it by the same name: its image ID is known.
        let by_event = by_events.remove(&container.image);
        uses.push(ImageUse {
            image: container.image_id.clone(),
            name_tag: name_tag(&container.image),
            at: until,
            began: by_event.map_or(container.created, |(began, _)| began.min(container.created)),
        });
    }
    // A mount has only the reference that was given, not the image's ID.
    let mounted = containers.iter().flat_map(|container| {
        container.mounted_images.iter().map(|reference| (reference.clone(), (container.created, until)))
    });
    by_events.extend(mounted);
    for (reference, (began, at)) in by_events {
        match engine.image(&reference).await {
            Ok(image) => uses.extend(image.map(|image| ImageUse {
                image: image.id,
                name_tag: name_tag(&reference),
                at,
                began,
            })),
            // The engine may not know the reference any more.
            Err(error) if error.status().is_some() => log::debug!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Observations { uses, specs: vec![], until: Some(until), all: None })
}

async fn recent_uses(engine: &impl EngineApi, since: Time, until: Time) -> Answer<Vec<ImageEvent>> {
    let events = engine.uses(since, until).await;
    events.map_err(|error| Unavailable(format!("the engine's recent events: {error}")))
}

/// What exists now, and the names by which services and tasks use it.
fn list(seen: &mut Observations, inventory: &Inventory, now: Time) {
    let by_digest: HashMap<&str, &str> = inventory
        .images
        .iter()
        .flat_map(|image| image.digests.iter().map(|digest| (digest, image.id.as_str())))
        .filter_map(|(reference, id)| Some((Reference::parse(reference).digest?, id)))
        .collect();
    let now = seen.until.unwrap_or(now);
    let specs = inventory.services.iter().map(|service| &service.image);
    let tasks = inventory.tasks.iter().filter(|task| task.state.is_live()).map(|task| &task.image);
    for reference in specs.chain(tasks) {
        let image = Reference::parse(reference).digest.and_then(|digest| by_digest.get(digest));
        if let (Some(image), Some(name_tag)) = (image, name_tag(reference)) {
            let image = (*image).to_owned();
            seen.specs.push(ImageUse { image, name_tag: Some(name_tag), at: now, began: None });
        }
    }
    seen.list(&inventory.images);
}

/// List the images, record them in the observations and the ledger, and complete them. If the list fails, images
/// stay and everything else is still removed. Returns the layers that the ledger did not have.
pub async fn images(
    engine: &impl EngineApi,
    inventory: &mut Inventory,
    seen: &mut Observations,
    ledger: &mut Ledger,
    policy: &plan::Policy,
    usage: Option<&Usage>,
    now: Time,
) -> Vec<(String, Vec<Layer>)> {
    match engine.images().await {
        Ok(images) => {
            inventory.images = images;
            list(seen, inventory, now);
        }
        Err(error) => inventory.unread.push(unread(Kind::Image(ImageClass::Cached), "", error)),
    }
    ledger.record(seen, now);
    complete_images(engine, inventory, ledger, policy, now).await;
    let layers = layers(engine, inventory, ledger, policy, usage, now).await;
    ledger.record_layers(&layers);
    layers
}

/// One object that cannot be asked about must not keep everything else from being pruned.
fn unread(kind: Kind, id: &str, error: EngineError) -> Unread {
    Unread { kind, id: id.to_owned(), why: error.into() }
}

/// The answers to a question about each of these objects, by ID.
async fn ask_each<T>(ids: Vec<String>, ask: impl AsyncFn(&str) -> T) -> HashMap<String, T> {
    let ask = &ask;
    let answers = stream::iter(ids).map(|id| async move {
        let answer = ask(&id).await;
        (id, answer)
    });
    answers.buffer_unordered(AT_A_TIME).collect().await
}

/// Complete the inventory by the build cache, and by what only inspecting shows, of containers that may be removed.
pub async fn complete_containers(
    engine: &impl EngineApi,
    inventory: &mut Inventory,
    ledger: &Ledger,
    policy: &plan::Policy,
    now: Time,
) {
    let ended = containers::wanting_inspection(inventory, ledger, policy, now)
        .map(|container| container.id.clone())
        .collect();
    let ended = ask_each(ended, async |id| engine.inspect_container(id).await);
    let (build_cache, mut ended) = tokio::join!(engine.build_cache(), ended);
    match build_cache {
        Ok(records) => inventory.build_cache = records,
        Err(error) => inventory.unread.push(unread(Kind::BuildCache, "", error)),
    }
    for container in &mut inventory.containers {
        match ended.remove(&container.id) {
            Some(Ok(None)) | None => {}
            Some(Ok(Some(inspected))) => {
                container.finished = inspected.finished;
                container.restart_policy = inspected.restart_policy;
            }
            Some(Err(error)) => {
                inventory.unread.push(unread(Kind::Container, &container.id, error));
            }
        }
    }
}

/// Complete the inventory by what only single questions tell of dangling images that may go.
async fn complete_images(
    engine: &impl EngineApi,
    inventory: &mut Inventory,
    ledger: &Ledger,
    policy: &plan::Policy,
    now: Time,
) {
    let dangling =
        images::needing_tag_time(inventory, ledger, policy, now).map(|image| image.id.clone()).collect();
    let inspect = async |id: &str| {
        let mut image = engine.image(id).await;
        if let Ok(Some(image)) = &mut image {
            image.untagged_parents = untagged_parents(engine, image.parent.clone()).await;
        }
        image
    };
    let mut inspected = ask_each(dangling, inspect).await;
    for image in &mut inventory.images {
        match inspected.remove(&image.id) {
            Some(Ok(None)) | None => {}
            Some(Ok(Some(inspected))) => {
                image.last_tagged = inspected.last_tagged;
                image.untagged_parents = inspected.untagged_parents;
            }
            Some(Err(error)) => {
                inventory.unread.push(unread(Kind::Image(ImageClass::Dangling), &image.id, error))
            }
        }
    }
}

/// The layers of the images of which the ledger does not know them so far, where images may be evicted: an image's
/// layers never change, so that each is asked about once.
async fn layers(
    engine: &impl EngineApi,
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &plan::Policy,
    usage: Option<&Usage>,
    now: Time,
) -> Vec<(String, Vec<Layer>)> {
    if !images::wants_layers(inventory, ledger, policy, usage, now) {
        return vec![];
    }
    let is_unknown =
        |image: &&Image| ledger.images.get(&image.id).is_some_and(|entry| entry.layers.is_none());
    let unknown = stream::iter(inventory.images.iter().filter(is_unknown)).map(|image| async move {
        let layers = engine.layers(image).await.unwrap_or_else(|error| {
            log::debug!("{error}");
            None
        });
        Some((image.id.clone(), layers?))
    });
    unknown.buffer_unordered(AT_A_TIME).filter_map(|known| async { known }).collect().await
}

/// Parents up the chain, at most: no Dockerfile has more steps.
const MAX_PARENTS: usize = 128;

/// The number of untagged parents that are removed with an image: the engine removes each as its last child goes,
/// up to one with a name. If one cannot be read, the number so far.
async fn untagged_parents(engine: &impl EngineApi, mut parent: Option<String>) -> usize {
    for n in 0..MAX_PARENTS {
        let Some(id) = parent else { return n };
        match engine.image(&id).await {
            Ok(Some(image)) if image.is_nameless() => parent = image.parent,
            _ => return n,
        }
    }
    MAX_PARENTS
}

/// Record what containers, and the events since the last record, show to be in use; and make this change too.
/// Returns the ledger.
pub async fn record_usage<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    now: Time,
    change: impl FnOnce(&mut Ledger),
) -> Answer<Ledger> {
    let seen = image_uses(engine, survey, world.ledger().events_until, now).await?;
    let change = |ledger: &mut Ledger| {
        ledger.record(&seen, now);
        change(ledger);
    };
    Ok(world.update_ledger(now, change).await?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::facts::{
        CacheRecord, Container, ContainerState, Containerd, Inhibitor, Inspected, Task, label,
    };
    use crate::gates::{self, GateState, Gates, Verdict, converge};
    use crate::ledger::Entry;
    use crate::testing::fake::Fake;
    use crate::testing::{ago, block, container, image, labels, now, policy, service, task, usage};

    fn event(image: &str, at: &str) -> ImageEvent {
        ImageEvent { image: image.into(), at: ago(at).unwrap(), is_creation: true }
    }

    fn surveyed(fake: Fake, questions: Questions) -> (Survey, Rc<Fake>) {
        let fake = Rc::new(fake);
        (block(survey(&fake, &fake, questions, &[])), fake)
    }

    fn gates_of(fake: Fake) -> Gates {
        let policy = crate::testing::gates_policy();
        gates::evaluate(&surveyed(fake, Questions::EVERYTHING).0, &policy, now())
    }

    fn uses_of(fake: Fake, events_until: Option<Time>) -> (Answer<Observations>, Rc<Fake>) {
        let fake = Rc::new(fake);
        let seen = block(async {
            let survey = survey(&fake, &fake, Questions::IN_USE, &[]).await;
            image_uses(&fake, &survey, events_until, now()).await
        });
        (seen, fake)
    }

    #[test]
    fn events_are_replayed_since_the_last_note_or_from_the_first_where_the_clock_went_back() {
        let epoch = Time::UNIX_EPOCH;
        for (noted, engine, since) in [
            (None, now(), epoch),
            (ago("1h"), now(), ago("1h").unwrap()),
            (Some(now()), now(), now()),
            // The engine's clock is an hour behind the last note.
            (ago("1h"), ago("2h").unwrap(), epoch),
        ] {
            let mut fake = Fake::new();
            fake.info.time = Some(engine);
            let (seen, fake) = uses_of(fake, noted);
            assert_eq!(fake.asked("uses"), [format!("uses {since} {engine}")], "{noted:?}");
            assert_eq!(seen.unwrap().until, Some(engine));
        }
        let mut fake = Fake::new();
        fake.info.time = None;
        assert_eq!(uses_of(fake, None).0.unwrap().until, Some(now()), "an engine that shows no clock");
    }

    #[test]
    fn a_use_is_a_container_of_now_or_the_latest_event_of_an_image_that_is_there() {
        let mut fake = Fake::new();
        let named = |id: &str, tag: &str| Image { tags: vec![tag.into()], ..image(id) };
        *fake.images.borrow_mut() = vec![named("aaaa", "db:1"), named("bbbb", "web:1"), named("1a", "app:1")];
        fake.containers = vec![
            container(),
            Container { image_id: "sha256:cc".into(), mounted_images: vec!["web:1".into()], ..container() },
        ];
        fake.events = vec![
            event("db:1", "3h"),
            event("db:1", "1h"),
            event("db:1", "2h"),
            // That of a container which is there needs no question.
            event("app:1", "5m"),
            event("gone:1", "5m"),
            event("web:1", "5h"),
        ];
        let (seen, fake) = uses_of(fake, None);
        let seen = seen.unwrap();
        let mut uses: Vec<_> = seen
            .uses
            .iter()
            .map(|used| (used.image.as_str(), used.name_tag.as_deref().unwrap_or(""), used.at))
            .collect();
        uses.sort_unstable();
        let expected = [
            ("sha256:1a", "app:1", now()),
            ("sha256:aaaa", "db:1", ago("1h").unwrap()),
            // Mounted now.
            ("sha256:bbbb", "web:1", now()),
            ("sha256:cc", "app:1", now()),
        ];
        assert_eq!(uses, expected);
        let began = |seen: &Observations| {
            seen.uses.iter().find(|used| used.image == "sha256:aaaa").map(|used| used.began)
        };
        assert_eq!(began(&seen), Some(ago("3h")), "with the first container");
        let mut asked = fake.asked("image ");
        asked.sort_unstable();
        assert_eq!(asked, ["image db:1", "image gone:1", "image web:1"]);
        assert!(seen.specs.is_empty() && seen.all.is_none());
        // One of which an earlier container only ended was in use before.
        let mut fake = Fake::new();
        fake.events = vec![ImageEvent { is_creation: false, ..event("db:1", "3h") }, event("db:1", "1h")];
        *fake.images.borrow_mut() = vec![named("aaaa", "db:1")];
        assert_eq!(began(&uses_of(fake, None).0.unwrap()), Some(None));
    }

    #[test]
    fn an_engine_that_stops_answering_loses_no_use_in_silence() {
        let fake = || {
            let mut fake = Fake::new();
            fake.events = vec![event("db:1", "1h")];
            fake
        };
        // A name that only its own container understood.
        assert!(uses_of(fake().failing("image db:1", 400), None).0.unwrap().uses.is_empty());
        let mut lost = fake();
        lost.failures.insert("image db:1".into(), crate::testing::loss("GET /images"));
        assert!(uses_of(lost, None).0.unwrap_err().0.contains("was lost"));
        let mut slow = fake();
        let timeout = crate::testing::timeout("GET /images", std::time::Duration::from_secs(30));
        slow.failures.insert("image db:1".into(), timeout);
        assert!(uses_of(slow, None).0.is_err());
        let until = format!("uses {} {}", Time::UNIX_EPOCH, now());
        let error = uses_of(fake().failing(&until, 500), None).0.unwrap_err();
        assert!(error.0.starts_with("the engine's recent events: "), "{error}");
        assert!(uses_of(fake().failing("containers All", 500), None).0.is_err());
    }

    #[test]
    fn each_command_asks_what_it_needs() {
        let asked = |questions, fake: Fake| {
            let mut requests = surveyed(fake, questions).1.requests.borrow().clone();
            requests.sort_unstable();
            requests.join(", ")
        };
        let disk = "engine traces, info, ";
        for (questions, expected) in [
            (Questions::NONE, "info".to_owned()),
            (Questions { disk: true, ..Questions::NONE }, format!("{disk}measure /var/lib/docker")),
            (Questions::IN_USE, "containers All, info".into()),
            (Questions::DEPLOYS, "containers All, info, inhibitors, services, tasks".into()),
            (
                Questions::EVERYTHING,
                format!("containers All, {disk}inhibitors, measure /var/lib/docker, services, tasks"),
            ),
        ] {
            assert_eq!(asked(questions, Fake::new()), expected);
        }
        let global = |mode| {
            let mut fake = Fake::new();
            fake.services = vec![Service { mode, ..service() }];
            fake
        };
        for mode in [Mode::Global, Mode::GlobalJob] {
            assert!(asked(Questions::DEPLOYS, global(mode)).contains("nodes"));
            let services = Questions { services: true, ..Questions::NONE };
            assert!(!asked(services, global(mode)).contains("nodes"));
        }
        assert!(!asked(Questions::DEPLOYS, global(Mode::Replicated { replicas: 1 })).contains("nodes"));
    }

    #[test]
    fn a_node_that_is_no_manager_says_why_it_cannot_see_the_services() {
        let of = |state: SwarmState, elsewhere| {
            let mut fake = Fake::new().failing("services", 503).failing("tasks", 503);
            fake.info.swarm.state = state;
            fake.manager_elsewhere = elsewhere;
            surveyed(fake, Questions::EVERYTHING).0
        };
        for (state, part) in [
            (SwarmState::Worker, "name a manager with --swarm-host"),
            (SwarmState::Locked, "docker swarm unlock"),
            (SwarmState::Pending, "still joining"),
            (SwarmState::Manager, "503: simulated"),
            (SwarmState::Failed("x".into()), "503: simulated"),
        ] {
            let error = of(state.clone(), false).services.unwrap_err();
            assert!(error.0.contains(part), "{state:?}: {error}");
        }
        let none = of(SwarmState::Inactive, false);
        assert_eq!((none.services, none.tasks), (Ok(vec![]), Ok(vec![])));
        // What another engine does not answer has nothing to do with this node.
        for state in [SwarmState::Worker, SwarmState::Inactive] {
            assert!(of(state, true).services.unwrap_err().0.contains("503"));
        }
    }

    #[test]
    fn a_gate_alone_is_unknown_where_its_question_is_unanswered() {
        let judged = |fake: Fake| {
            let gates = gates_of(fake);
            (gates.runs.state(), gates.converge.state())
        };
        let manager = || {
            let mut fake = Fake::new();
            fake.info.swarm.state = SwarmState::Manager;
            fake
        };
        assert_eq!(judged(manager()), (GateState::Open, GateState::Open));
        assert_eq!(
            judged(manager().failing("containers All", 500)),
            (GateState::Unknown, GateState::Unknown)
        );
        assert_eq!(judged(manager().failing("services", 500)), (GateState::Unknown, GateState::Unknown));
        assert_eq!(judged(manager().failing("tasks", 500)), (GateState::Open, GateState::Unknown));
        assert_eq!(judged(manager().failing("info", 500)), (GateState::Open, GateState::Unknown));
        assert_eq!(judged(manager().failing("inhibitors", 500)), (GateState::Unknown, GateState::Open));
    }

    #[test]
    fn the_gate_disk_measures_what_is_named_else_all_that_holds_the_engines_data() {
        let measured = |paths: &[&str]| {
            let mut fake = Fake::new();
            fake.info.containerd_store = true;
            fake.traces.containerd = Some(Containerd { separate: false, root: Some("/c".into()) });
            let fake = Rc::new(fake);
            let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
            block(survey(&fake, &fake, Questions::EVERYTHING, &paths));
            fake.asked("measure").join(", ")
        };
        assert_eq!(measured(&[]), "measure /var/lib/docker /c");
        assert_eq!(measured(&["/a", "/b"]), "measure /a /b");
    }

    #[test]
    fn a_manager_that_still_finds_its_containers_is_closed() {
        let mut fake = Fake::new();
        fake.info.swarm = crate::facts::Swarm { state: SwarmState::Manager, node: Some("node".into()) };
        fake.services = vec![service()];
        fake.tasks = vec![task()];
        let restoring = Verdict::Closed(converge::Closed::EngineRestoring(1));
        assert_eq!(gates_of(fake).converge, restoring);
    }

    #[test]
    fn what_a_spec_names_now_is_dated_by_the_engines_clock() {
        let ahead = ago("0s").unwrap() + jiff::SignedDuration::from_hours(1);
        let inventory = Inventory {
            images: vec![image("aaaa")],
            services: vec![Service { image: "app:1@sha256:daaaa".into(), ..service() }],
            ..Inventory::default()
        };
        let mut seen = Observations { until: Some(ahead), ..Observations::default() };
        list(&mut seen, &inventory, now());
        assert_eq!(seen.specs[0].at, ahead);
    }

    #[test]
    fn a_node_that_is_away_is_not_waited_for_unless_that_is_not_known() {
        let converges = |fake: Fake| gates_of(fake).converge.state();
        let global = || {
            let mut fake = Fake::new();
            fake.info.swarm.state = SwarmState::Manager;
            fake.services =
                vec![Service { mode: Mode::Global, status: None, updated: ago("1h"), ..service() }];
            fake.services[0].status = service().status;
            let failed = Task {
                node: Some("away".into()),
                desired: crate::facts::Desired::Over,
                state: crate::facts::TaskState::Failed,
                ..task()
            };
            fake.tasks = vec![failed];
            fake.nodes_away = HashSet::from(["away".into()]);
            fake
        };
        assert_eq!(converges(global()), GateState::Open);
        assert_eq!(converges(global().failing("nodes", 500)), GateState::Closed);
    }

    #[test]
    fn only_what_a_proof_that_was_killed_left_is_left() {
        let found = |change: &dyn Fn(&mut Fake)| {
            let mut fake = Fake::new();
            fake.info.swarm = crate::facts::Swarm { state: SwarmState::Manager, node: Some("here".into()) };
            fake.services = vec![service(), Service { name: "proof".into(), ..service() }];
            fake.services[1].labels = labels(&[(label::PROOF, "here")]);
            change(&mut fake);
            surveyed(fake, Questions::EVERYTHING).0.left_by_proofs().join(" ")
        };
        let inhibitor = |why: &str| Inhibitor { pid: None, since: None, why: Some(why.into()), user: None };
        assert_eq!(found(&|_| ()), "proof");
        assert_eq!(found(&|fake| *fake.inhibitors.borrow_mut() = vec![inhibitor("deploy")]), "proof");
        assert_eq!(found(&|fake| *fake.inhibitors.borrow_mut() = vec![inhibitor("verify --redeploy x")]), "");
        assert_eq!(found(&|fake| fake.info.swarm.node = Some("elsewhere".into())), "");
        assert_eq!(found(&|fake| fake.info.swarm.node = None), "");
        // It is not known whether one is running.
        let unread = crate::testing::loss("x");
        assert_eq!(found(&|fake| drop(fake.failures.insert("inhibitors".into(), unread.clone()))), "");
    }

    #[test]
    fn the_engines_places_are_those_of_this_host() {
        let places = |change: &dyn Fn(&mut Fake)| {
            let mut fake = Fake::new();
            change(&mut fake);
            surveyed(fake, Questions { disk: true, ..Questions::NONE }).0.places
        };
        let at = |images: &str, certain| {
            Ok(Some(EnginePlaces { root: "/var/lib/docker".into(), images: images.into(), certain }))
        };
        assert_eq!(places(&|_| ()), at("/var/lib/docker", true));
        assert_eq!(places(&|fake| fake.is_remote = true), Ok(None));
        assert_eq!(places(&|fake| fake.traces.root_exists = Some(false)), Ok(None));
        assert_eq!(places(&|fake| fake.traces.root_is_shared = None), at("/var/lib/docker", false));
        assert_eq!(
            places(&|fake| {
                fake.info.containerd_store = true;
                fake.traces.containerd = Some(Containerd { separate: true, root: Some("/c".into()) });
            }),
            at("/c", true)
        );
        let lost = crate::testing::loss("info");
        let unknown = places(&|fake| drop(fake.failures.insert("info".into(), lost.clone())));
        assert!(unknown.unwrap_err().0.contains("was lost"));
        let two = EnginePlaces { root: "/d".into(), images: "/c".into(), certain: true };
        assert_eq!(two.all(), ["/d", "/c"].map(PathBuf::from));
        assert_eq!(EnginePlaces { images: "/d".into(), ..two }.all(), ["/d"].map(PathBuf::from));
    }

    fn dangling(id: &str) -> Image {
        Image { digests: vec![], ..image(id) }
    }

    /// A ledger that has known these images for nine days.
    fn known(ids: &[&str]) -> Ledger {
        let entries = ids.iter().map(|id| (format!("sha256:{id}"), Entry::new(ago("9d").unwrap())));
        Ledger { images: entries.collect(), ..Ledger::default() }
    }

    type Listed = (Inventory, Observations, Ledger, Vec<(String, Vec<Layer>)>);

    fn list_of(fake: &Rc<Fake>, mut ledger: Ledger) -> Listed {
        let mut seen = Observations::default();
        let mut inventory =
            Inventory { services: fake.services.clone(), tasks: fake.tasks.clone(), ..Inventory::default() };
        let usage = usage(85);
        let layers =
            block(images(fake, &mut inventory, &mut seen, &mut ledger, &policy(), Some(&usage), now()));
        (inventory, seen, ledger, layers)
    }

    #[test]
    fn a_dangling_image_that_may_go_is_asked_for_its_last_tag_and_its_parents() {
        let mut fake = Fake::new();
        let tagged = Image { last_tagged: ago("1h"), parent: Some("sha256:0001".into()), ..dangling("aaaa") };
        let parents = [
            Image { parent: Some("sha256:0002".into()), ..dangling("0001") },
            Image { parent: Some("sha256:0003".into()), ..dangling("0002") },
            // This one has a name.
            Image { parent: Some("sha256:0004".into()), ..image("0003") },
        ];
        let images = [tagged, dangling("bbbb"), image("cccc"), dangling("dddd")].into_iter().chain(parents);
        *fake.images.borrow_mut() = images.collect();
        fake = fake.failing("image sha256:bbbb", 500);
        let fake = Rc::new(fake);
        let (inventory, _, _, _) = list_of(&fake, known(&["aaaa", "bbbb", "cccc"]));
        let found = |id: &str| inventory.images.iter().find(|image| image.id.ends_with(id)).unwrap().clone();
        assert_eq!((found("aaaa").last_tagged, found("aaaa").untagged_parents), (ago("1h"), 2));
        let unread: Vec<_> =
            inventory.unread.iter().map(|unread| (unread.kind, unread.id.as_str())).collect();
        assert_eq!(unread, [(Kind::Image(ImageClass::Dangling), "sha256:bbbb")]);
        // One with a name, and one that is too young, need no question.
        assert!(fake.asked("image sha256:cccc").is_empty() && fake.asked("image sha256:dddd").is_empty());
    }

    #[test]
    fn a_chain_of_parents_ends_where_it_cannot_be_followed() {
        let count = |fake: Fake, first: &str| {
            block(untagged_parents(&Rc::new(fake), Some(format!("sha256:{first}"))))
        };
        let fake = || {
            let fake = Fake::new();
            let looped = Image { parent: Some("sha256:1111".into()), ..dangling("1111") };
            *fake.images.borrow_mut() = vec![looped];
            fake
        };
        assert_eq!(count(fake(), "1111"), MAX_PARENTS);
        assert_eq!(count(fake(), "2222"), 0);
        assert_eq!(count(fake().failing("image sha256:1111", 500), "1111"), 0);
        assert_eq!(block(untagged_parents(&Rc::new(fake()), None)), 0);
    }

    #[test]
    fn a_list_that_does_not_come_is_told_and_forgets_nothing() {
        let fake = Rc::new(Fake::new().failing("images", 500));
        let (inventory, seen, ledger, _) = list_of(&fake, known(&["aaaa"]));
        let unread: Vec<_> =
            inventory.unread.iter().map(|unread| (unread.kind, unread.id.as_str())).collect();
        assert_eq!(unread, [(Kind::Image(ImageClass::Cached), "")]);
        assert!(seen.all.is_none() && inventory.images.is_empty());
        assert_eq!(ledger.images["sha256:aaaa"].missing_since, None);
    }

    #[test]
    fn specs_and_live_tasks_tell_by_which_name_an_image_is_known() {
        let mut fake = Fake::new();
        *fake.images.borrow_mut() = vec![image("aaaa"), image("bbbb")];
        fake.services = vec![Service { image: "app:1@sha256:daaaa".into(), ..service() }];
        let of = |state, image: &str| Task { state, image: image.into(), ..task() };
        fake.tasks = vec![
            of(crate::facts::TaskState::Preparing, "app:2@sha256:dbbbb"),
            of(crate::facts::TaskState::Failed, "app:3@sha256:dbbbb"),
            // It is not there.
            of(crate::facts::TaskState::Running, "app:4@sha256:none"),
            of(crate::facts::TaskState::Running, "app:5"),
        ];
        let (_, seen, ledger, _) = list_of(&Rc::new(fake), Ledger::default());
        let specs: Vec<_> =
            seen.specs.iter().map(|used| (used.image.as_str(), used.name_tag.clone())).collect();
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(specs, [("sha256:aaaa", named("app:1")), ("sha256:bbbb", named("app:2"))]);
        assert_eq!(seen.specs[0].at, now());
        assert!(ledger.images["sha256:bbbb"].references.contains_key("app:2"));
        assert_eq!(seen.all.unwrap().len(), 2);
    }

    #[test]
    fn layers_are_asked_once_of_what_may_go_and_an_image_without_an_answer_is_asked_again() {
        let fake = |failing: bool| {
            let mut fake = Fake::new();
            *fake.images.borrow_mut() = vec![image("aaaa"), image("bbbb")];
            let layer = |name: &str| vec![Layer::new(name, 1)];
            fake.layers =
                HashMap::from([("sha256:aaaa".into(), layer("a")), ("sha256:bbbb".into(), layer("b"))]);
            Rc::new(if failing { fake.failing("layers sha256:aaaa", 500) } else { fake })
        };
        let first = fake(true);
        let (_, _, mut ledger, layers) = list_of(&first, known(&["aaaa", "bbbb"]));
        assert_eq!(layers, [("sha256:bbbb".to_owned(), vec![Layer::new("b", 1)])]);
        assert_eq!(ledger.images["sha256:aaaa"].layers, None);
        let again = fake(false);
        ledger = list_of(&again, ledger).2;
        assert_eq!(again.asked("layers"), ["layers sha256:aaaa"]);
        assert!(ledger.images["sha256:aaaa"].layers.is_some());
        // Nothing is old enough to go.
        let young = fake(false);
        list_of(&young, Ledger::default());
        assert!(young.asked("layers").is_empty());
    }

    #[test]
    fn containers_that_may_go_are_asked_for_their_end_and_what_is_unanswered_is_told() {
        let mut fake = Fake::new().failing("container bbbb", 500).failing("build cache", 500);
        let ended = |id: &str| Container { id: id.into(), state: ContainerState::Exited, ..container() };
        let inspected = Inspected { finished: ago("2d"), restart_policy: Some("always".into()) };
        fake.inspected = HashMap::from([("aaaa".into(), inspected)]);
        let fake = Rc::new(fake);
        let mut inventory = Inventory {
            containers: vec![ended("aaaa"), ended("bbbb"), ended("cccc"), container()],
            ..Inventory::default()
        };
        block(complete_containers(&fake, &mut inventory, &Ledger::default(), &policy(), now()));
        let ends: Vec<_> = inventory.containers.iter().map(|container| container.finished).collect();
        assert_eq!(ends, [ago("2d"), None, None, None]);
        assert_eq!(inventory.containers[0].restart_policy.as_deref(), Some("always"));
        let unread: Vec<_> =
            inventory.unread.iter().map(|unread| (unread.kind, unread.id.as_str())).collect();
        assert_eq!(unread, [(Kind::BuildCache, ""), (Kind::Container, "bbbb")]);
        assert_eq!(fake.asked("container ").len(), 3, "one that runs needs no question");
        let record = CacheRecord { size: 7, in_use: false, shared: false, internal: false, last_used: None };
        let mut fake = Fake::new();
        fake.build_cache = vec![record.clone()];
        let mut inventory = Inventory::default();
        block(complete_containers(&Rc::new(fake), &mut inventory, &Ledger::default(), &policy(), now()));
        assert_eq!(inventory.build_cache, [record]);
    }

    #[test]
    fn a_record_is_written_with_the_change_or_says_why_not() {
        let recorded = |fake: Fake| {
            let fake = Rc::new(fake);
            let noted = block(async {
                let survey = survey(&fake, &fake, Questions::IN_USE, &[]).await;
                record_usage(&fake, &fake, &survey, now(), |ledger| ledger.last_run = Some(now())).await
            });
            (noted, fake)
        };
        let used = || Fake { containers: vec![container()], ledger: RefCell::default(), ..Fake::new() };
        let (noted, fake) = recorded(used());
        assert_eq!(noted, Ok(fake.ledger.borrow().clone()));
        let ledger = fake.ledger.borrow();
        assert_eq!((ledger.images["sha256:1a"].last_used, ledger.last_run), (Some(now()), Some(now())));
        assert!(recorded(used().failing("update ledger", 500)).0.is_err());
        let inventory = |fake: Fake| surveyed(fake, Questions::EVERYTHING).0.inventory();
        assert_eq!(inventory(used()).unwrap().containers, [container()]);
        let mut store = Fake::new();
        store.info.containerd_store = true;
        assert!(inventory(store).unwrap().containerd_store && !inventory(used()).unwrap().containerd_store);
        for request in ["containers All", "services", "tasks"] {
            let mut manager = used().failing(request, 500);
            manager.info.swarm.state = SwarmState::Manager;
            assert!(inventory(manager).is_err(), "{request}");
        }
    }
}
