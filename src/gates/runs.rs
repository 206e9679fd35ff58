//! The gate `runs`: open while no CI run is live.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;

use crate::facts::{Container, Service, Survey, Unavailable, label};
use crate::units::{Time, elapsed};

/// A run older than this was probably left behind: runs take minutes, not days.
pub const POSSIBLY_STALE_AGE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunKind {
    Stack,
    Service,
    ComposeProject,
    Container,
    /// A command under `ci-docker-prune inhibit`; its reason is its name.
    Inhibitor,
}

/// A run or an inhibitor that blocks prunes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub kind: RunKind,
    /// Of the stack, service, project or container; an inhibitor's reason.
    pub name: String,
    pub age: Option<Duration>,
    pub pid: Option<u32>,
}

impl Run {
    pub fn is_possibly_stale(&self) -> bool {
        self.age.is_some_and(|age| age >= POSSIBLY_STALE_AGE)
    }
}

pub type Verdict = super::Verdict<(), Vec<Run>, Unavailable>;

/// Evaluate the gate. A run that is seen closes it, whatever else could not be asked.
pub fn evaluate(survey: &Survey, pattern: &Regex, now: Time) -> Verdict {
    let services = survey.services.as_deref().unwrap_or_default();
    let containers = survey.containers.as_deref().unwrap_or_default();
    let mut oldest: BTreeMap<(RunKind, &str), Option<Time>> = BTreeMap::new();
    let live = containers.iter().filter(|container| container.state.is_live());
    let seen = services
        .iter()
        .filter_map(|service| Some((of_service(service, pattern)?, service.created)))
        .chain(live.filter_map(|container| Some((of_container(container, pattern)?, container.created))));
    for (run, created) in seen {
        let since = oldest.entry(run).or_insert(created);
        *since = [*since, created].into_iter().flatten().min();
    }
    let age = |since: Option<Time>| since.map(|since| elapsed(now, since));
    let mut live: Vec<Run> = oldest
        .into_iter()
        .map(|((kind, name), since)| Run { kind, name: name.to_owned(), age: age(since), pid: None })
        .collect();
    live.extend(survey.inhibitors.iter().flatten().map(|inhibitor| Run {
        kind: RunKind::Inhibitor,
        name: inhibitor.why.clone().unwrap_or_default(),
        age: age(inhibitor.since),
        pid: inhibitor.pid,
    }));
    if !live.is_empty() {
        return Verdict::Closed(live);
    }
    let unanswered =
        [survey.services.as_ref().err(), survey.containers.as_ref().err(), survey.inhibitors.as_ref().err()];
    match unanswered.into_iter().flatten().next() {
        Some(why) => Verdict::Unknown(why.clone()),
        None => Verdict::Open(()),
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
    use crate::facts::{ContainerState, Inhibitor};
    use crate::gates::GateState;
    use crate::testing::{ago, container, labels, now, policy, service, survey};

    fn evaluated(survey: &Survey) -> Verdict {
        evaluate(survey, &policy().runs, now())
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
        };
        assert_eq!(evaluated(&facts), Verdict::Closed(vec![expected]));
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
            match evaluated(&facts) {
                Verdict::Closed(runs) => (runs[0].kind, runs[0].name.clone(), runs[0].is_possibly_stale()),
                other => panic!("{other:?}"),
            }
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
        match evaluated(&facts) {
            Verdict::Closed(runs) => {
                assert_eq!((runs[0].kind, runs[0].name.as_str()), (RunKind::Service, run))
            }
            other => panic!("{other:?}"),
        }
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
        let deploy = Inhibitor { pid: Some(7), since: ago("61h"), why: Some("deploy".into()) };
        match judged(Ok(vec![deploy])) {
            Verdict::Closed(runs) => {
                assert_eq!((runs[0].name.as_str(), runs[0].pid), ("deploy", Some(7)));
                assert!(runs[0].is_possibly_stale());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(judged(Err(Unavailable("EACCES".into()))).state(), GateState::Unknown);
        assert_eq!(judged(Ok(vec![])).state(), GateState::Open);
    }

    #[test]
    fn the_patterns_of_the_docs_match_their_examples() {
        let page = include_str!("../../docs/ci-systems.md");
        let mut tried = 0;
        for section in page.split("\n## ").skip(1) {
            let pattern = section.split("run-pattern = '").nth(1).and_then(|rest| rest.split('\'').next());
            let pattern = Regex::new(pattern.expect("a pattern")).unwrap();
            for (line, is_run) in [("- a run: `", true), ("- no run: `", false)] {
                for name in section.split(line).skip(1).filter_map(|rest| rest.split('`').next()) {
                    assert_eq!(pattern.is_match(name), is_run, "{name} by {pattern}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 15, "{tried}");
    }
}
