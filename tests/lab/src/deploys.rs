//! Swarm deploys one after another while something prunes beside them, and what became of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{Engine, Image};

/// What a series of deploys met.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub deploys: usize,
    /// Tasks that Swarm made, one for each service and one more for each that it made anew.
    pub tasks: usize,
    /// Tasks that were rejected or failed.
    pub rejected: Vec<String>,
    /// Containers that ran without their image.
    pub without_image: usize,
    /// Rounds of pruning meanwhile.
    pub prunes: usize,
    /// By image ID, how often the layer that only this image has was downloaded.
    pub downloads: Vec<(String, usize)>,
}

/// The images that are deployed in turn: built long ago, and small.
pub fn images() -> Vec<Image> {
    (0..6).map(|n| Image::new(&format!("shop{n}"), "1").size_mib(2)).collect()
}

/// Deploy two services at a time, wait until they run, look at their tasks and containers, remove
/// them, and begin anew 0 to 1 s later, while `prune` runs in a loop beside it. `deploy` runs a shell
/// command in which `docker` is the engine's, and so may wrap it.
pub fn beside(
    engine: &Engine,
    deploys: usize,
    deploy: impl Fn(&str) -> std::process::Command,
    mut prune: impl FnMut() + Send,
) -> Tally {
    let images = images();
    for image in &images {
        engine.publish(image);
    }
    let over = AtomicBool::new(false);
    let mut tally = Tally { deploys, ..Tally::default() };
    std::thread::scope(|scope| {
        let over = &over;
        let pruner = scope.spawn(move || {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                prune();
                rounds += 1;
            }
            rounds
        });
        // Whatever goes wrong here, the pruner must learn that it is over.
        let end = End(over);
        for n in 0..deploys {
            one(engine, n, &images, &deploy, &mut tally);
        }
        drop(end);
        tally.prunes = pruner.join().expect("the pruner");
    });
    tally.downloads = images
        .iter()
        .map(|image| (engine.id_of(image), engine.times_sent(&image.payload_digest())))
        .collect();
    tally
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one(
    engine: &Engine,
    n: usize,
    images: &[Image],
    deploy: &impl Fn(&str) -> std::process::Command,
    tally: &mut Tally,
) {
    let names: Vec<String> = (0..2).map(|part| format!("deploy{n}x{part}")).collect();
    let mut script = String::new();
    for (part, name) in names.iter().enumerate() {
        let image = &images[(n + part * 2) % images.len()].repository;
        script += &format!(
            "docker service create --quiet --detach --restart-delay 200ms --name {name} 127.0.0.1:5000/{image}:1\n"
        );
    }
    script += "for i in $(seq 300); do\n";
    script += "  [ $(docker service ls --format '{{.Replicas}}' | grep -c 1/1) = 2 ] && exit\n  sleep 0.2\ndone\nexit 1\n";
    let output = deploy(&script).output().expect("deploy");
    assert!(
        output.status.success(),
        "deploy {n} did not come up: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let services = |path: &str, key: &str| {
        let filter = names.iter().map(|name| format!("%22{name}%22")).collect::<Vec<_>>().join(",");
        engine.list(&format!("{path}filters=%7B%22{key}%22:[{filter}]%7D"))
    };
    let tasks = services("/tasks?", "service");
    assert!(tasks.len() >= names.len(), "deploy {n}: {tasks:?}");
    for task in tasks {
        tally.tasks += 1;
        let status = &task["Status"];
        if status["State"] == "rejected" || status["State"] == "failed" {
            tally.rejected.push(format!("{} {}", status["State"], status["Err"]));
        }
    }
    let containers = services("/containers/json?", "name");
    assert!(containers.len() >= names.len(), "deploy {n}: {containers:?}");
    for container in containers {
        let id = container["Id"].as_str().expect("an ID");
        let (_, container) = engine.get(&format!("/containers/{id}/json"));
        if !engine.has_image(container["Image"].as_str().expect("an image's ID")) {
            tally.without_image += 1;
        }
    }
    engine.docker(["service", "rm"].into_iter().chain(names.iter().map(String::as_str)));
    engine.no_container_named("deploy");
    std::thread::park_timeout(Duration::from_millis([0, 250, 500, 1000][n % 4]));
}
