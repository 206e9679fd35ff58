//! Checks that the engine answers, and that this node can see its services.

use serde_json::Value;

use super::{found, unavailable};
use crate::engine::{Engines, HostUrl};
use crate::facts::{Answer, Survey, SwarmState};
use crate::report::verify::{Check, CheckStatus};

const NAME: &str = "engine";

pub fn check(host: &HostUrl, engines: &Answer<Engines>, survey: &Survey) -> Check {
    match (engines, &survey.info) {
        (Err(why), _) | (_, Err(why)) => unavailable(NAME, CheckStatus::Failed, why),
        (Ok(engines), Ok(info)) => {
            let (status, code, swarm) = swarm(&info.swarm.state, engines.manager.is_some());
            let store = if info.containerd_store { "containerd image store" } else { "graph driver" };
            let (version, api) = (&info.version, engines.local.api_version());
            let message = format!("Docker {version} at {host}, API {api}, {store}, {swarm}");
            found(NAME, status, code, message, Value::Null)
        }
    }
}

fn swarm(state: &SwarmState, has_manager: bool) -> (CheckStatus, &'static str, String) {
    use CheckStatus::{Failed, Ok, Warning};
    let (status, code, message) = match state {
        SwarmState::Inactive => (Ok, "not_in_swarm", "not in a Swarm"),
        SwarmState::Manager => (Ok, "swarm_manager", "Swarm manager"),
        SwarmState::Worker if has_manager => {
            (Ok, "swarm_worker_with_manager", "Swarm worker, with a manager to ask")
        }
        SwarmState::Worker => (
            Warning,
            "swarm_worker",
            "Swarm worker: it cannot see the services; name a manager with --swarm-host",
        ),
        SwarmState::Locked => (Failed, "swarm_locked", "locked Swarm manager: docker swarm unlock"),
        SwarmState::Pending => (Warning, "swarm_pending", "still joining its Swarm; try again in a minute"),
        SwarmState::Failed(error) => {
            let message = format!("this node's Swarm has failed: {error}; see journalctl -u docker");
            return (Failed, "swarm_failed", message);
        }
    };
    (status, code, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_see_the_services_is_no_ok() {
        use CheckStatus::{Failed, Ok, Warning};
        for (state, has_manager, expected) in [
            (SwarmState::Manager, false, Ok),
            (SwarmState::Inactive, false, Ok),
            (SwarmState::Worker, true, Ok),
            (SwarmState::Worker, false, Warning),
            (SwarmState::Pending, true, Warning),
            (SwarmState::Locked, false, Failed),
            (SwarmState::Failed("x".into()), false, Failed),
        ] {
            assert_eq!(swarm(&state, has_manager).0, expected, "{state:?}");
        }
        let host = HostUrl::Unix("/x".into());
        let why = crate::facts::Unavailable("x".into());
        let lost = check(&host, &Err(why.clone()), &Survey::unavailable(&why));
        assert_eq!((lost.status, lost.reason.code), (Failed, "not_available"));
    }
}
