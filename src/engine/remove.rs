//! What changes the engine: removals by reference, never by force.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::query_parameters::{
    PruneBuildOptions, RemoveContainerOptions, RemoveImageOptions, TagImageOptions,
};

use super::Engine;
use super::error::Failure;
use crate::facts::{EVICTION_REPOSITORY, Reference};
use crate::world::{Effect, EngineError, EngineOrders};

/// The part of the engine that can remove. A dry run never makes one.
#[derive(Debug, Clone)]
pub struct Remover {
    engine: Engine,
    limit: Duration,
    /// Set when the program is asked to end: then a removal is awaited no longer than an answer.
    shutdown_requested: Option<Arc<AtomicBool>>,
}

/// A Go duration, which has no days. Rounded up to a second, so that nothing younger is removed.
fn until(older_than: Duration) -> String {
    format!("{}s", older_than.as_secs() + u64::from(older_than.subsec_nanos() > 0))
}

impl Remover {
    /// `limit`: the timeout for one removal, while the engine answers other requests.
    pub fn new(engine: &Engine, limit: Duration, shutdown_requested: Option<Arc<AtomicBool>>) -> Self {
        let docker = engine.docker.clone().with_timeout(limit + engine.timeout);
        Self { engine: Engine { docker, ..engine.clone() }, limit, shutdown_requested }
    }

    /// For a 404 about an object that the engine still lists (docker/for-linux #477).
    fn still_there(&self, request: &str) -> EngineError {
        Failure::StillThere.at(&self.engine.host, request)
    }

    async fn tag_as(&self, id: &str, repository: &str, tag: &str) -> Result<Effect, EngineError> {
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        self.give_order(&format!("POST /images/{id}/tag"), async {
            self.engine.docker.tag_image(id, Some(options)).await.map(|()| Effect::Complete)
        })
        .await
    }

    fn must_end(&self) -> bool {
        self.shutdown_requested.as_ref().is_some_and(|requested| requested.load(Ordering::Relaxed))
    }

    async fn give_order(
        &self,
        asked: &str,
        order: impl Future<Output = Result<Effect, bollard::errors::Error>>,
    ) -> Result<Effect, EngineError> {
        let Engine { host, timeout, .. } = &self.engine;
        let began = tokio::time::Instant::now();
        let may_continue = async || !self.must_end() && self.engine.is_alive().await;
        let error = match within_limit(order, self.limit, *timeout, may_continue).await {
            Some(Ok(done)) => return Ok(done),
            Some(Err(error)) => Failure::of_bollard(&error, began.elapsed()).at(host, asked),
            None => Failure::SlowRemoval(began.elapsed()).at(host, asked),
        };
        if error.status().is_some_and(|(status, _)| status == 404) { Ok(Effect::Gone) } else { Err(error) }
    }
}

impl EngineOrders for Remover {
    /// `DELETE /containers/{id}`: its anonymous volumes stay.
    async fn remove_container(&self, id: &str) -> Result<Effect, EngineError> {
        let options = RemoveContainerOptions { v: false, force: false, link: false };
        let request = format!("DELETE /containers/{id}");
        let done = self.give_order(&request, async {
            self.engine.docker.remove_container(id, Some(options)).await.map(|()| Effect::Complete)
        });
        match done.await? {
            Effect::Gone if self.engine.inspect_container(id).await?.is_some() => {
                Err(self.still_there(&request))
            }
            done => Ok(done),
        }
    }

    /// `DELETE /images/{reference}`: the reference goes, and with the last one the image.
    async fn remove_image(&self, reference: &str) -> Result<Effect, EngineError> {
        let options = RemoveImageOptions { force: false, noprune: false, ..RemoveImageOptions::default() };
        let request = format!("DELETE /images/{reference}");
        let done = self.give_order(&request, async {
            let done = self.engine.docker.remove_image(reference, Some(options), None).await?;
            let whole = done.iter().any(|done| done.deleted.is_some());
            Ok(if whole { Effect::Complete } else { Effect::Untagged })
        });
        match done.await? {
            Effect::Gone if self.engine.image(reference).await?.is_some() => Err(self.still_there(&request)),
            done => Ok(done),
        }
    }

    /// `POST /images/{id}/tag`: give an image its [`crate::facts::eviction_tag`], which deletes nothing.
    async fn tag_image(&self, id: &str) -> Result<Effect, EngineError> {
        self.tag_as(id, EVICTION_REPOSITORY, id.trim_start_matches("sha256:")).await
    }

    /// `POST /images/{id}/tag` with a `name:tag` that it had; [`Effect::Untagged`] if another image has that name.
    /// The API has no such condition: an image that gets the name in the milliseconds between the two requests
    /// loses it.
    async fn restore_tag(&self, id: &str, name_tag: &str) -> Result<Effect, EngineError> {
        if self.engine.image(name_tag).await?.is_some() {
            return Ok(Effect::Untagged);
        }
        let Reference { repository, tag, .. } = Reference::parse(name_tag);
        self.tag_as(id, repository, tag.unwrap_or("latest")).await
    }

    /// `POST /build/prune` with `until` and without `all`: by last use; records that images share stay.
    /// [`Effect::Gone`] where nothing was freed.
    async fn prune_build_cache(&self, older_than: Duration) -> Result<Effect, EngineError> {
        let filters = Some(HashMap::from([("until".to_owned(), vec![until(older_than)])]));
        let options = PruneBuildOptions { filters, ..PruneBuildOptions::default() };
        self.give_order("POST /build/prune", async {
            let pruned = self.engine.docker.prune_build(Some(options)).await?;
            let freed = pruned.space_reclaimed.is_some_and(|bytes| bytes > 0);
            Ok(if freed { Effect::Complete } else { Effect::Gone })
        })
        .await
    }
}

/// Wait for an order up to the limit, and ask `may_continue` after each `timeout` whether to continue. A huge layer or
/// build cache takes long; an engine that hangs must not.
async fn within_limit<T>(
    order: impl Future<Output = T>,
    limit: Duration,
    timeout: Duration,
    may_continue: impl AsyncFn() -> bool,
) -> Option<T> {
    tokio::pin!(order);
    let began = tokio::time::Instant::now();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        match tokio::time::timeout(left.min(timeout), &mut order).await {
            Ok(answer) => return Some(answer),
            Err(_) if began.elapsed() < limit && may_continue().await => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_waited_for_up_to_its_limit_while_the_engine_lives_and_nobody_ends_the_run() {
        let seconds = Duration::from_secs;
        // How long the order takes, and after how many looks it does not go on.
        for (takes, looks, expected) in [
            (5, 9, (true, 5)),
            (45, 9, (true, 45)),
            (99, 9, (true, 99)),
            (101, 9, (false, 100)),
            (45, 0, (false, 30)),
            (99, 2, (false, 90)),
        ] {
            let asked = std::cell::Cell::new(0);
            let may_continue = async || {
                asked.set(asked.get() + 1);
                asked.get() <= looks
            };
            let found = crate::testing::block(async {
                let began = tokio::time::Instant::now();
                let order = tokio::time::sleep(seconds(takes));
                let answer = within_limit(order, seconds(100), seconds(30), may_continue).await;
                (answer.is_some(), began.elapsed().as_secs())
            });
            assert_eq!(found, expected, "{takes} {looks}");
        }
    }

    #[test]
    fn an_age_is_told_in_whole_seconds_and_our_tag_is_the_images_id() {
        for (millis, expected) in [(0, "0s"), (1, "1s"), (1_000, "1s"), (1_500, "2s"), (86_400_000, "86400s")]
        {
            assert_eq!(until(Duration::from_millis(millis)), expected);
        }
        assert_eq!(crate::facts::eviction_tag("sha256:0123"), "ci-docker-prune.invalid/evicting:0123");
    }
}
