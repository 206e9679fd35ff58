//! Scenarios that a simulated and a real engine go through alike: the same deeds, and then what the program's own
//! interface to the engine shows, compared as text. Where the two differ, the simulation is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use ci_docker_prune::commands::prune;
use ci_docker_prune::facts::eviction_tag;
use ci_docker_prune::facts::{Container, Image};
use ci_docker_prune::prune::report::PruneReport;
use ci_docker_prune::report::progress;
use ci_docker_prune::world::{ContainerScope, EngineApi, EngineEvents, EngineOrders, StopEvent, World};
use regex::Regex;

use crate::engine::{self, ContainerState, State, Store};
use crate::run::settings;
use crate::world::Simulated;

/// What an image is named by in an order.
#[derive(Debug, Clone, Copy)]
pub enum By {
    Id,
    Tag(&'static str),
    /// `name@sha256:…`.
    Digest,
    OurTag,
}

/// A deed of others, or an order of ours. Images and containers are named as the scenario names them.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// `docker service create`, until its task runs.
    Deploy(&'static str),
    /// `docker service rm`, until its container is gone.
    Undeploy(&'static str),
    /// `docker pull` of `name:1@sha256:…`.
    Pull(&'static str),
    /// `docker run --detach` of `name:1@sha256:…`, in a container of the image's name.
    Run(&'static str),
    /// `docker stop` of it.
    Stop(&'static str),
    /// `docker tag`.
    Tag(&'static str, &'static str),
    /// `docker image rm` of a tag.
    Untag(&'static str, &'static str),
    /// Of the daemon, until it answers and lists its containers.
    Restart,
    RemovalReason(&'static str, By),
    TagOurs(&'static str),
    RestoreTag(&'static str, &'static str),
    RemoveContainer(&'static str),
    /// The program's whole prune of everything that may go.
    Prune,
}

/// Images, each with a layer of its own and one that all share, and what happens to them.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub images: &'static [&'static str],
    pub acts: &'static [Act],
}

use Act::{
    Deploy, Prune, Pull, RemovalReason, RemoveContainer, Restart, RestoreTag, Run, Stop, Tag, TagOurs,
    Undeploy, Untag,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "what Swarm leaves is found again without a download",
        images: &["alpha", "beta"],
        acts: &[Deploy("alpha"), Undeploy("alpha"), Deploy("beta"), Undeploy("beta"), Deploy("alpha")],
    },
    Scenario {
        name: "an eviction in its steps",
        images: &["alpha", "beta"],
        acts: &[
            Pull("alpha"),
            Pull("beta"),
            TagOurs("alpha"),
            RemovalReason("alpha", By::Digest),
            RemovalReason("alpha", By::OurTag),
            RemovalReason("alpha", By::OurTag),
            Deploy("alpha"),
        ],
    },
    Scenario {
        name: "a deploy in the middle of an eviction downloads nothing",
        images: &["alpha"],
        acts: &[
            Deploy("alpha"),
            Undeploy("alpha"),
            TagOurs("alpha"),
            RemovalReason("alpha", By::Digest),
            Deploy("alpha"),
            RemovalReason("alpha", By::OurTag),
            RemovalReason("alpha", By::Digest),
        ],
    },
    Scenario {
        name: "tags stand beside the digest",
        images: &["alpha", "beta"],
        acts: &[
            Pull("alpha"),
            Tag("alpha", "alpha:mine"),
            Tag("alpha", "other:mine"),
            RemovalReason("alpha", By::Id),
            RemovalReason("alpha", By::Digest),
            RemovalReason("alpha", By::Tag("alpha:mine")),
            RestoreTag("alpha", "alpha:mine"),
            Untag("alpha", "other:mine"),
            RemovalReason("alpha", By::Tag("alpha:mine")),
        ],
    },
    Scenario {
        name: "what a container uses stays",
        images: &["alpha", "beta"],
        acts: &[
            Run("alpha"),
            RemovalReason("alpha", By::Digest),
            RemovalReason("alpha", By::Id),
            Stop("alpha"),
            RemovalReason("alpha", By::Id),
            RemoveContainer("alpha"),
            RemoveContainer("alpha"),
            RemovalReason("alpha", By::Id),
            Run("beta"),
            RemoveContainer("beta"),
        ],
    },
    Scenario {
        name: "a restart keeps what runs",
        images: &["alpha", "beta"],
        acts: &[
            Deploy("alpha"),
            Pull("beta"),
            Restart,
            RemovalReason("alpha", By::Digest),
            RemovalReason("beta", By::Digest),
        ],
    },
    Scenario {
        name: "a whole prune",
        images: &["alpha", "beta", "gamma", "delta"],
        acts: &[
            Deploy("alpha"),
            Deploy("beta"),
            Undeploy("beta"),
            Pull("gamma"),
            Tag("gamma", "gamma:mine"),
            Run("delta"),
            Stop("delta"),
            Prune,
            Deploy("beta"),
            Undeploy("alpha"),
            Prune,
            Prune,
        ],
    },
];

/// An engine that scenarios are played on.
#[expect(async_fn_in_trait, reason = "nothing is sent to another thread: the runtime has one")]
pub trait Stage {
    type World: World;
    fn world(&self) -> &Self::World;
    /// Do what another does, and wait until the engine is done with it.
    async fn act(&self, act: Act);
    /// The ID of an image, and the digest that it is pulled by.
    fn id(&self, image: &str) -> String;
    fn digest(&self, image: &str) -> String;
    /// A repository, as this engine's images have it.
    fn repository(&self, name: &str) -> String;
    /// How often the layer that only this image has was downloaded.
    fn downloads(&self, image: &str) -> usize;
}

/// Play a scenario; a line for each act and what is there after it.
///
/// # Panics
/// When the engine does not answer.
pub async fn play<S: Stage>(scenario: &Scenario, stage: &S) -> Vec<String> {
    let mut lines = Vec::new();
    let pattern = Regex::new("_ci_commoninternet_net").expect("a pattern");
    for act in scenario.acts {
        let engine = stage.world().connect().await.expect("an engine");
        let since = stage.world().now();
        let events = engine.subscribe(since, &pattern).await.expect("events");
        let answer = order(stage, &engine, *act).await;
        // Events come when they come; a daemon that ends closes their stream at once.
        let mut sign = None;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sign = events.poll().await.stops.into_iter().next();
            if sign.is_some() {
                break;
            }
        }
        let engine = stage.world().connect().await.expect("an engine");
        lines.push(format!("{act:?}: {answer}; events: {}", shown_sign(sign)));
        lines.extend(look(scenario, stage, &engine).await.into_iter().map(|line| format!("  {line}")));
    }
    lines
}

async fn order<S: Stage>(stage: &S, engine: &<S::World as World>::Engine, act: Act) -> String {
    let orders = engine.orders();
    let in_full = |name_tag: &str| {
        let (name, tag) = name_tag.split_once(':').expect("a name and a tag");
        format!("{}:{tag}", stage.repository(name))
    };
    let done = match act {
        Act::RemovalReason(image, by) => {
            let reference = match by {
                By::Id => stage.id(image),
                By::Tag(name_tag) => in_full(name_tag),
                By::Digest => format!("{}@{}", stage.repository(image), stage.digest(image)),
                By::OurTag => eviction_tag(&stage.id(image)),
            };
            orders.remove_image(&reference).await
        }
        Act::TagOurs(image) => orders.tag_image(&stage.id(image)).await,
        Act::RestoreTag(image, name_tag) => orders.restore_tag(&stage.id(image), &in_full(name_tag)).await,
        Act::RemoveContainer(name) => {
            let all = engine.containers(ContainerScope::All).await.expect("containers");
            let id = all.into_iter().find(|container| container.names.iter().any(|own| own == name));
            orders.remove_container(&id.map_or_else(|| "none".to_owned(), |container| container.id)).await
        }
        Act::Prune => {
            let words = "--older-than 0s --disk-target 0 --disk-threshold 1 --disk-critical 100";
            let attempt = prune::attempt(
                stage.world(),
                &settings(words),
                false,
                Duration::ZERO,
                false,
                &progress::hidden(),
            )
            .await
            .attempt;
            return pruned(stage, &attempt.report);
        }
        _ => {
            stage.act(act).await;
            return "done".into();
        }
    };
    match done {
        Ok(done) => format!("{done:?}"),
        Err(error) if error.status().is_some_and(|(status, _)| status == 409) => "refused".into(),
        Err(error) => format!("{error}"),
    }
}

/// What a prune says that it did.
fn pruned<S: Stage>(stage: &S, report: &PruneReport) -> String {
    match report {
        PruneReport::Done(done) => {
            let outcome = &done.outcome;
            let names = |id: &str, names: &[String]| {
                names.iter().map(|name| plain(stage, name)).next().unwrap_or(id.into())
            };
            let mut removed: Vec<_> = outcome
                .removed
                .iter()
                .filter(|removal| removal.object.kind.name() != "build-cache")
                .map(|removal| {
                    format!(
                        "{} {}",
                        removal.object.kind.name(),
                        names(&removal.object.id, &removal.object.names)
                    )
                })
                .collect();
            removed.sort_unstable();
            let skipped = outcome.skipped.len();
            format!(
                "removed {removed:?}, {skipped} skipped, failed {:?}, {:?}",
                outcome.failed, outcome.stopped
            )
        }
        other => format!("{other:?}"),
    }
}

/// A name as the scenario has it.
fn plain<S: Stage>(stage: &S, name: &str) -> String {
    let short = name.replace(&stage.repository(""), "");
    short.split('@').next().unwrap_or(&short).to_owned()
}

fn shown_sign(sign: Option<StopEvent>) -> &'static str {
    match sign {
        None => "nothing that stops",
        Some(StopEvent::ServiceCreated(_)) => "service created",
        Some(StopEvent::ServiceUpdated(_)) => "service updated",
        Some(StopEvent::Run(_)) => "run",
        Some(StopEvent::Lost(_)) => "lost",
    }
}

/// What is there.
async fn look<S: Stage>(scenario: &Scenario, stage: &S, engine: &<S::World as World>::Engine) -> Vec<String> {
    let ids: BTreeMap<String, &str> = scenario.images.iter().map(|image| (stage.id(image), *image)).collect();
    let known = |id: &str| ids.get(id).map_or_else(|| id.to_owned(), |image| (*image).to_owned());
    let mut lines = Vec::new();
    for Image { id, .. } in engine.images().await.expect("images") {
        // The list leaves digests out where an image has several repositories (containerd).
        let image = engine.image(&id).await.expect("an image").expect("it is there");
        let Image { tags, digests, eviction_tag, .. } = image;
        let list = |names: Vec<String>| {
            let mut names: Vec<_> = names.iter().map(|name| plain(stage, name)).collect();
            names.sort_unstable();
            names.dedup();
            names.join(" ")
        };
        let ours = if eviction_tag.is_some() { ", ours" } else { "" };
        lines.push(format!(
            "image {}: tags [{}], by digest [{}]{ours}",
            known(&id),
            list(tags),
            list(digests)
        ));
    }
    for Container { names, image_id, state, .. } in
        engine.containers(ContainerScope::All).await.expect("containers")
    {
        let name = names.first().and_then(|name| name.split('.').next()).unwrap_or_default();
        lines.push(format!("container {name}: {} {}", known(&image_id), state.name()));
    }
    for service in engine.services().await.expect("services") {
        let status = service.status.expect("its count of tasks");
        lines.push(format!("service {}: {}/{}", service.name, status.running, status.desired));
    }
    lines.sort_unstable();
    let downloads = scenario.images.iter().map(|image| format!("{image} {}", stage.downloads(image)));
    lines.push(format!("downloads: {}", downloads.collect::<Vec<_>>().join(", ")));
    lines
}

/// The simulated engine.
pub struct SimulatedStage(Simulated);

impl SimulatedStage {
    pub fn new(store: Store, scenario: &Scenario) -> Self {
        const MB: u64 = 1 << 20;
        let mut state = State::new(store, 1_000 * MB);
        for name in scenario.images {
            let layers = vec![("base".to_owned(), MB), (format!("{name}-own"), MB)];
            state.registry.insert((*name).to_owned(), engine::Image::new(name, layers));
        }
        state.ballast = 500 * MB;
        Self(Simulated::new(state, ci_docker_prune::ledger::Ledger::default(), 2, 1, None))
    }
}

impl Stage for SimulatedStage {
    type World = Simulated;

    fn world(&self) -> &Simulated {
        &self.0
    }

    async fn act(&self, act: Act) {
        let shared = &self.0.0;
        if let Act::Run(image) = act {
            // It is pulled first.
            let there = shared.state.borrow().images.contains_key(&self.id(image));
            if !there {
                shared.state.borrow_mut().pull(shared.millis(), image);
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
        let now = shared.millis();
        {
            let mut state = shared.state.borrow_mut();
            state.advance(now);
            match act {
                Act::Deploy(image) => state.create_service(now, &format!("svc-{image}"), image),
                Act::Undeploy(image) => state.remove_service(&format!("svc-{image}")),
                Act::Pull(image) => state.pull(now, image),
                Act::Run(image) => {
                    let reference = state.registry[image].reference.clone();
                    state.run_container(now, image, &reference);
                }
                Act::Stop(name) => {
                    let container = state.containers.get_mut(name).expect("a container");
                    container.state = ContainerState::Exited(now);
                }
                Act::Tag(image, name_tag) => {
                    let id = self.id(image);
                    let stored = state.images.get_mut(&id).expect("an image");
                    stored.references.insert(name_tag.into());
                }
                Act::Untag(_, name_tag) => {
                    let decided = state.may_delete(name_tag);
                    state.delete(&decided);
                }
                Act::Restart => state.restart(now),
                Act::RemovalReason(..)
                | Act::TagOurs(_)
                | Act::RestoreTag(..)
                | Act::RemoveContainer(_)
                | Act::Prune => {
                    unreachable!("an order of ours")
                }
            }
        }
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            shared.state.borrow_mut().advance(shared.millis());
        }
    }

    fn id(&self, image: &str) -> String {
        format!("sha256:{image}")
    }

    fn digest(&self, image: &str) -> String {
        format!("sha256:d{image}")
    }

    fn repository(&self, name: &str) -> String {
        name.into()
    }

    fn downloads(&self, image: &str) -> usize {
        self.0.0.state.borrow().downloads.get(&format!("{image}-own")).copied().unwrap_or(0)
    }
}

/// Play a scenario on the simulated engine.
///
/// # Panics
/// When there is no runtime.
pub fn simulated(store: Store, scenario: &Scenario) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime
        .expect("a runtime")
        .block_on(async { play(scenario, &SimulatedStage::new(store, scenario)).await })
}
