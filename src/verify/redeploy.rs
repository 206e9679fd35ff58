//! The proof of layer reuse: deploy, tear down, plan a prune, deploy again.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{found, login};
use crate::engine::deploy::Progress;
use crate::engine::{Credential, Engine, Engines};
use crate::facts::{Inhibitor, PROOF, Reference, SwarmState, Usage, label};
use crate::host::child::Signal;
use crate::host::{ThisHost, watch_signals};
use crate::observe::AT_A_TIME;
use crate::prune::{self, Mode, PrunePolicy};
use crate::report::verify::{Check, CheckStatus};
use crate::world::{Register, Registration, World};

const NAME: &str = "redeploy";

/// How often the engine is asked how a deploy is doing.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const TEARDOWN_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout for a deploy.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Timeout for a task that cannot start, for example for lack of an eligible node.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the engine is asked to remove the service.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(60);
/// An order that was not answered may still be carried out for this long: the engine gives its Swarm 20 s
/// (moby: daemon/cluster, `swarmRequestTimeout`).
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Redeploy {
    Proved { cold: Deployed, warm: Deployed, planned: bool },
    Interrupted,
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Deployed {
    /// `name@sha256:…`, as the registry resolved it.
    image: String,
    milliseconds: u64,
    layers: usize,
}

/// Prove layer reuse with this image. The service is removed in any case.
pub async fn check(host: &ThisHost, policy: &PrunePolicy, image: &str) -> Check {
    verdict(&match proof(host, policy, image).await {
        Ok(Some(proved)) => proved,
        Ok(None) => Redeploy::Interrupted,
        Err(error) => Redeploy::Failed(format!("{error:#}")),
    })
}

fn verdict(redeploy: &Redeploy) -> Check {
    let Redeploy::Proved { cold, warm, planned } = redeploy else {
        let (code, message) = match redeploy {
            Redeploy::Failed(why) => ("not_proved", format!("{why}; nothing was proved")),
            _ => ("interrupted", "interrupted; its service is removed".into()),
        };
        return found(NAME, CheckStatus::Failed, code, message, Value::Null);
    };
    let fault = if cold.image != warm.image {
        Some(format!(
            "the tag moved meanwhile to {}, which was pulled anew as it should be; try again",
            warm.image
        ))
    } else if *planned {
        Some("a prune in between would have removed the image (see --older-than and --dry-run -v)".into())
    } else if warm.layers > 0 {
        Some("the layers of the first deploy were not there any more: something else removes images".into())
    } else {
        None
    };
    let (status, code) = match fault {
        None => (CheckStatus::Ok, "reused"),
        Some(_) => (CheckStatus::Failed, "not_reused"),
    };
    let verdict = fault.unwrap_or_else(|| {
        "the second deploy downloaded nothing, and a prune in between keeps the image".into()
    });
    let note = if cold.layers == 0 {
        "; the image was there before the first deploy, which was therefore not cold"
    } else {
        ""
    };
    let ratio = cold.milliseconds as f64 / warm.milliseconds.max(1) as f64;
    let deploy = |deployed: &Deployed| {
        json!({
            "image": deployed.image,
            "duration_milliseconds": deployed.milliseconds,
            "layers_downloaded": deployed.layers,
        })
    };
    let figures = json!({"cold": deploy(cold), "warm": deploy(warm), "planned": planned});
    let line = |name: &str, deployed: &Deployed| {
        format!("  {name:10} {} ms, {} layers downloaded", deployed.milliseconds, deployed.layers)
    };
    let check = found(NAME, status, code, format!("{verdict}{note}; cold/warm {ratio:.1}"), figures);
    let lines = vec![
        format!("redeploy of {}", cold.image),
        line("cold", cold),
        line("warm", warm),
        format!("  {:10} {ratio:.1}", "cold/warm"),
    ];
    Check { lines, ..check }
}

/// `None`: it was interrupted.
async fn proof(host: &ThisHost, policy: &PrunePolicy, image: &str) -> Result<Option<Redeploy>> {
    // All signals that end a program: a closed terminal must not leave the service behind either.
    let shutdown_requested =
        watch_signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT])?;
    let engines = Engines::connect(host.engine_settings()).await?;
    let info = engines.local.info().await?;
    if engines.manager.is_some() || info.swarm.state != SwarmState::Manager {
        bail!("the proof deploys a service on this node, which must be a Swarm manager; run it on one");
    }
    // A prune must not come in between; if this user may not inhibit, a prune that interferes makes the proof fail.
    let why = format!("{PROOF} {image}");
    let inhibitor = host.register(Register::Inhibitors, &Registration { why: Some(&why), min_free: None });
    if let Err(error) = &inhibitor {
        log::info!("prunes are not blocked: {error:#}");
    }
    let (credential, login) =
        login::credential(Reference::parse(image).registry(), host.engine_settings().timeout).await;
    if credential.is_none() {
        log::info!("no credential is sent along: {login:?}");
    }
    let proof = Proof {
        engine: &engines.local,
        node: info.swarm.node.as_deref(),
        credential: credential.as_ref(),
        service: format!("{}-{:016x}", label::PROOF.replace('.', "-"), RandomState::new().hash_one(0)),
        image,
        shutdown_requested,
        unanswered: Cell::new(false),
    };
    // If two begin at the same time, each sees the other.
    let is_other = |active: &Inhibitor| active.pid != Some(std::process::id()) && active.is_proof();
    let active = host.inhibitors();
    let another_runs = inhibitor.is_err() || active.map_or(true, |active| active.iter().any(is_other));
    for left in
        engines.local.services().await?.iter().filter(|service| service.labels.contains_key(label::PROOF))
    {
        if another_runs || left.labels.get(label::PROOF) != info.swarm.node.as_ref() {
            log::warn!(
                "service {} is of another proof; if none is running: docker service rm {0}",
                left.name
            );
        } else {
            log::warn!("removing service {}, which a proof that was killed left behind", left.name);
            engines.local.tear_down(&left.id).await?;
        }
    }
    let result = proof.deploy_twice(host, policy).await;
    // In any case, also after a signal.
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
    async fn deploy_twice(&self, host: &ThisHost, policy: &PrunePolicy) -> Result<Option<Redeploy>> {
        let Some(cold) = self.deploy().await.context("the first deploy")? else { return Ok(None) };
        self.tear_down().await?;
        // As if the disk were full: then whatever may go at all is in the plan.
        let full = Usage::full();
        let ended =
            prune::run(host, policy, Mode::Preview(Some(&full))).await.context("the plan in between")?;
        if let Some(why) = ended.report.failure() {
            bail!("the plan in between: {why}");
        }
        // If the image is already gone, the second deploy shows it.
        let id = self.engine.image(&pinned(&cold.image)).await?.map(|image| image.id);
        let (plan, _) = ended.report.plan().context("no plan could be made")?;
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

/// A layer is the same only with the same layers below it.
fn chain(layers: &[String]) -> String {
    layers.join(" ")
}

fn pinned(image: &str) -> String {
    Reference::parse(image).pinned().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuse_is_proved_by_the_same_image_that_downloads_nothing_and_would_be_kept() {
        let deployed = |image: &str, layers| Deployed { image: image.into(), milliseconds: 1, layers };
        let proved = |warm: &str, layers, planned| {
            verdict(&Redeploy::Proved { cold: deployed("a", 3), warm: deployed(warm, layers), planned })
        };
        assert_eq!(proved("a", 0, false).status, CheckStatus::Ok);
        for check in [
            proved("a", 1, false),
            proved("b", 0, false),
            proved("a", 0, true),
            verdict(&Redeploy::Interrupted),
            verdict(&Redeploy::Failed("x".into())),
        ] {
            assert_eq!(check.status, CheckStatus::Failed, "{check:?}");
        }
    }
}
