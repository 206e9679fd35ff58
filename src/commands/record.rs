//! `record`: record what is in use, and prune where that is due between two daily prunes.

use std::collections::HashSet;

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::print;
use super::prune::{Ended, attempt, status, write_ledger_metrics};
use crate::cli::Output;
use crate::exit::Exit;
use crate::facts::Survey;
use crate::gates::Verdict;
use crate::ledger::Ledger;
use crate::observe::{self, Questions};
use crate::prune::due::{REPORT_INTERVAL, is_due, notice};
use crate::prune::report::{Attempt, PruneReport};
use crate::prune::{moment, record_gates};
use crate::report;
use crate::report::progress::Bars;
use crate::report::reason;
use crate::settings::Settings;
use crate::units::elapsed;
use crate::world::{Register, Registration, World};

pub async fn run(world: &impl World, settings: &Settings, bars: &Bars) -> Result<Exit> {
    let policy = &settings.policy;
    // After a boot the directory of the inhibitors is gone; `record` makes it again long before the next prune
    // does.
    if let Err(error) = world.prepare() {
        log::info!("{error:#}");
    }
    let engine = world.connect().await?;
    let questions = Questions { disk: settings.prune_at.is_some(), ..Questions::EVERYTHING };
    let survey = observe::survey(world, &engine, questions, &policy.disk_paths).await;
    let now = world.now();
    let policy = policy.requested(world, &survey);
    let gates = policy.gates(&survey, now);
    let young_from = policy.removal.young_from.percent;
    let disk = settings.prune_at.map(|prune_at| (prune_at.min(young_from), &gates.disk));
    let change = |ledger: &mut Ledger| {
        ledger.older_than = Some(policy.removal.older_than);
        record_gates(ledger, &gates, now);
        match disk {
            Some((_, Verdict::Closed(_))) => ledger.clear_pressure(),
            Some((prune_at, Verdict::Open(measured))) if is_due(prune_at, measured, ledger) => return,
            _ => {}
        }
        if let Some(fullest) = gates.usages().first() {
            ledger.record_turn(fullest.percent, now);
        }
    };
    let recorded = observe::record_usage(world, &engine, &survey, now, change).await;
    let known = recorded.as_ref().map_or_else(|_| world.ledger(), Clone::clone);
    let due = match disk {
        Some((prune_at, Verdict::Open(measured))) => is_due(prune_at, measured, &known),
        Some((_, unknown @ Verdict::Unknown(_))) => {
            log::warn!("it is not known whether a prune is due: {}", reason::disk(unknown).reason.message);
            false
        }
        Some((_, Verdict::Closed(_))) | None => false,
    };
    if !due {
        // Nothing is to be done for those that asked for a prune: they need not wait for it.
        if !world.requests().unwrap_or_default().is_empty() {
            drop(world.register(Register::Prunes, &Registration::default()));
        }
        let known = recorded?;
        if let Some(path) = &settings.metrics_file {
            write_ledger_metrics(path, &known, now).context("see --metrics-file")?;
        }
        if settings.verbose || settings.output == Output::Json {
            print_record(&survey, &known, None, settings)?;
        }
        return Ok(Exit::Done);
    }
    // A ledger that cannot be written must not keep a full disk from being pruned.
    if let Err(error) = recorded {
        log::warn!("{error:#}");
    }
    let reported = known.pressure.as_ref().and_then(|pressure| pressure.reported.as_ref());
    let report_due = reported.is_none_or(|reported| elapsed(known.time(now), reported.at) >= REPORT_INTERVAL);
    let end = Instant::now() + settings.wait;
    loop {
        let wait = end.saturating_duration_since(Instant::now());
        let ended = attempt(world, settings, false, wait, settings.verbose || report_due, bars).await;
        let (exit, is_news) = record_notice(world, &ended).await;
        if settings.output == Output::Json {
            print_record(&survey, &known, Some(&ended.attempt), settings)?;
        } else if settings.verbose || is_news && !(settings.quiet && exit == Exit::Done) {
            ended.print(settings)?;
        }
        if is_news {
            ended.log_errors(settings);
        }
        let is_last = exit != Exit::Done || settings.output == Output::Json;
        if is_last || !will_be_critical(world, settings, &ended, end).await {
            return Ok(exit);
        }
    }
}

/// Where a prune could not relieve the disk: whether it becomes critical, and more may go, before the next one begins.
async fn will_be_critical(world: &impl World, settings: &Settings, ended: &Ended, end: Instant) -> bool {
    let PruneReport::Done(done) = &ended.attempt.report else { return false };
    let critical = settings.policy.removal.with_room(world.ledger().growth()).young_from;
    let left = end.saturating_duration_since(Instant::now());
    if done.relieved || left.is_zero() || done.after.iter().any(|usage| critical.is_reached(usage)) {
        return false;
    }
    let waited = moment::wait_for_critical(world, &settings.policy, left).await;
    waited.inspect_err(|why| log::info!("{why}")).unwrap_or(false) && !world.shutdown_requested()
}

/// The exit status, and whether the attempt says anything new.
async fn record_notice(world: &impl World, ended: &Ended) -> (Exit, bool) {
    let Ended { attempt, exit, .. } = ended;
    if matches!(attempt.report, PruneReport::Busy { .. }) {
        return (Exit::Done, false);
    }
    let now = world.now();
    let mut result = (*exit, true);
    let change = |ledger: &mut Ledger| {
        let now = ledger.time(now);
        let Some(pressure) = &mut ledger.pressure else { return };
        let outcome = attempt.outcome();
        let blocked_by = attempt.report.gates().map(|gates| gates.not_open().join(", ")).unwrap_or_default();
        // The daily prune says it every day.
        let is_known = *exit == Exit::ManualIntervention && !ended.is_alarm;
        let exit = if is_known { status(attempt) } else { *exit };
        let idle = matches!(outcome, "blocked" | "nothing") && exit == Exit::Done;
        result = (exit, notice(pressure, now, idle, format!("{outcome}: {blocked_by}")));
    };
    if let Err(error) = world.update_ledger(now, change).await {
        log::info!("{error:#}");
    }
    result
}

fn print_record(
    survey: &Survey,
    ledger: &Ledger,
    prune: Option<&Attempt>,
    settings: &Settings,
) -> Result<()> {
    let used: HashSet<&str> =
        survey.containers.iter().flatten().map(|container| container.image_id.as_str()).collect();
    let (used, known) = (used.len(), ledger.images.len());
    print(|mut out| match settings.output {
        Output::Text => report::prune::record_text(&mut out, used, known),
        Output::Json => report::prune::record_json(&mut out, used, known, prune),
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::facts::SwarmState;
    use crate::testing::fake::Fake;
    use crate::testing::{ago, block, now, settings, usage};

    /// `record` with these words on a manager at this percentage; its exit status and what it leaves.
    fn recorded(words: &str, percent: u64, change: impl FnOnce(&mut Fake)) -> (Result<Exit>, Rc<Fake>) {
        let settings = settings(&format!("record {words}"));
        let mut fake = Fake::new();
        fake.info.swarm.state = SwarmState::Manager;
        *fake.filesystem.borrow_mut() = usage(percent).filesystem;
        change(&mut fake);
        let fake = Rc::new(fake);
        let bars = crate::report::progress::hidden();
        (block(run(&fake, &settings, &bars)), fake)
    }

    #[test]
    fn a_record_has_what_is_in_use_and_prunes_where_that_is_due() {
        let prunes = |words: &str, percent, change: fn(&mut Fake)| {
            let (exit, fake) = recorded(words, percent, change);
            assert_eq!(exit.unwrap(), Exit::Done, "{words} {percent}");
            let ledger = fake.ledger.borrow();
            assert_eq!(ledger.older_than, Some(Duration::from_secs(86_400)));
            assert_eq!(ledger.recorded, Some(now()));
            !fake.asked("lock prunes").is_empty()
        };
        assert!(prunes("--prune-at 90", 90, |_| ()));
        assert!(!prunes("--prune-at 90", 89, |_| ()));
        assert!(!prunes("", 99, |_| ()));
        assert!(prunes("--prune-at 90", 85, |fake| fake.ledger.borrow_mut().owe([], now())));
        // Where runs need more room than is left above.
        let grown = |fake: &mut Fake| {
            let mut ledger = fake.ledger.borrow_mut();
            ledger.record_usage("80".parse().unwrap(), ago("1h").unwrap());
            ledger.hours[0].growth = Some(6);
        };
        assert!(prunes("--prune-at 90", 88, grown) && !prunes("--prune-at 90", 87, grown));
        // Relieved meanwhile: that is forgotten.
        let (_, fake) = recorded("--prune-at 90", 79, |fake| fake.ledger.borrow_mut().owe([], now()));
        assert!(fake.ledger.borrow().pressure.is_none());
        let (_, fake) = recorded("", 79, |fake| fake.ledger.borrow_mut().owe([], now()));
        assert!(fake.ledger.borrow().pressure.is_some(), "the disk is not looked at");
        // A disk that cannot be measured is no reason to prune.
        let (exit, fake) = recorded("--prune-at 90", 99, |fake| {
            let error = crate::testing::loss("x");
            fake.failures.insert("measure /var/lib/docker".into(), error);
        });
        assert!(matches!(exit, Ok(Exit::Done)) && fake.asked("lock prunes").is_empty());
        // A ledger that cannot be written is an error where no prune is due, and keeps none from its work.
        let unwritable = |fake: &mut Fake| {
            let error = crate::testing::loss("x");
            fake.failures.insert("update ledger".into(), error);
        };
        assert!(recorded("--prune-at 90", 50, unwritable).0.is_err());
        let (exit, fake) = recorded("--prune-at 90", 90, unwritable);
        assert_eq!((exit.unwrap(), fake.asked("lock prunes").len()), (Exit::Failed, 1));
        assert!(recorded("--metrics-file /nowhere/x.prom", 50, |_| ()).0.is_err());
    }

    #[test]
    fn the_alarm_rings_once_for_each_full_disk_and_a_failure_each_time() {
        let alarmed = |fake: &mut Fake| {
            let mut ledger = fake.ledger.borrow_mut();
            ledger.owe([], ago("1h").unwrap());
            ledger.pressure.as_mut().unwrap().intervention_since = ago("1h");
        };
        let exit = |change: &dyn Fn(&mut Fake)| {
            let (exit, fake) = recorded("--prune-at 90", 96, |fake| change(fake));
            let since = fake.ledger.borrow().pressure.as_ref().unwrap().intervention_since;
            (exit.unwrap(), since)
        };
        assert_eq!(exit(&|_| ()), (Exit::ManualIntervention, Some(now())));
        assert_eq!(exit(&alarmed), (Exit::Done, ago("1h")));
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
            let error = crate::testing::loss("x");
            fake.failures.insert("prune build cache 86400".into(), error);
        };
        assert_eq!(exit(&failing), (Exit::Failed, ago("1h")));
    }
}
