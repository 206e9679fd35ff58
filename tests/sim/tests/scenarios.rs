//! Scenarios on the simulated and on a real engine, which must end alike. `LAB_ENGINE` names the real one.

use std::time::Duration;

use ci_docker_prune::host::ThisHost;
use ci_docker_prune::settings;
use lab::{Engine, Image};
use sim::Store;
use sim::scenarios::{Act, SCENARIOS, Scenario, Stage, play, simulated};

/// A real engine, and the program's view of it.
struct RealStage<'a> {
    engine: &'a Engine,
    world: ThisHost,
}

fn image(name: &str) -> Image {
    Image::new(name, "1").layer("shared", 1)
}

impl<'a> Stage for RealStage<'a> {
    type World = ThisHost;

    fn world(&self) -> &ThisHost {
        &self.world
    }

    async fn act(&self, act: Act) {
        let docker = |words: &str| self.engine.docker(words.split_whitespace());
        let by_digest = |image: &str| format!("{}:1@{}", self.repository(image), self.digest(image));
        let in_full = |name_tag: &str| self.repository(name_tag);
        match act {
            Act::Deploy(image) => {
                docker(&format!("service create --detach --name svc-{image} {}:1", self.repository(image)));
                self.engine.converged();
            }
            Act::Undeploy(image) => {
                docker(&format!("service rm svc-{image}"));
                self.engine.eventually("its container is gone", || {
                    docker(&format!("ps --all --quiet --filter name=svc-{image}")).is_empty()
                });
            }
            Act::Pull(image) => drop(docker(&format!("pull --quiet {}", by_digest(image)))),
            Act::Run(image) => {
                docker(&format!("run --detach --name {image} {}", by_digest(image)));
            }
            Act::Stop(name) => drop(docker(&format!("stop {name}"))),
            Act::Tag(image, name_tag) => {
                docker(&format!("tag {} {}", self.id(image), in_full(name_tag)));
            }
            Act::Untag(_, name_tag) => drop(docker(&format!("image rm {}", in_full(name_tag)))),
            Act::Restart => {
                self.engine.restart();
                self.engine.eventually("its containers are back", || {
                    docker("ps --quiet").lines().count() >= docker("service ls --quiet").lines().count()
                });
                self.engine.converged();
            }
            Act::RemovalReason(..)
            | Act::TagOurs(_)
            | Act::RestoreTag(..)
            | Act::RemoveContainer(_)
            | Act::Prune => {
                unreachable!("an order of ours")
            }
        }
        // The last events are on their way.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    fn id(&self, name: &str) -> String {
        self.engine.id_of(&image(name))
    }

    fn digest(&self, name: &str) -> String {
        self.engine.publish(&image(name))
    }

    fn repository(&self, name: &str) -> String {
        format!("127.0.0.1:5000/{name}")
    }

    fn downloads(&self, name: &str) -> usize {
        self.engine.times_sent(&image(name).payload_digest())
    }
}

#[expect(clippy::print_stdout, reason = "what was compared")]
fn end_alike(scenario: &Scenario) {
    let engine = Engine::start();
    for name in scenario.images {
        engine.publish(&image(name));
    }
    let (state, runtime) = (engine.folder().join("state"), engine.folder().join("runtime"));
    let words = ["ci-docker-prune", "--config=/dev/null", "--host", &engine.url(), "prune"].map(Into::into);
    let connection = settings::read(words).expect("settings").engine;
    let stage = RealStage { engine: &engine, world: ThisHost::new(connection, state, runtime) };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let real = tokio.block_on(play(scenario, &stage)).join("\n");
    let store = if engine.kind.containerd_store() { Store::Containerd } else { Store::Overlay2 };
    println!("{}: {} acts\n{real}", scenario.name, scenario.acts.len());
    assert_eq!(simulated(store, scenario).join("\n"), real, "{}: simulated, and real", scenario.name);
}

/// A test for each scenario, so that they run beside each other.
macro_rules! scenarios {
    ($($name:ident: $place:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            end_alike(&SCENARIOS[$place]);
        })*

        #[test]
        fn each_scenario_has_a_test() {
            assert_eq!([$($place),*], std::array::from_fn::<usize, { SCENARIOS.len() }, _>(|n| n));
        }
    };
}

scenarios! {
    what_swarm_leaves: 0,
    an_eviction: 1,
    a_deploy_in_an_eviction: 2,
    tags_beside_the_digest: 3,
    what_a_container_uses: 4,
    a_restart: 5,
    a_whole_prune: 6,
}
