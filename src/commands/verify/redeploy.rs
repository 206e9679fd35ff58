//! The proof of layer reuse: deploy, tear down, plan a prune, deploy again.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::checks::login::Credential;
use crate::checks::{Deployed, Redeploy};
use crate::commands::now;
use crate::engine::deploy::Progress;
use crate::engine::{Engine, deploy};
use crate::facts::{Inhibitor, Reference, SwarmState};
use crate::gates::disk::Usage;
use crate::host::child::Signal;
use crate::host::{docker_config, inhibitors};
use crate::observe::{AT_A_TIME, PROOF, is_proof};
use crate::prune;
use crate::settings::{self, PruneSettings};
use crate::world::real::{Engines, ThisHost, watch_signals};

/// How often the engine is asked how a deploy is doing.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// And how often while it takes down.
const TEARDOWN_INTERVAL: Duration = Duration::from_millis(100);
/// A deploy that takes longer than this never ends.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// A task that something keeps from starting for this long (no suitable node) will not start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the engine is asked to remove the service.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(60);
/// An order that was not answered may still be carried out for this long: the engine gives its Swarm 20 s
/// (moby: daemon/cluster, `swarmRequestTimeout`).
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(30);

/// Prove it with this image. The service is gone when this returns, whatever came of it.
pub async fn prove(settings: &settings::EngineSettings, prune: &PruneSettings, image: &str) -> Redeploy {
    match proof(settings, prune, image).await {
        Ok(Some(proved)) => proved,
        Ok(None) => Redeploy::Interrupted,
        Err(error) => Redeploy::Failed(format!("{error:#}")),
    }
}

/// `None`: it was interrupted.
async fn proof(
    settings: &settings::EngineSettings,
    prune: &PruneSettings,
    image: &str,
) -> Result<Option<Redeploy>> {
    // Whatever ends a program from outside: a closed terminal too must not leave the service.
    let shutdown_requested =
        watch_signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT])?;
    let engines = Engines::connect(settings).await?;
    let info = engines.local.info().await?;
    if engines.manager.is_some() || info.swarm.state != SwarmState::Manager {
        bail!("the proof deploys a service on this node, which must be a Swarm manager; run it on one");
    }
    // A prune must not come in between; where this user may not inhibit, the proof shows what happens.
    let why = format!("{PROOF} {image}");
    let inhibitor = inhibitors::register(&prune.runs.runtime_dir, Some(&why), now());
    if let Err(error) = &inhibitor {
        log::info!("prunes are not blocked: {error:#}");
    }
    let (credential, login) =
        docker_config::credential(Reference::parse(image).registry(), settings.timeout).await;
    if credential.is_none() {
        log::info!("no credential is sent along: {login:?}");
    }
    let proof = Proof {
        engine: &engines.local,
        node: info.swarm.node.as_deref(),
        credential: credential.as_ref(),
        service: format!("{}-{:016x}", deploy::LABEL.replace('.', "-"), RandomState::new().hash_one(0)),
        image,
        shutdown_requested,
        unanswered: Cell::new(false),
    };
    // Of two that begin together each sees the other.
    let is_other = |active: &Inhibitor| active.pid != Some(std::process::id()) && is_proof(active);
    let active = inhibitors::active(&prune.runs.runtime_dir);
    let another_runs = inhibitor.is_err() || active.map_or(true, |active| active.iter().any(is_other));
    for left in
        engines.local.services().await?.iter().filter(|service| service.labels.contains_key(deploy::LABEL))
    {
        if another_runs || left.labels.get(deploy::LABEL) != info.swarm.node.as_ref() {
            log::warn!(
                "service {} is of another proof; if none is running: docker service rm {0}",
                left.name
            );
        } else {
            log::warn!("removing service {}, which a proof that was killed left behind", left.name);
            engines.local.tear_down(&left.id).await?;
        }
    }
    let result = proof.carry_out(settings, prune).await;
    // Whatever came of it, and although the proof was told to end.
    if let Err(error) = proof.tear_down().await {
        let left = format!("the service {} may be left ({error:#}); docker service rm it", proof.service);
        return Err(match result {
            Err(first) => first.context(left),
            Ok(_) => anyhow!(left),
        });
    }
    result
}

struct Proof<'a> {
    engine: &'a Engine,
    node: Option<&'a str>,
    credential: Option<&'a Credential>,
    service: String,
    image: &'a str,
    shutdown_requested: Arc<AtomicBool>,
    /// The engine has not answered an order to create the service, and may still carry it out.
    unanswered: Cell<bool>,
}

impl Proof<'_> {
    async fn carry_out(
        &self,
        settings: &settings::EngineSettings,
        prune: &PruneSettings,
    ) -> Result<Option<Redeploy>> {
        let Some(cold) = self.deploy().await.context("the first deploy")? else { return Ok(None) };
        self.tear_down().await?;
        // As if the disk were full: then whatever may go at all is in the plan.
        let world = ThisHost::new(settings, &prune.state_dir, &prune.runs.runtime_dir);
        let plan = prune::preview(&world, prune, Some(Usage::full()), false)
            .await
            .context("the plan in between")?
            .plan;
        // Where the image is gone already the second deploy tells.
        let id = self.engine.image(&pinned(&cold.image)).await?.map(|image| image.id);
        let plan = plan.context("no plan could be made")?;
        let planned = plan.remove.iter().any(|removal| Some(&removal.object.id) == id.as_ref());
        let Some(warm) = self.deploy().await.context("the second deploy")? else { return Ok(None) };
        Ok(Some(Redeploy::Proved { cold, warm, planned }))
    }

    /// As `docker service create` does it: the name is resolved at its registry, and the node pulls by
    /// digest. So a tag that moved meanwhile is pulled anew.
    async fn deploy(&self) -> Result<Option<Deployed>> {
        let start = Instant::now();
        let image = match Reference::parse(self.image).digest {
            Some(_) => self.image.to_owned(),
            None => format!("{}@{}", self.image, self.engine.resolve(self.image, self.credential).await?),
        };
        let resolved = start.elapsed();
        let there = self.layers_there(&image).await?;
        if self.shutdown_requested.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let start = Instant::now();
        let created = self.engine.deploy(&self.service, &image, self.node, self.credential).await;
        self.unanswered.set(created.as_ref().is_err_and(|error| error.status().is_none()));
        created?;
        loop {
            match self.engine.progress(&self.service).await? {
                Progress::Started => break,
                Progress::Failed(why) => bail!("{image}: {why}"),
                Progress::Coming(Some(why)) if start.elapsed() > START_TIMEOUT => {
                    bail!("{image}: its task does not start: {why}")
                }
                Progress::Coming(_) if start.elapsed() > DEPLOY_TIMEOUT => {
                    bail!("{image}: its task has not started after {} min", DEPLOY_TIMEOUT.as_secs() / 60)
                }
                Progress::Coming(_) => {}
            }
            if self.shutdown_requested.load(Ordering::Relaxed) {
                return Ok(None);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let milliseconds = u64::try_from((resolved + start.elapsed()).as_millis()).unwrap_or(u64::MAX);
        let layers = match there {
            None => 0,
            Some(there) => {
                let layers = self.engine.layers(&pinned(&image)).await?.unwrap_or_default();
                (1..=layers.len()).filter(|&n| !there.contains(&chain(&layers[..n]))).count()
            }
        };
        Ok(Some(Deployed { image, milliseconds, layers }))
    }

    /// The layers that the engine has, each named with all below it; `None` where it has the image whole.
    async fn layers_there(&self, image: &str) -> Result<Option<HashSet<String>>> {
        if self.engine.image(&pinned(image)).await?.is_some() {
            return Ok(None);
        }
        let ids = self.engine.images().await?.into_iter().map(|image| image.id);
        let layers = stream::iter(ids).map(|id| async move { self.engine.layers(&id).await });
        let layers: Vec<_> = layers.buffer_unordered(AT_A_TIME).try_collect().await?;
        let chains = layers.iter().flatten().flat_map(|layer| (1..=layer.len()).map(|n| chain(&layer[..n])));
        Ok(Some(chains.collect()))
    }

    /// Remove the service, and wait until its container is gone too. An engine that fails is asked again,
    /// and one that may still create the service is waited for.
    async fn tear_down(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.engine.tear_down(&self.service).await {
                Ok(true) => self.unanswered.set(false),
                Ok(false) if self.unanswered.get() && start.elapsed() < UNANSWERED_TIMEOUT => {}
                Ok(false) => break,
                Err(error) if start.elapsed() > TEARDOWN_TIMEOUT => return Err(error.into()),
                Err(error) => log::warn!("{error}; trying again"),
            }
            tokio::time::sleep(TEARDOWN_INTERVAL).await;
        }
        while self.engine.has_container(&self.service).await? {
            if start.elapsed() > TEARDOWN_TIMEOUT {
                bail!("its container is still there after a minute");
            }
            tokio::time::sleep(TEARDOWN_INTERVAL).await;
        }
        Ok(())
    }
}

/// A layer is what it is on top of those below it.
fn chain(layers: &[String]) -> String {
    layers.join(" ")
}

fn pinned(image: &str) -> String {
    Reference::parse(image).pinned().to_string()
}
