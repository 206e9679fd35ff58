//! The engine to prune and the manager that knows the services, as the world's engine.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::{OptionFuture, join};
use regex::Regex;

use super::remove::Remover;
use super::watch::{Scope, Watch};
use super::{Engine, EngineSettings};
use crate::facts::{Answer, CacheRecord, Container, DiskUsage, Image, Info, Inspected, Layer, Service, Task};
use crate::units::Time;
use crate::world::{ContainerScope, EngineApi, EngineError, ImageEvent};

/// The engine to prune and the one that knows the services.
#[derive(Debug)]
pub struct Engines {
    pub local: Engine,
    pub manager: Option<Engine>,
    /// The ID of the engine to prune, once it is known.
    id: Arc<OnceLock<String>>,
    removal_timeout: Duration,
    shutdown_requested: Option<Arc<AtomicBool>>,
}

impl Engines {
    pub async fn connect(settings: &EngineSettings) -> Answer<Self> {
        let timeout = settings.timeout;
        let manager = settings.swarm_host.as_ref().map(|host| Engine::connect(host, timeout));
        let (local, manager) =
            join(Engine::connect(&settings.host, timeout), OptionFuture::from(manager)).await;
        Ok(Self {
            local: local?,
            manager: manager.transpose()?,
            id: Arc::default(),
            removal_timeout: settings.removal_timeout,
            shutdown_requested: None,
        })
    }

    /// Share the engine's ID and the shutdown request with the host.
    pub fn of_host(self, id: Arc<OnceLock<String>>, shutdown_requested: Option<Arc<AtomicBool>>) -> Self {
        Self { id, shutdown_requested, ..self }
    }

    fn about_services(&self) -> &Engine {
        self.manager.as_ref().unwrap_or(&self.local)
    }
}

impl EngineApi for Engines {
    type Events = Vec<Watch>;
    type Orders = Remover;

    fn is_local(&self) -> bool {
        self.local.is_local()
    }

    fn manager_elsewhere(&self) -> bool {
        self.manager.is_some()
    }

    fn orders(&self) -> Remover {
        Remover::new(&self.local, self.removal_timeout, self.shutdown_requested.clone())
    }

    async fn subscribe(&self, since: Time, run_pattern: &Regex) -> Result<Vec<Watch>, EngineError> {
        let mut watches = vec![self.local.watch(Scope::Everything, Some(since), run_pattern.clone()).await?];
        if let Some(manager) = &self.manager {
            // By the manager's own clock, if it shows one.
            let since = manager.info().await.ok().and_then(|info| info.time);
            watches.push(manager.watch(Scope::Services, since, run_pattern.clone()).await?);
        }
        Ok(watches)
    }

    async fn info(&self) -> Result<Info, EngineError> {
        let info = self.local.info().await?;
        if !info.id.is_empty() {
            // The ID never changes.
            let _ = self.id.set(info.id.clone());
        }
        Ok(info)
    }

    async fn services(&self) -> Result<Vec<Service>, EngineError> {
        self.about_services().services().await
    }

    async fn tasks(&self) -> Result<Vec<Task>, EngineError> {
        self.about_services().tasks().await
    }

    async fn nodes_away(&self) -> Result<HashSet<String>, EngineError> {
        self.about_services().nodes_away().await
    }

    async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError> {
        self.local.containers(which).await
    }

    async fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.local.images().await
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        self.local.image(reference).await
    }

    async fn layers(&self, image: &Image) -> Result<Option<Vec<Layer>>, EngineError> {
        self.local.sized_layers(image).await
    }

    async fn inspect_container(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        self.local.inspect_container(id).await
    }

    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        self.local.build_cache().await
    }

    async fn uses(&self, since: Time, until: Time) -> Result<Vec<ImageEvent>, EngineError> {
        self.local.uses(since, until).await
    }

    async fn disk_usage(&self, containerd_store: bool) -> Result<DiskUsage, EngineError> {
        self.local.disk_usage(containerd_store).await
    }
}
