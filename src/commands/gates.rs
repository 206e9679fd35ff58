//! `check-gates`, and `disk`, `runs` and `converge`, which evaluate one gate each.

use anyhow::Result;

use super::print;
use super::prune::tell_wait;
use crate::cli::{GateName, Output};
use crate::exit::Exit;
use crate::facts::{Survey, Unavailable};
use crate::gates::{GateState, Gates, runs};
use crate::host::ThisHost;
use crate::ledger::Ledger;
use crate::observe::{self, Questions};
use crate::prune::{moment, record_gates};
use crate::report::{self, advice, reason};
use crate::settings::Settings;
use crate::world::{ContainerScope, World};

/// Evaluate the named gates, or all. `record`: also record image usage.
pub async fn run(host: &ThisHost, settings: &Settings, names: &[GateName], record: bool) -> Result<Exit> {
    let is_named = |name| names.is_empty() || names.contains(&name);
    let policy = &settings.policy;
    let waits = record && (is_named(GateName::Runs) || is_named(GateName::Converge));
    if waits && !settings.wait.is_zero() {
        wait(host, settings, &is_named).await;
    }
    let engine = host.connect().await;
    let survey = match &engine {
        Err(why) => Survey::unavailable(why),
        Ok(engine) => observe::survey(host, engine, questions(&is_named, record), &policy.disk_paths).await,
    };
    let now = host.now();
    let found = policy.gates(&survey, now);
    if let Ok(engine) = &engine
        && record
    {
        let change = |ledger: &mut Ledger| record_gates(ledger, &found, now);
        // A user of the docker group may ask the gates without owning the ledger.
        if let Err(error) = observe::record_usage(host, engine, &survey, now, change).await {
            log::info!("the ledger was not updated: {error:#}");
        }
    }
    let unnamed = policy.gates(&Survey::unavailable(&Unavailable("not asked".into())), now);
    // A gate that is not named gives no advice either.
    let gates = Gates {
        disk: if is_named(GateName::Disk) { found.disk } else { unnamed.disk },
        runs: if is_named(GateName::Runs) { found.runs } else { unnamed.runs },
        converge: if is_named(GateName::Converge) { found.converge } else { unnamed.converge },
    };
    let order = [GateName::Disk, GateName::Runs, GateName::Converge];
    let named = reason::gates(&gates).into_iter().zip(order).filter(|(_, name)| is_named(*name));
    let named: Vec<_> = named.map(|(gate, _)| gate).collect();
    let advice = advice::on_gates(&gates);
    print(|mut out| match settings.output {
        Output::Text => {
            let advice = [advice, advice::let_go(&gates)].concat();
            let others = runs::found(&gates.runs).filter(|_| settings.verbose);
            let others = others.map(|found| &found.others[..]).unwrap_or_default();
            report::gates::text(&mut out, &named, &advice)?;
            report::gates::no_runs(&mut out, others)
        }
        Output::Json => report::gates::json_of(&mut out, &named, advice),
    })?;
    Ok(match GateState::combined(named.iter().map(|gate| gate.state)) {
        GateState::Open => Exit::Done,
        GateState::Closed => Exit::Closed,
        GateState::Unknown => Exit::Unavailable,
    })
}

/// Wait for those of `runs` and `converge` that are named.
async fn wait(host: &ThisHost, settings: &Settings, is_named: &dyn Fn(GateName) -> bool) {
    let state = |gates: &Gates| {
        let named = [(GateName::Runs, gates.runs.state()), (GateName::Converge, gates.converge.state())];
        let named = named.into_iter().filter(|(name, _)| is_named(*name)).map(|(_, state)| state);
        GateState::combined(named.collect::<Vec<_>>())
    };
    let say = tell_wait(log::Level::Warn);
    let waited = moment::wait_for_gates(host, &settings.policy, settings.wait, state, &say).await;
    // The gates say why.
    drop(waited.inspect_err(|why| log::debug!("{why}")));
}

/// Live containers are enough here, and cheap to list: an ended container protects its image by itself, and the
/// events since the last record show those that are gone.
fn questions(is_named: &dyn Fn(GateName) -> bool, record: bool) -> Questions {
    let asks = |name| record || is_named(name);
    let deploys = asks(GateName::Runs) || asks(GateName::Converge);
    Questions {
        services: deploys,
        tasks: asks(GateName::Converge),
        containers: deploys.then_some(ContainerScope::Live),
        inhibitors: asks(GateName::Runs),
        disk: asks(GateName::Disk),
        past: deploys,
    }
}
