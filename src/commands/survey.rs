//! What every command asks of the engine and the host: each question once, all at a time.

use std::path::{Path, PathBuf};

use futures_util::future::{OptionFuture, join, join4};

use crate::engine::read::Containers;
use crate::engine::{Engine, EngineError};
use crate::facts::{Answer, Container, Filesystem, Info, Service, SwarmState, Task, Unanswered};
use crate::gates::{Gate, converge, disk, runs};
use crate::host::{filesystem, inhibitors};
use crate::settings;
use crate::units::Time;

/// The engine to prune and the one that knows the services.
pub struct Engines {
    pub local: Engine,
    /// The manager, where it is another engine.
    pub manager: Option<Engine>,
}

impl Engines {
    pub async fn connect(settings: &settings::Engine) -> Answer<Self> {
        let timeout = settings.timeout;
        let manager = settings.swarm_host.as_ref().map(|host| Engine::connect(host, timeout));
        let (local, manager) =
            join(Engine::connect(&settings.host, timeout), OptionFuture::from(manager)).await;
        Ok(Self { local: local?, manager: manager.transpose()? })
    }
}

/// Which questions a command has.
#[derive(Clone, Copy)]
pub struct Questions {
    pub services: bool,
    pub tasks: bool,
    pub containers: Option<Containers>,
}

impl Questions {
    pub const DISK: Self = Self { services: false, tasks: false, containers: None };
    pub const RUNS: Self = Self { services: true, tasks: false, containers: Some(Containers::Live) };
    pub const CONVERGE: Self = Self { services: true, tasks: true, containers: Some(Containers::Live) };
    pub const IN_USE: Self = Self { services: false, tasks: false, containers: Some(Containers::All) };
    pub const EVERYTHING: Self = Self { services: true, tasks: true, containers: Some(Containers::All) };
}

/// The answers.
pub struct Survey {
    pub info: Answer<Info>,
    pub services: Answer<Vec<Service>>,
    pub tasks: Answer<Vec<Task>>,
    pub containers: Answer<Vec<Container>>,
    manager_elsewhere: bool,
}

/// Ask.
pub async fn take(engines: &Engines, questions: Questions) -> Survey {
    let Engines { local, manager } = engines;
    let about_services = manager.as_ref().unwrap_or(local);
    let services = OptionFuture::from(questions.services.then(|| about_services.services()));
    let tasks = OptionFuture::from(questions.tasks.then(|| about_services.tasks()));
    let containers = OptionFuture::from(questions.containers.map(|which| local.containers(which)));
    // The manager's own state needs no question: its answer about the services tells.
    let (info, services, tasks, containers) = join4(local.info(), services, tasks, containers).await;
    let mut survey = Survey {
        info: info.map_err(Unanswered::from),
        services: answer(services),
        tasks: answer(tasks),
        containers: answer(containers),
        manager_elsewhere: manager.is_some(),
    };
    survey.explain();
    survey
}

fn answer<T>(answer: Option<Result<T, EngineError>>) -> Answer<T> {
    answer.ok_or_else(|| Unanswered("not asked".into()))?.map_err(Unanswered::from)
}

impl Survey {
    /// A node that is no manager refuses to list services (503). In no Swarm that means that there
    /// are none; else it is for a reason that `/info` tells better.
    fn explain(&mut self) {
        let Ok(info) = &self.info else { return };
        if self.manager_elsewhere || self.services.is_ok() {
            return;
        }
        let why = match &info.swarm.state {
            SwarmState::Inactive => {
                self.services = Ok(vec![]);
                self.tasks = Ok(vec![]);
                return;
            }
            SwarmState::Worker => {
                "this node is a Swarm worker and cannot see the services; name a manager with --swarm-host"
            }
            SwarmState::Locked => "this Swarm manager is locked; unlock it with docker swarm unlock",
            SwarmState::Pending => "this node is still joining its Swarm; try again in a minute",
            SwarmState::Manager | SwarmState::Failed(_) => return,
        };
        self.services = Err(Unanswered(why.into()));
    }

    pub fn runs(&self, settings: &settings::Runs, now: Time) -> Gate {
        let facts = runs::Facts {
            inhibitors: inhibitors::active(&settings.runtime_dir)
                .map_err(|error| Unanswered(format!("{error:#}"))),
            services: self.services.clone(),
            containers: self.containers.clone(),
        };
        Gate::Runs(runs::judge(&facts, &settings.policy, now))
    }

    pub fn converge(&self, now: Time) -> Gate {
        let info = self.info.as_ref();
        let facts = converge::Facts {
            swarm: info.map(|it| it.swarm.state.clone()).map_err(Clone::clone),
            manager_elsewhere: self.manager_elsewhere,
            node: info.ok().and_then(|it| it.swarm.node.clone()),
            services: self.services.clone(),
            tasks: self.tasks.clone(),
            containers: self.containers.clone(),
        };
        Gate::Converge(converge::judge(&facts, now))
    }

    pub fn disk(&self, engines: &Engines, settings: &settings::Disk) -> Gate {
        let filesystems = self.disk_places(engines, settings).and_then(|it| measure(&it.measured));
        Gate::Disk(disk::judge(&disk::Facts { filesystems }, &settings.limit))
    }

    /// The paths whose filesystems hold the engine's data.
    pub fn disk_places(&self, engines: &Engines, settings: &settings::Disk) -> Answer<DiskPlaces> {
        let named = &settings.paths;
        if !engines.local.is_local() {
            if named.is_empty() {
                return Err(Unanswered(
                    "the engine is on another host, whose disk cannot be measured from here; \
                     name a path that shows it with --disk-path"
                        .into(),
                ));
            }
            return Ok(DiskPlaces { measured: named.clone(), images: named.clone() });
        }
        let info = self.info.as_ref().map_err(Clone::clone)?;
        // A containerd that the engine runs itself keeps its data below the engine's; a separate one
        // in its own root.
        let separate = Path::new("/var/lib/containerd");
        // Where that may not be looked at (only root may), the engine uses the separate one if it runs
        // (moby: initContainerd in cmd/dockerd/daemon_unix.go).
        let running = || Path::new("/run/containerd/containerd.sock").exists();
        let own = info.root.join("containerd/daemon").try_exists().unwrap_or_else(|_| !running());
        let mut own_places = vec![info.root.clone()];
        if info.containerd_store && !own && separate.exists() {
            own_places.push(separate.to_owned());
        }
        let images = own_places.last().filter(|path| path.exists()).cloned();
        let measured = if named.is_empty() { own_places } else { named.clone() };
        let images = images.map_or_else(|| measured.clone(), |path| vec![path]);
        Ok(DiskPlaces { measured, images })
    }
}

/// Where to measure how full the disk is.
pub struct DiskPlaces {
    /// For the gate: what `--disk-path` names, else all that holds the engine's data.
    pub measured: Vec<PathBuf>,
    /// For evictions: what holds the images. Where it cannot be seen from here (the engine is on another host), all of
    /// the others: then the fullest decides.
    pub images: Vec<PathBuf>,
}

/// Measure the filesystems of these paths.
pub fn measure(places: &[PathBuf]) -> Answer<Vec<Filesystem>> {
    filesystem::measure(places.iter().map(PathBuf::as_path)).map_err(|error| Unanswered(format!("{error:#}")))
}
