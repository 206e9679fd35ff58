//! Waiting prunes and the commands that queue behind them, under every schedule of kills.

use std::cell::Cell;
use std::time::Duration;

use ci_docker_prune::commands::prune;
use ci_docker_prune::prune::moment::{Wishes, let_prunes_go_first};
use ci_docker_prune::report::progress;
use ci_docker_prune::settings::Settings;
use ci_docker_prune::world::{Register, Registration, World};
use sim::Store;
use sim::run::{scene, settings};
use sim::world::Simulated;
use tokio::time::{Instant, sleep, timeout};

const RUN: &str = "shop-0123ef_ci_commoninternet_net";
const PRUNE_WAIT: Duration = Duration::from_secs(60);

/// What is killed, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    Nothing,
    /// The prune, before this step.
    Prune(usize),
    /// The first command, this long after the beginning.
    Command(Duration),
}

#[derive(Debug, Default)]
struct Played {
    steps: usize,
    /// How long each command waited.
    waited: [Cell<Option<Duration>>; 3],
    /// The outcome of the prune, and whether it had ended when the first command began.
    outcome: Option<&'static str>,
    was_first: Cell<bool>,
}

/// A prune is due while a run is live, which ends after so long. Three commands begin: one before that, one after it, one
/// much later.
fn play(store: Store, run_lasts: Duration, kill: Kill, settings: &Settings) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(played(store, run_lasts, kill, settings))
}

async fn played(store: Store, run_lasts: Duration, kill: Kill, settings: &Settings) -> Played {
    let (state, ledger) = scene(store);
    let world = Simulated::new(state, ledger, 2, 1, None);
    {
        let mut state = world.0.state.borrow_mut();
        let image = state.images["sha256:web"].image.clone();
        state.start_container(0, RUN, &image);
    }
    let ended = Cell::new(false);
    let mut played = Played::default();
    let wait = Duration::from_secs(300);
    let bars = progress::hidden();
    let pruned = async {
        let attempt = prune::attempt(&world, settings, false, wait, false, &bars);
        let killed = async {
            let Kill::Prune(step) = kill else { return std::future::pending().await };
            while world.0.steps.get() < step {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let outcome = tokio::select! {
            ended = attempt => Some(ended.attempt.outcome()),
            () = killed => None,
        };
        ended.set(true);
        outcome
    };
    let run = async {
        sleep(run_lasts).await;
        world.0.state.borrow_mut().containers.remove(RUN);
        world.0.moved();
    };
    let waited = &played.waited;
    let was_first = &played.was_first;
    let (world, ended) = (&world, &ended);
    let command = async |n: usize, after: u64| {
        sleep(Duration::from_secs(after)).await;
        let began = Instant::now();
        let wishes = Wishes { prune_wait: PRUNE_WAIT, prune_at: None, min_free: None };
        let turn = let_prunes_go_first(world, &settings.policy, &wishes, &|_| ()).await;
        turn.expect("a register").expect("no space is wanted");
        let registered = world.register(Register::Inhibitors, &Registration::default()).expect("a register");
        world.wait_for_removal().await.expect("it ends");
        waited[n].set(Some(began.elapsed()));
        was_first.set(was_first.get() || n == 0 && ended.get());
        sleep(Duration::from_secs(5)).await;
        drop(registered);
    };
    let first = async {
        match kill {
            Kill::Command(at) => drop(timeout(at, command(0, 2)).await),
            _ => command(0, 2).await,
        }
    };
    let all = async { tokio::join!(pruned, run, first, command(1, 11), command(2, 200)) };
    // Nobody waits for ever.
    let (outcome, ..) = timeout(Duration::from_secs(3_600), all).await.expect("it ends");
    let violations = world.0.state.borrow().violations.clone();
    assert!(violations.is_empty(), "{kill:?} {violations:?}");
    played.outcome = outcome;
    played.steps = world.0.steps.get();
    played
}

#[test]
fn runs_drain_the_prune_goes_and_the_queue_goes_on() {
    let settings = settings("--disk-critical 100");
    for store in [Store::Overlay2, Store::Containerd] {
        let played = play(store, Duration::from_secs(20), Kill::Nothing, &settings);
        assert_eq!((played.outcome, played.was_first.get()), (Some("pruned"), true), "{played:?}");
        // The first two waited for it, and the last one had nothing to wait for.
        let waited: Vec<u64> = played.waited.iter().map(|waited| waited.get().unwrap().as_secs()).collect();
        assert!(waited[0] >= 18 && waited[0] < 40 && waited[1] < 31 && waited[2] == 0, "{waited:?}");
    }
}

#[test]
fn nobody_waits_beyond_its_limit_for_a_run_that_does_not_end() {
    let settings = settings("--disk-critical 100");
    let played = play(Store::Overlay2, Duration::from_secs(900), Kill::Nothing, &settings);
    assert_eq!(played.outcome, Some("blocked"), "{played:?}");
    for waited in &played.waited {
        let waited = waited.get().unwrap();
        assert!(waited <= PRUNE_WAIT + Duration::from_millis(100), "{waited:?}");
    }
}

#[test]
fn a_kill_of_the_prune_or_of_a_command_holds_no_other_up() {
    let settings = settings("--disk-critical 100");
    let lasts = Duration::from_secs(20);
    for store in [Store::Overlay2, Store::Containerd] {
        let steps = play(store, lasts, Kill::Nothing, &settings).steps;
        let prunes = (1..steps).map(Kill::Prune);
        let commands = (0..120).map(|n| Kill::Command(Duration::from_millis(n * 250)));
        for kill in prunes.chain(commands) {
            let played = play(store, lasts, kill, &settings);
            let others = &played.waited[usize::from(matches!(kill, Kill::Command(_)))..];
            for waited in others {
                let waited = waited.get().unwrap();
                assert!(waited <= PRUNE_WAIT + Duration::from_millis(100), "{kill:?} {played:?}");
            }
            let expected = if matches!(kill, Kill::Prune(_)) { None } else { Some("pruned") };
            assert!(played.outcome == expected || played.outcome == Some("pruned"), "{kill:?} {played:?}");
        }
    }
}
