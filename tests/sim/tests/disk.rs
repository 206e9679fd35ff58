//! What fills a disk while a prune works on it, and what an engine cannot do on a full one.

use std::collections::BTreeMap;
use std::time::Duration;

use ci_docker_prune::commands::{prune, record};
use ci_docker_prune::execute::Stop;
use ci_docker_prune::facts::Inhibitor;
use ci_docker_prune::ledger::{Entry, Ledger};
use ci_docker_prune::prune::report::PruneReport;
use ci_docker_prune::report::progress;
use ci_docker_prune::settings;
use sim::engine::Image;
use sim::run::{scene, settings};
use sim::world::epoch;
use sim::{Deed, Fault, Simulated, State, Store};

const MB: u64 = 1_000_000;

fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

/// Cached images of 20 MB each, last used so many days ago, on a disk of 1 GB.
fn host(days: &[i64], percent: u64) -> Simulated {
    let mut state = State::new(Store::Overlay2, 1_000 * MB);
    let mut images = BTreeMap::new();
    for (n, days) in days.iter().enumerate() {
        let name = format!("i{n:02}");
        let image = Image::new(&name, vec![(format!("{name}-own"), 20 * MB)]);
        let at = epoch() - jiff::SignedDuration::from_hours(24 * days);
        images.insert(image.id(), Entry { last_used: Some(at), named: true, ..Entry::new(at) });
        state.add_cached(image);
    }
    state.stale_cache = false;
    state.ballast = percent * 10 * MB - state.used();
    Simulated::new(state, Ledger { images, ..Ledger::default() }, 0, 1, None)
}

async fn run_record(world: &Simulated) {
    let words = ["ci-docker-prune", "--config=/dev/null", "record", "--prune-at", "90"].map(Into::into);
    let settings = settings::read(words).expect("settings");
    record::run(world, &settings, &progress::hidden()).await.expect("an engine");
}

async fn run_prune(world: &Simulated, words: &str) -> PruneReport {
    prune::attempt(world, &settings(words), false, Duration::ZERO, false, &progress::hidden())
        .await
        .attempt
        .report
}

fn percent(world: &Simulated) -> u64 {
    let state = world.0.state.borrow();
    (state.used() * 100).div_ceil(state.disk_size)
}

/// The places of this step in the trace of a run of `world`.
fn places(world: &Simulated, name: &str) -> Vec<usize> {
    let trace = world.0.trace.borrow();
    trace.iter().enumerate().filter(|(_, step)| *step == name).map(|(place, _)| place).collect()
}

#[test]
fn one_who_writes_as_much_as_a_batch_frees_neither_ends_the_evictions_nor_silences_record() {
    // The first batch is one image of the target's rung.
    let days: Vec<i64> = std::iter::once(40).chain([3; 15]).collect();
    let probe = host(&days, 92);
    block(run_record(&probe));
    let second = places(&probe, "DELETE /images/REFERENCE")[1];
    for written in [0, 20, 40] {
        let world = host(&days, 92);
        block(async {
            world.0.begins.borrow_mut().push((second, Deed::Write(written * MB)));
            run_record(&world).await;
            assert!(percent(&world) < 80 + 4, "{written}: {} %", percent(&world));
            let pressure = world.0.ledger.borrow().pressure.clone();
            assert!(pressure.is_none_or(|pressure| pressure.freed_nothing.is_none()), "{written}");
        });
    }
}

#[test]
fn after_evictions_that_free_nothing_everything_else_still_goes() {
    let world = host(&[40; 10], 91);
    // A snapshot keeps what is removed.
    world.0.state.borrow_mut().keeps_snapshots = true;
    block(async {
        let report = run_prune(&world, "--disk-threshold 90 --disk-target 89").await;
        let Some(outcome) = report.outcome() else { panic!("{report:?}") };
        assert_eq!(outcome.removed.len(), 2 * 2, "two batches of 40 MB");
        assert_eq!(outcome.freed_nothing.map(|freed| freed.images), Some(4));
        // Five minutes later: no eviction, and stale cache goes.
        tokio::time::sleep(Duration::from_secs(300)).await;
        world.0.state.borrow_mut().stale_cache = true;
        run_record(&world).await;
        assert!(!world.0.state.borrow().stale_cache);
        assert_eq!(world.0.state.borrow().images.len(), 6);
        // An hour later, or once the disk is fuller by a point, they are tried again.
        world.0.state.borrow_mut().keeps_snapshots = false;
        world.0.state.borrow_mut().write(10 * MB);
        run_record(&world).await;
        assert_eq!(world.0.state.borrow().images.len(), 0, "{} %", percent(&world));
    });
}

#[test]
fn a_list_of_images_that_never_comes_keeps_nothing_else_from_going() {
    for store in [Store::Overlay2, Store::Containerd] {
        let start = || {
            let (state, ledger) = scene(store);
            Simulated::new(state, ledger, 0, 1, None)
        };
        let probe = start();
        block(run_prune(&probe, ""));
        let list = places(&probe, "GET /images/json")[0];
        let world = start();
        world.0.faults.borrow_mut().insert(list, Fault::Hang);
        let report = block(run_prune(&world, ""));
        let Some(outcome) = report.outcome() else { panic!("{report:?}") };
        assert_eq!(outcome.removed.len(), 3, "two containers and the build cache");
        assert!(report.has_failed() && report.plan().is_some_and(|(plan, _)| plan.unread.len() == 1));
        assert!(places(&world, "DELETE /containers/ID")[0] < places(&world, "GET /images/json")[0]);
    }
}

#[test]
fn a_blocked_prune_and_one_on_a_disk_with_room_ask_for_no_list_of_images() {
    for (inhibited, percent) in [(true, 97), (false, 50)] {
        let world = host(&[40; 4], percent);
        let inhibitor = Inhibitor { pid: Some(1), since: None, why: None, user: None };
        world.0.inhibitors.borrow_mut().extend(inhibited.then_some(inhibitor));
        let report = block(run_prune(&world, ""));
        assert!(matches!(report, PruneReport::Blocked { .. }), "{report:?}");
        assert!(places(&world, "GET /images/json").is_empty());
    }
}

#[test]
fn without_a_free_byte_the_reserve_goes_first_and_without_one_the_run_stops_at_the_first_order() {
    for reserve in [true, false] {
        let world = host(&[40; 8], 60);
        block(async {
            if reserve {
                // A prune that ends below the target keeps it, as does one that finds the disk there.
                run_prune(&world, "--disk-threshold 60 --disk-target 50").await;
                assert!(world.0.state.borrow_mut().release_reserve());
                let report = run_prune(&world, "").await;
                assert!(matches!(report, PruneReport::Blocked { .. }), "{report:?}");
            }
            world.0.state.borrow_mut().write(1_000 * MB);
            let images = world.0.state.borrow().images.len();
            let report = run_prune(&world, "").await;
            let Some(outcome) = report.outcome() else { panic!("{report:?}") };
            if reserve {
                assert!(images > 0 && outcome.failed.is_empty(), "{:?}", outcome.failed);
                assert_eq!(outcome.removed.len(), images);
            } else {
                assert!(matches!(outcome.stopped, Some(Stop::NoSpace)), "{:?}", outcome.stopped);
                assert_eq!((outcome.failed.len(), outcome.skipped.len()), (1, images - 1));
                assert_eq!(world.0.orders.get(), 1);
            }
        });
    }
}
