//! `record`: note what is in use, and prune where that is due between two daily prunes.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::print;
use super::prune::{self, Attempt};
use crate::cli::Output;
use crate::exit::Exit;
use crate::gates::disk::Measured;
use crate::gates::{Gate, GateState, Verdict};
use crate::ledger::{Ledger, Reported};
use crate::observe::{self, Questions, Survey};
use crate::report::progress::Bars;
use crate::report::{json, outcome_word, text};
use crate::settings::{self, RecordSettings};
use crate::units::{Percent, elapsed};
use crate::world::World;
use crate::world::real::ThisHost;

/// A prune that can do nothing, for the same reason as before, is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(3_600);

/// Record, and prune where that is due, on this host.
///
/// # Errors
/// As [`record_in`].
pub async fn run(
    engine: settings::EngineSettings,
    record: RecordSettings,
    output: Output,
    verbose: bool,
    bars: &Bars,
) -> Result<Exit> {
    let world = ThisHost::new(&engine, &record.prune.state_dir, &record.prune.runs.runtime_dir);
    record_in(&world, &record, output, verbose, bars).await
}

/// The same in any world.
///
/// # Errors
/// The engine does not answer, or the ledger cannot be written while no prune is due.
pub async fn record_in(
    world: &impl World,
    record: &RecordSettings,
    output: Output,
    verbose: bool,
    bars: &Bars,
) -> Result<Exit> {
    let RecordSettings { prune_at, prune } = record;
    // After a boot the directory of the inhibitors is gone; this comes long before the next prune.
    if let Err(error) = world.prepare() {
        log::info!("{error:#}");
    }
    let engine = world.connect().await?;
    let survey = observe::survey(&engine, Questions::IN_USE).await;
    let now = world.now();
    let disk = match prune_at {
        Some(_) => Some(survey.disk(world, &engine, &prune.disk).await),
        None => None,
    };
    let relieved = matches!(disk, Some(Gate::Disk(Verdict::Closed(_))));
    let change = |ledger: &mut Ledger| {
        ledger.older_than = Some(prune.policy.older_than);
        if relieved {
            ledger.clear_pressure();
        }
    };
    let noted = observe::record_usage(world, &engine, &survey, now, change).await;
    let known = noted.as_ref().map_or_else(|_| world.ledger(), Clone::clone);
    let due = match (prune_at, disk) {
        (Some(prune_at), Some(Gate::Disk(Verdict::Open(measured)))) => is_due(*prune_at, &measured, &known),
        (_, Some(gate)) if gate.state() == GateState::Unknown => {
            log::warn!("cannot tell whether a prune is due: {}", text::reason(&gate));
            false
        }
        _ => false,
    };
    if !due {
        let known = noted?;
        if let Some(path) = &prune.metrics_file {
            prune::write_ledger_metrics(path, &known, now).context("see --metrics-file")?;
        }
        if verbose || output == Output::Json {
            report(&survey, &known, None, output)?;
        }
        return Ok(Exit::Done);
    }
    // A ledger that cannot be written must not keep a full disk from being pruned.
    if let Err(error) = noted {
        log::warn!("{error:#}");
    }
    let reported = known.pressure.as_ref().and_then(|pressure| pressure.reported.as_ref());
    let report_due = reported.is_none_or(|reported| elapsed(known.time(now), reported.at) >= REPORT_INTERVAL);
    let attempt = prune::attempt(world, prune, verbose || report_due, bars).await;
    let (exit, worth_telling) = remember(world, &attempt).await;
    if output == Output::Json {
        report(&survey, &known, Some(&attempt), output)?;
    } else if worth_telling || verbose {
        attempt.print(output, verbose)?;
    }
    if worth_telling {
        attempt.log_errors(prune);
    }
    Ok(exit)
}

/// Is the disk so full, or so short of space, that it cannot wait for the daily prune, or is that prune still owed?
fn is_due(prune_at: Percent, measured: &Measured, ledger: &Ledger) -> bool {
    let urgent =
        measured.usages.iter().any(|usage| usage.percent >= prune_at || measured.limit.lacks_space(usage));
    urgent || ledger.pressure.as_ref().is_some_and(|pressure| pressure.owed_since.is_some())
}

/// With which status to end, and whether the attempt says anything that the last one did not. Manual intervention is
/// demanded once for each episode of pressure, so that an alarm rings once; the daily prune demands it every day.
async fn remember(world: &impl World, attempt: &Attempt) -> (Exit, bool) {
    let now = world.now();
    let mut result = (attempt.exit, true);
    let change = |ledger: &mut Ledger| {
        let now = ledger.time(now);
        let Some(pressure) = &mut ledger.pressure else { return };
        let demanded = attempt.exit == Exit::ManualIntervention;
        let exit =
            if demanded && pressure.alarmed { attempt.exit_without_intervention() } else { attempt.exit };
        let outcome = outcome_word(&attempt.report);
        let idle = matches!(outcome, "blocked" | "nothing");
        let what = attempt.report.gates.iter().filter(|gate| gate.state() != GateState::Open).map(Gate::name);
        let what = format!("{outcome}: {}", what.collect::<Vec<_>>().join(", "));
        let last = pressure.reported.as_ref().filter(|reported| reported.what == what);
        let told = last.is_some_and(|reported| elapsed(now, reported.at) < REPORT_INTERVAL);
        let worth_telling = exit != Exit::Done || !(idle && told);
        if worth_telling {
            pressure.reported = Some(Reported { at: now, what });
        }
        pressure.alarmed |= demanded;
        result = (exit, worth_telling);
    };
    if attempt.is_beside_another() {
        return (Exit::Done, false);
    }
    if let Err(error) = world.update_ledger(now, change).await {
        log::info!("{error:#}");
    }
    result
}

fn report(survey: &Survey, ledger: &Ledger, attempt: Option<&Attempt>, output: Output) -> Result<()> {
    let used: HashSet<&str> =
        survey.containers.iter().flatten().map(|container| container.image_id.as_str()).collect();
    let (used, known) = (used.len(), ledger.images.len());
    print(|mut out| match output {
        Output::Text => text::recorded(&mut out, used, known),
        Output::Json => json::recorded(&mut out, used, known, attempt.map(|attempt| &attempt.report)),
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::facts::SwarmState;
    use crate::gates::disk::{Limit, Usage};
    use crate::testing::fake::Fake;
    use crate::testing::{ago, block, now, usage};

    /// `record` with these words on a manager at this percentage; its exit status and what it leaves.
    fn recorded(words: &str, percent: u64, change: impl FnOnce(&mut Fake)) -> (Result<Exit>, Rc<Fake>) {
        let words = format!("ci-docker-prune --config=/dev/null record {words}");
        let settings = settings::read(words.split_whitespace().map(Into::into)).unwrap();
        let settings::Command::Record(record) = settings.command else { panic!("{:?}", settings.command) };
        let mut fake = Fake::new();
        fake.info.swarm.state = SwarmState::Manager;
        *fake.filesystem.borrow_mut() = usage(percent).filesystem;
        change(&mut fake);
        let fake = Rc::new(fake);
        let bars = crate::report::progress::hidden();
        (block(record_in(&fake, &record, Output::Text, false, &bars)), fake)
    }

    #[test]
    fn a_record_notes_what_is_in_use_and_prunes_where_that_is_due() {
        let prunes = |words: &str, percent, change: fn(&mut Fake)| {
            let (exit, fake) = recorded(words, percent, change);
            assert_eq!(exit.unwrap(), Exit::Done, "{words} {percent}");
            let ledger = fake.ledger.borrow();
            assert_eq!(ledger.older_than, Some(Duration::from_secs(86_400)));
            assert_eq!(ledger.noted, Some(now()));
            !fake.asked("lock prunes").is_empty()
        };
        assert!(prunes("--prune-at 90", 90, |_| ()));
        assert!(!prunes("--prune-at 90", 89, |_| ()));
        assert!(!prunes("", 99, |_| ()));
        assert!(!prunes("--dry-run --prune-at 90", 99, |_| ()));
        assert!(prunes("--prune-at 90", 85, |fake| fake.ledger.borrow_mut().owe([], now())));
        // Relieved meanwhile: that is forgotten.
        let (_, fake) = recorded("--prune-at 90", 79, |fake| fake.ledger.borrow_mut().owe([], now()));
        assert!(fake.ledger.borrow().pressure.is_none());
        let (_, fake) = recorded("", 79, |fake| fake.ledger.borrow_mut().owe([], now()));
        assert!(fake.ledger.borrow().pressure.is_some(), "the disk is not looked at");
        // A disk that cannot be measured is no reason to prune.
        let (exit, fake) = recorded("--prune-at 90", 99, |fake| {
            let error = crate::engine::EngineError::simulated_loss("x");
            fake.failures.insert("measure /var/lib/docker".into(), error);
        });
        assert!(matches!(exit, Ok(Exit::Done)) && fake.asked("lock prunes").is_empty());
        // A ledger that cannot be written is an error where no prune is due, and keeps none from its work.
        let unwritable = |fake: &mut Fake| {
            let error = crate::engine::EngineError::simulated_loss("x");
            fake.failures.insert("update ledger".into(), error);
        };
        assert!(recorded("--prune-at 90", 50, unwritable).0.is_err());
        let (exit, fake) = recorded("--prune-at 90", 90, unwritable);
        assert_eq!((exit.unwrap(), fake.asked("lock prunes").len()), (Exit::Failed, 1));
        assert!(recorded("--metrics-file /nowhere/x.prom", 50, |_| ()).0.is_err());
    }

    #[test]
    fn the_alarm_rings_once_for_an_episode_and_a_failure_each_time() {
        let alarmed = |fake: &mut Fake| {
            let mut ledger = fake.ledger.borrow_mut();
            ledger.owe([], ago("1h").unwrap());
            ledger.pressure.as_mut().unwrap().alarmed = true;
        };
        let exit = |change: &dyn Fn(&mut Fake)| {
            let (exit, fake) = recorded("--prune-at 90", 96, |fake| change(fake));
            let alarmed = fake.ledger.borrow().pressure.as_ref().unwrap().alarmed;
            (exit.unwrap(), alarmed)
        };
        assert_eq!(exit(&|_| ()), (Exit::ManualIntervention, true));
        assert_eq!(exit(&alarmed), (Exit::Done, true));
        // A removal that fails on the disk that is still critical.
        let failing = |fake: &mut Fake| {
            alarmed(fake);
            fake.build_cache = vec![crate::facts::CacheRecord {
                size: 1,
                in_use: false,
                shared: false,
                internal: false,
                last_used: ago("9d"),
            }];
            let error = crate::engine::EngineError::simulated_loss("x");
            fake.failures.insert("prune build cache 86400".into(), error);
        };
        assert_eq!(exit(&failing), (Exit::Failed, true));
    }

    #[test]
    fn a_prune_is_due_from_the_percentage_on_where_space_is_short_and_while_one_is_owed() {
        let owed = || {
            let mut ledger = Ledger::default();
            ledger.owe(["runs"], ago("1h").unwrap());
            ledger
        };
        // It is under pressure, and the last prune did its work.
        let settled = || {
            let mut ledger = owed();
            ledger.settle(Some(&usage(95).filesystem), now());
            ledger
        };
        type Row<'a> = (&'a str, &'a [u64], Option<u64>, Ledger, bool);
        let table: [Row; 9] = [
            ("below", &[89], None, Ledger::default(), false),
            ("at it", &[90], None, Ledger::default(), true),
            ("above it", &[91], None, Ledger::default(), true),
            ("another filesystem", &[10, 90], None, Ledger::default(), true),
            ("enough space", &[85], Some(150), Ledger::default(), false),
            ("too little", &[85], Some(151), Ledger::default(), true),
            ("owed", &[85], None, owed(), true),
            ("not owed", &[85], None, settled(), false),
            // What evictions could not free others may; the plan itself leaves the cache alone.
            ("at it, and the last one freed nothing", &[90], None, settled(), true),
        ];
        for (what, percents, min_free, ledger, expected) in table {
            let usages: Vec<Usage> = percents.iter().map(|percent| usage(*percent)).collect();
            let limit = Limit { percent: "80".parse().unwrap(), min_free };
            let measured = Measured { usages, limit };
            assert_eq!(is_due("90".parse().unwrap(), &measured, &ledger), expected, "{what}");
        }
    }
}
