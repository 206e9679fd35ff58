//! The gate `runs`: open while no CI run is live.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regex::Regex;

use crate::facts::{Container, ContainerState, Service, Survey, Unavailable, label};
use crate::units::Time;

/// Runs take minutes, not days.
const POSSIBLY_STALE_AGE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone)]
pub struct Policy {
    /// Names of a run's stacks, services, Compose projects and containers.
    pub pattern: Regex,
    /// What is looked for, in words.
    pub looks_for: String,
    /// A run that has been live for longer closes no gate; `None`: every run does.
    pub max_age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunKind {
    Stack,
    Service,
    ComposeProject,
    Container,
    /// A command under `ci-docker-prune inhibit`; its reason is its name.
    Inhibitor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    Live,
    /// It has been live for longer than `--run-max-age`: what a crashed CI left behind.
    Abandoned,
    /// Its containers were created and never started, and nothing of it runs.
    NeverStarted,
}

/// A run or an inhibitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub kind: RunKind,
    /// Of the stack, service, project or container; an inhibitor's reason.
    pub name: String,
    pub age: Option<Duration>,
    pub pid: Option<u32>,
    /// Of an inhibitor.
    pub user: Option<String>,
    pub state: RunState,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Also those that close no gate.
    pub runs: Vec<Run>,
    /// Names of what is live and no run.
    pub others: Vec<String>,
    pub looked_for: String,
}

impl Run {
    /// Older than a run ever takes, but waited for.
    pub fn is_possibly_stale(&self) -> bool {
        self.state == RunState::Live && self.age.is_some_and(|age| age >= POSSIBLY_STALE_AGE)
    }
}

impl Found {
    pub fn live(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.state == RunState::Live)
    }

    pub fn holds_no_inhibitor(&self) -> bool {
        self.runs.iter().all(|run| run.kind != RunKind::Inhibitor)
    }

    /// The runs that are no longer waited for.
    pub fn let_go(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.state != RunState::Live)
    }
}

pub type Verdict = super::Verdict<Found, Found, Unavailable>;

/// What was found, where everything could be asked or a live run was seen.
pub fn found(verdict: &Verdict) -> Option<&Found> {
    match verdict {
        Verdict::Open(found) | Verdict::Closed(found) => Some(found),
        Verdict::Unknown(_) => None,
    }
}

/// Evaluate the gate. A run that is seen closes it, whatever else could not be asked.
pub fn evaluate(survey: &Survey, policy: &Policy, now: Time) -> Verdict {
    let services = survey.services.as_deref().unwrap_or_default();
    let containers = survey.containers.as_deref().unwrap_or_default();
    let age = |since: Time| survey.past.age(since, now);
    let mut seen: BTreeMap<(RunKind, &str), Members> = BTreeMap::new();
    let mut others = BTreeSet::new();
    let of_services = services.iter().map(|service| {
        let name = service.labels.get(label::STACK).unwrap_or(&service.name);
        (of_service(service, &policy.pattern), name, service.created, true)
    });
    let live = containers.iter().filter(|container| container.state.is_live());
    let of_containers = live.filter_map(|container| {
        let started = container.state != ContainerState::Created;
        Some((of_container(container, &policy.pattern), container.names.first()?, container.created, started))
    });
    for (run, name, created, started) in of_services.chain(of_containers) {
        match run {
            Some(run) => seen.entry(run).or_default().add(created, started),
            None => drop(others.insert(name.clone())),
        }
    }
    let is_abandoned = |age: Option<Duration>| age.zip(policy.max_age).is_some_and(|(age, most)| age >= most);
    let of_names = seen.into_iter().map(|((kind, name), members)| {
        let age = members.oldest.map(age);
        let state = match members.has_started {
            false => RunState::NeverStarted,
            true if is_abandoned(age) => RunState::Abandoned,
            true => RunState::Live,
        };
        Run { kind, name: name.to_owned(), age, pid: None, user: None, state }
    });
    let of_inhibitors = survey.inhibitors.iter().flatten().map(|inhibitor| Run {
        kind: RunKind::Inhibitor,
        name: inhibitor.why.clone().unwrap_or_default(),
        age: inhibitor.since.map(age),
        pid: inhibitor.pid,
        user: inhibitor.user.clone(),
        // Its process is there, and asks for it.
        state: RunState::Live,
    });
    let runs = of_names.chain(of_inhibitors).collect();
    let found = Found { runs, others: others.into_iter().collect(), looked_for: policy.looks_for.clone() };
    if found.live().next().is_some() {
        return Verdict::Closed(found);
    }
    let unanswered =
        [survey.services.as_ref().err(), survey.containers.as_ref().err(), survey.inhibitors.as_ref().err()];
    match unanswered.into_iter().flatten().next() {
        Some(why) => Verdict::Unknown(why.clone()),
        None => Verdict::Open(found),
    }
}

/// What a run consists of.
#[derive(Default)]
struct Members {
    oldest: Option<Time>,
    /// A service, or a container that has been started.
    has_started: bool,
}

impl Members {
    fn add(&mut self, created: Option<Time>, started: bool) {
        self.oldest = [self.oldest, created].into_iter().flatten().min();
        self.has_started |= started;
    }
}

fn of_service<'a>(service: &'a Service, pattern: &Regex) -> Option<(RunKind, &'a str)> {
    let stack = service.labels.get(label::STACK).map(|name| (RunKind::Stack, name.as_str()));
    let names = stack.into_iter().chain([(RunKind::Service, service.name.as_str())]);
    names.into_iter().find(|(_, name)| pattern.is_match(name))
}

fn of_container<'a>(container: &'a Container, pattern: &Regex) -> Option<(RunKind, &'a str)> {
    let stack = label::stack(&container.labels).map(|name| (RunKind::Stack, name));
    let project = label::compose_project(&container.labels).map(|name| (RunKind::ComposeProject, name));
    let mut labels = stack.into_iter().chain(project);
    labels.find(|(_, name)| pattern.is_match(name)).or_else(|| {
        let name = container.names.iter().find(|name| pattern.is_match(name))?;
        // A task's container is named after its service, which is shown under that name already.
        match container.labels.get(label::SERVICE_NAME) {
            Some(service) if container.labels.contains_key(label::SERVICE_ID) => {
                Some((RunKind::Service, service))
            }
            _ => Some((RunKind::Container, name)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Inhibitor;
    use crate::gates::GateState;
    use crate::testing::{ago, container, gates_policy, labels, now, service, survey};

    fn evaluated(survey: &Survey) -> Verdict {
        // However long it has been live.
        evaluate(survey, &Policy { max_age: None, ..gates_policy().runs }, now())
    }

    fn runs_of(verdict: Verdict) -> Vec<Run> {
        found(&verdict).expect("it is known").runs.clone()
    }

    #[test]
    fn what_a_crashed_ci_left_behind_closes_no_gate() {
        let run = crate::testing::RUN;
        let of = |name: &str, state, created: &str| Container {
            names: vec![name.into()],
            state,
            created: ago(created),
            ..container()
        };
        let project = |container: Container| Container {
            labels: labels(&[(label::COMPOSE_PROJECT, run), ("com.docker.compose.container-number", "1")]),
            ..container
        };
        let stack = |created: &str| Service {
            labels: labels(&[(label::STACK, run)]),
            created: ago(created),
            ..service()
        };
        use ContainerState::{Created, Exited, Running};
        use RunState::{Abandoned, Live, NeverStarted};
        type Row<'a> = (&'a str, Vec<Service>, Vec<Container>, Option<RunState>);
        let table: [Row; 9] = [
            ("a stack of 24 h", vec![stack("24h")], vec![], Some(Abandoned)),
            ("of 23 h", vec![stack("23h")], vec![], Some(Live)),
            ("a container of two days", vec![], vec![of(run, Running, "2d")], Some(Abandoned)),
            ("one that ended", vec![], vec![of(run, Exited, "2d")], None),
            ("created only", vec![], vec![of(run, Created, "1m")], Some(NeverStarted)),
            ("created only, days ago", vec![], vec![of(run, Created, "9d")], Some(NeverStarted)),
            (
                "created, beside one that ended",
                vec![],
                vec![project(of("a", Created, "1h")), project(of("b", Exited, "1h"))],
                Some(NeverStarted),
            ),
            (
                "created, beside one that runs",
                vec![],
                vec![project(of("a", Created, "1h")), project(of("b", Running, "1h"))],
                Some(Live),
            ),
            (
                "created for a service that is there",
                vec![stack("1h")],
                vec![Container {
                    labels: labels(&[(label::STACK, run), (label::SERVICE_ID, "service")]),
                    ..of("a", Created, "1h")
                }],
                Some(Live),
            ),
        ];
        for (what, services, containers, expected) in table {
            let facts = Survey { services: Ok(services), containers: Ok(containers), ..survey() };
            let verdict = evaluate(&facts, &gates_policy().runs, now());
            let states: Vec<_> = runs_of(verdict.clone()).iter().map(|run| run.state).collect();
            assert_eq!(states, Vec::from_iter(expected), "{what}");
            let closed = verdict.state() == GateState::Closed;
            assert_eq!(closed, expected == Some(Live), "{what}");
        }
        // A command that runs holds the gate, however long.
        let old = Inhibitor { pid: Some(7), since: ago("9d"), why: None, user: None };
        let facts = Survey { inhibitors: Ok(vec![old]), ..survey() };
        assert_eq!(evaluate(&facts, &gates_policy().runs, now()).state(), GateState::Closed);
    }

    /// By the wall clock alone a clock that jumps ahead would let go every run that is live.
    #[test]
    fn neither_a_clock_that_jumps_nor_a_host_that_was_off_makes_a_run_abandoned() {
        let mut facts = Survey {
            services: Ok(vec![Service { name: crate::testing::RUN.into(), ..service() }]),
            ..survey()
        };
        facts.services.as_mut().unwrap()[0].created = ago("50h");
        assert_eq!(evaluate(&facts, &gates_policy().runs, now()).state(), GateState::Open);
        // The ledger, an hour ago by its clock, recorded that the wall clock showed two days less.
        let record = crate::facts::Moment { wall: ago("51h").unwrap(), time: ago("1h").unwrap() };
        facts.past = crate::facts::Past { moments: vec![record], now: Some(now()), ..Default::default() };
        assert_eq!(evaluate(&facts, &gates_policy().runs, now()).state(), GateState::Closed);
    }

    #[test]
    fn what_is_live_and_no_run_is_named_too() {
        let facts = Survey { services: Ok(vec![service()]), containers: Ok(vec![container()]), ..survey() };
        let verdict = evaluate(&facts, &gates_policy().runs, now());
        let found = found(&verdict).unwrap();
        assert_eq!((found.others.join(" "), found.looked_for.as_str()), ("app plain".into(), "coop-cloud"));
    }

    #[test]
    fn the_pattern_has_exact_boundaries() {
        let table = [
            ("a-0123ef_ci_commoninternet_net", true),
            ("abcd-0123ef_ci_commoninternet_net", true),
            ("abcd-0123ef_ci_commoninternet_net_app", true),
            ("ab.d-0123ef_ci_commoninternet_net_app.1.xyz", true),
            ("abcde-0123ef_ci_commoninternet_net", false),
            ("-0123ef_ci_commoninternet_net", false),
            ("a_c-0123ef_ci_commoninternet_net", false),
            ("abcd-0123e_ci_commoninternet_net", false),
            ("abcd-0123eff_ci_commoninternet_net", false),
            ("abcd-0123EF_ci_commoninternet_net", false),
            ("abcd-0123eg_ci_commoninternet_net", false),
            ("abcd-0123ef_ci_commoninternet_nets", false),
            ("xabcd-0123ef_ci_commoninternet_net", false),
            ("abcd-0123ef-ci-commoninternet-net", false),
            ("äöüß-0123ef_ci_commoninternet_net", true),
        ];
        for (name, expected) in table {
            let closed = |services, containers| {
                let facts = Survey { services: Ok(services), containers: Ok(containers), ..survey() };
                evaluated(&facts).state() == GateState::Closed
            };
            let named = Service { name: name.into(), ..service() };
            let stack = Service { labels: labels(&[(label::STACK, name)]), ..service() };
            let project = (label::COMPOSE_PROJECT, name);
            let number = ("com.docker.compose.container-number", "1");
            let compose = Container { labels: labels(&[project, number]), ..container() };
            let built = Container { labels: labels(&[project, (label::STACK, name)]), ..container() };
            let plain = Container { names: vec![name.into()], ..container() };
            let ended = Container { state: ContainerState::Exited, ..plain.clone() };
            assert_eq!(closed(vec![named], vec![]), expected, "service {name}");
            assert_eq!(closed(vec![stack], vec![]), expected, "stack {name}");
            assert_eq!(closed(vec![], vec![compose]), expected, "project {name}");
            assert_eq!(closed(vec![], vec![plain]), expected, "container {name}");
            assert!(!closed(vec![], vec![built]), "container of an image with labels {name}");
            assert!(!closed(vec![], vec![ended]), "ended container {name}");
        }
    }

    #[test]
    fn a_stack_is_named_once_with_its_oldest_age() {
        let name = crate::testing::RUN;
        let part = |created: &str| Service {
            labels: labels(&[(label::STACK, name)]),
            created: Some(created.parse().unwrap()),
            ..service()
        };
        let facts = Survey {
            services: Ok(vec![part("2026-11-19T12:00:00Z"), part("2026-11-20T11:00:00Z")]),
            containers: Ok(vec![Container {
                labels: labels(&[(label::STACK, name), (label::SERVICE_ID, "service")]),
                created: None,
                ..container()
            }]),
            ..survey()
        };
        let expected = Run {
            kind: RunKind::Stack,
            name: name.into(),
            age: Some(Duration::from_secs(86_400)),
            pid: None,
            user: None,
            state: RunState::Live,
        };
        assert_eq!(runs_of(evaluated(&facts)), [expected]);
    }

    #[test]
    fn a_run_that_is_seen_closes_even_where_something_else_is_unanswered() {
        let run = Container { names: vec!["abcd-0123ef_ci_commoninternet_net".into()], ..container() };
        let services = || Err(Unavailable("worker".into()));
        let facts = Survey { services: services(), containers: Ok(vec![run]), ..survey() };
        assert_eq!(evaluated(&facts).state(), GateState::Closed);
        let unanswered = || Unavailable("x".into());
        let none = survey();
        for (what, facts, expected) in [
            ("all is known", none.clone(), GateState::Open),
            ("no services", Survey { services: services(), ..none.clone() }, GateState::Unknown),
            ("no containers", Survey { containers: Err(unanswered()), ..none.clone() }, GateState::Unknown),
            ("no inhibitors", Survey { inhibitors: Err(unanswered()), ..none }, GateState::Unknown),
        ] {
            assert_eq!(evaluated(&facts).state(), expected, "{what}");
        }
    }

    #[test]
    fn a_run_is_called_by_what_it_is_and_is_stale_after_a_day() {
        let run = crate::testing::RUN;
        let number = ("com.docker.compose.container-number", "1");
        let shown = |container: Container| {
            let facts = Survey { containers: Ok(vec![container]), ..survey() };
            let runs = runs_of(evaluated(&facts));
            (runs[0].kind, runs[0].name.clone(), runs[0].is_possibly_stale())
        };
        let labelled = |pairs: &[(&str, &str)]| Container { labels: labels(pairs), ..container() };
        let plain =
            |created: &str| Container { names: vec![run.into()], created: ago(created), ..container() };
        assert_eq!(shown(plain("1h")), (RunKind::Container, run.into(), false));
        assert_eq!(shown(plain("24h")), (RunKind::Container, run.into(), true));
        assert_eq!(
            shown(labelled(&[(label::COMPOSE_PROJECT, run), number])),
            (RunKind::ComposeProject, run.into(), true)
        );
        assert_eq!(shown(labelled(&[(label::STACK, run), (label::SERVICE_ID, "x")])).0, RunKind::Stack);
        // By any of its names, and a service also in a stack of another name.
        let linked = Container { names: vec!["other".into(), run.into()], ..plain("1h") };
        assert_eq!(shown(linked).1, run);
        let in_stack = Service {
            name: run.into(),
            labels: labels(&[(label::STACK, "other")]),
            ..crate::testing::service()
        };
        let facts = Survey { services: Ok(vec![in_stack]), ..survey() };
        let runs = runs_of(evaluated(&facts));
        assert_eq!((runs[0].kind, runs[0].name.as_str()), (RunKind::Service, run));
        // A task's container is shown as its service.
        let task = |id: &[(&str, &str)]| {
            let name = [(label::SERVICE_NAME, "service-name")];
            Container { labels: labels(&[&name, id].concat()), ..plain("1h") }
        };
        let service = (RunKind::Service, "service-name".to_owned(), false);
        assert_eq!(shown(task(&[(label::SERVICE_ID, "x")])), service);
        assert_eq!(shown(task(&[])).0, RunKind::Container, "the image's own label");
    }

    #[test]
    fn an_inhibitor_closes_the_gate_and_not_knowing_of_any_is_unknown() {
        let judged = |inhibitors| {
            let facts = Survey { inhibitors, ..survey() };
            evaluated(&facts)
        };
        let deploy = Inhibitor { pid: Some(7), since: ago("61h"), why: Some("deploy".into()), user: None };
        let verdict = judged(Ok(vec![deploy]));
        assert_eq!(verdict.state(), GateState::Closed);
        let runs = runs_of(verdict);
        assert_eq!((runs[0].name.as_str(), runs[0].pid), ("deploy", Some(7)));
        assert!(runs[0].is_possibly_stale());
        assert_eq!(judged(Err(Unavailable("EACCES".into()))).state(), GateState::Unknown);
        assert_eq!(judged(Ok(vec![])).state(), GateState::Open);
    }

    #[test]
    fn the_patterns_of_the_docs_are_the_programs_and_match_their_examples() {
        use clap::ValueEnum as _;
        let page = include_str!("../../docs/ci-systems.md");
        let mut tried = 0;
        for ci in crate::cli::Ci::value_variants() {
            let heading = format!("\n## `{}`\n", ci.name());
            let section = page.split(&heading).nth(1).and_then(|rest| rest.split("\n## ").next());
            let section = section.unwrap_or_else(|| panic!("no section for {}", ci.name()));
            assert!(section.contains(&format!("```\n{}\n```", ci.pattern())), "the pattern of {}", ci.name());
            let pattern = Regex::new(ci.pattern()).unwrap();
            for (line, is_run) in [("- a run: `", true), ("- no run: `", false)] {
                let names = section.split(line).skip(1).filter_map(|rest| rest.split('`').next());
                for name in names {
                    assert_eq!(pattern.is_match(name), is_run, "{name} by {pattern}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 30, "{tried}");
    }
}
