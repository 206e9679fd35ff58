//! What can go wrong between this program and an engine, and what to do about it.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;

use super::tls::{CertificateError, TlsFailure};
use super::{HostUrl, NEWEST, OLDEST, Version};
use crate::facts::Unavailable;

/// A request that failed: names the engine, the request, the cause, and what to do.
///
/// Its message holds the cause, so it has no `source` that would be printed again; and it holds causes as text,
/// because answers are kept and compared.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct EngineError {
    host: HostUrl,
    request: String,
    failure: Failure,
}

/// The cause; its text is that of the kernel or the library that reported it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Failure {
    #[error("there is no such socket")]
    NoSocket,
    #[error("permission denied")]
    PermissionDenied,
    #[error("{0}")]
    Refused(String),
    /// The host's name.
    #[error("{0}")]
    Unresolved(String),
    /// Without an answer for this long.
    #[error("{}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// A list took this long, beside which the engine answers other requests.
    #[error("{}", humantime::format_duration(*.0))]
    SlowList(Duration),
    /// A removal took longer than this, or the engine does not answer other requests beside it.
    #[error("{}", humantime::format_duration(Duration::from_secs(.0.as_secs().max(1))))]
    SlowRemoval(Duration),
    #[error("{status}: {message}")]
    Status { status: u16, message: String },
    /// Not JSON, or not of the shape that the API has.
    #[error("{0}")]
    MalformedResponse(String),
    /// It answers an order with 404, and still shows the object.
    #[error("404")]
    StillThere,
    #[error("{0}")]
    ConnectionLost(String),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("{0}")]
    Tls(TlsFailure),
    #[error("it is Podman")]
    Podman,
    /// It speaks the API up to this version.
    #[error("it speaks the API up to {0}, and {OLDEST} (Docker 20.10) is needed")]
    TooOld(Version),
    /// It speaks the API from this version on.
    #[error("it speaks the API from {0} on, and this program up to {NEWEST}")]
    TooNew(Version),
}

impl Failure {
    /// Find the cause in a client error's chain.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = Some(error);
        while let Some(error) = next {
            // hyper-util's word for a name that does not resolve.
            if error.to_string() == "dns error" {
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                return Self::Unresolved(why);
            }
            if let Some(failure) = super::tls::failure(error) {
                return Self::Tls(failure);
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                match error.kind() {
                    io::ErrorKind::NotFound => return Self::NoSocket,
                    io::ErrorKind::PermissionDenied => return Self::PermissionDenied,
                    io::ErrorKind::ConnectionRefused => return Self::Refused(error.to_string()),
                    _ => {}
                }
            }
            text = error.to_string();
            next = error.source();
        }
        Self::ConnectionLost(text)
    }

    /// What an operator can do about it; nothing where the engine's own message says it.
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoSocket => "start the engine (systemctl start docker) or name another with --host",
            Self::PermissionDenied => "run as root or as a member of the docker group",
            Self::Refused(_) => {
                "start the engine (systemctl status docker says why it stopped) or name another with --host"
            }
            Self::Unresolved(_) => "correct the name (--host, --swarm-host), or name an address",
            Self::TimedOut(_) => "see whether it hangs (journalctl -u docker), or allow more with --timeout",
            Self::SlowList(_) => {
                "it answers other requests, and a list may take ten times --timeout; allow more with --timeout"
            }
            Self::SlowRemoval(_) => {
                "see whether it hangs (journalctl -u docker), or allow more with --removal-timeout"
            }
            Self::Status { status: 403, .. } => {
                "where a proxy stands before the engine, allow it this request; see journalctl -u docker else"
            }
            Self::Status { .. } => return None,
            Self::StillThere => "its store may be damaged: see journalctl -u docker, and restart it",
            Self::MalformedResponse(_) => "is it a Docker engine?",
            Self::ConnectionLost(_) => "see journalctl -u docker",
            Self::Certificate(_) => "see DOCKER_CERT_PATH",
            Self::Tls(TlsFailure::ServerCertificate(_)) => {
                "is ca.pem in DOCKER_CERT_PATH of the authority that signed its certificate, and is the \
                 certificate for that name or address?"
            }
            Self::Tls(TlsFailure::ClientCertificate(_)) => "see cert.pem and key.pem in DOCKER_CERT_PATH",
            Self::Tls(TlsFailure::Protocol(_)) => "is it the port of dockerd --tlsverify?",
            Self::Podman => "name a Docker engine with --host, and prune Podman with podman image prune",
            Self::TooOld(_) => "update Docker",
            Self::TooNew(_) => "update ci-docker-prune",
        })
    }
}

impl EngineError {
    pub(super) fn new(host: &HostUrl, request: &str, failure: Failure) -> Self {
        Self { host: host.clone(), request: request.to_owned(), failure }
    }

    pub(super) fn from_bollard(
        host: &HostUrl,
        request: &str,
        timeout: Duration,
        error: &bollard::errors::Error,
    ) -> Self {
        use bollard::errors::Error;
        let failure = match error {
            Error::DockerResponseServerError { status_code, message } => {
                Failure::Status { status: *status_code, message: message.trim().to_owned() }
            }
            Error::RequestTimeoutError => Failure::TimedOut(timeout),
            Error::JsonDataError { message, .. } => Failure::MalformedResponse(message.clone()),
            Error::JsonSerdeError { err } => Failure::MalformedResponse(err.to_string()),
            other => match other.source() {
                Some(source) => Failure::of(source),
                None => Failure::ConnectionLost(other.to_string()),
            },
        };
        Self::new(host, request, failure)
    }

    /// The simulated engine answers with this status and message.
    pub fn simulated_status(request: &str, status: u16, message: &str) -> Self {
        Self::simulated(request, Failure::Status { status, message: message.to_owned() })
    }

    /// The simulated engine does not answer within this time.
    pub fn simulated_timeout(request: &str, timeout: Duration) -> Self {
        Self::simulated(request, Failure::TimedOut(timeout))
    }

    /// The connection to the simulated engine is lost.
    pub fn simulated_loss(request: &str) -> Self {
        Self::simulated(request, Failure::ConnectionLost("connection reset".into()))
    }

    /// The simulated engine sends half an answer.
    pub fn simulated_malformed_response(request: &str) -> Self {
        Self::simulated(request, Failure::MalformedResponse("EOF while parsing a value".into()))
    }

    fn simulated(request: &str, failure: Failure) -> Self {
        Self::new(&HostUrl::Unix("/simulated".into()), request, failure)
    }

    /// An order was answered with 404, and the object is still there.
    pub(super) fn still_there(host: &HostUrl, request: &str) -> Self {
        Self::new(host, request, Failure::StillThere)
    }

    /// The same of the simulated engine.
    pub fn simulated_still_there(request: &str) -> Self {
        Self::simulated(request, Failure::StillThere)
    }

    /// Is the engine only busy with something that ends by itself ("a prune operation is already running", "removal of
    /// container … is already in progress")?
    pub fn is_busy(&self) -> bool {
        matches!(self.status(), Some((409, why)) if why.contains("already running") || why.contains("in progress"))
    }

    /// Is the disk too full for the engine to write what an order changes? In the kernel's words (ENOSPC, EDQUOT).
    pub fn is_no_space(&self) -> bool {
        self.status().is_some_and(|(_, why)| {
            ["no space left on device", "disk quota exceeded"].iter().any(|words| why.contains(words))
        })
    }

    /// Does the engine, or a proxy before it, forbid the request?
    pub fn is_forbidden(&self) -> bool {
        matches!(self.status(), Some((403, _)))
    }

    /// Did the engine take too long, so that it may still be at work?
    pub fn timed_out(&self) -> bool {
        matches!(self.failure, Failure::TimedOut(_) | Failure::SlowList(_) | Failure::SlowRemoval(_))
    }

    /// The engine's HTTP status and message, where it answered with an error.
    pub fn status(&self) -> Option<(u16, &str)> {
        match &self.failure {
            Failure::Status { status, message } => Some((*status, message)),
            _ => None,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { host, request, failure } = self;
        let engine = format!("the Docker engine at {host}");
        match failure {
            Failure::NoSocket | Failure::Refused(_) => write!(f, "no Docker engine at {host}: {failure}"),
            Failure::PermissionDenied => write!(f, "not permitted to use {engine}"),
            Failure::Unresolved(_) => write!(f, "cannot resolve the host of {host}: {failure}"),
            Failure::TimedOut(_) | Failure::SlowList(_) => {
                write!(f, "no answer from {engine} to {request} in {failure}")
            }
            Failure::SlowRemoval(_) => {
                write!(f, "{engine} has not finished {request} in {failure}, and may still be at work on it")
            }
            Failure::Status { .. } => write!(f, "{engine} answered {request} with {failure}"),
            Failure::StillThere => {
                write!(
                    f,
                    "{engine} answered {request} with {failure} (there is no such thing), and still shows it"
                )
            }
            Failure::MalformedResponse(_) => {
                write!(f, "cannot understand the answer of {host} to {request}: {failure}")
            }
            Failure::ConnectionLost(_) => {
                write!(f, "the connection to {engine} was lost during {request}: {failure}")
            }
            Failure::Certificate(_) => write!(f, "cannot speak TLS with {host}: {failure}"),
            Failure::Tls(TlsFailure::ServerCertificate(_)) => write!(f, "{engine} is not trusted: {failure}"),
            Failure::Tls(TlsFailure::ClientCertificate(_)) => {
                write!(f, "{engine} refuses our certificate ({failure})")
            }
            Failure::Tls(TlsFailure::Protocol(_)) => write!(f, "no TLS with {host}: {failure}"),
            Failure::Podman => write!(
                f,
                "{host} is Podman, which has no Swarm and no events of its services, and keeps images in another way"
            ),
            Failure::TooOld(_) => write!(f, "{engine} is too old: {failure}"),
            Failure::TooNew(_) => write!(f, "{engine} is too new: {failure}"),
        }?;
        failure.hint().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl From<EngineError> for Unavailable {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_means_for_a_prune_is_told_by_status_and_words() {
        let status = |status, message| EngineError::simulated_status("DELETE /x", status, message);
        let slow = Duration::from_secs(3);
        let failure = |failure| EngineError::simulated("DELETE /x", failure);
        let meaning = |error: &EngineError| {
            (error.is_busy(), error.is_no_space(), error.is_forbidden(), error.timed_out())
        };
        for (error, expected) in [
            (status(409, "a prune operation is already running"), (true, false, false, false)),
            (status(409, "removal of container x is already in progress"), (true, false, false, false)),
            (status(409, "image is in use"), (false, false, false, false)),
            (status(500, "already running"), (false, false, false, false)),
            (status(500, "write /x: no space left on device"), (false, true, false, false)),
            (status(500, "write /x: disk quota exceeded"), (false, true, false, false)),
            (status(500, "x"), (false, false, false, false)),
            (status(403, "x"), (false, false, true, false)),
            (failure(Failure::TimedOut(slow)), (false, false, false, true)),
            (failure(Failure::SlowList(slow)), (false, false, false, true)),
            (failure(Failure::SlowRemoval(slow)), (false, false, false, true)),
            (EngineError::simulated_loss("x"), (false, false, false, false)),
            (EngineError::simulated_still_there("x"), (false, false, false, false)),
            (EngineError::simulated_malformed_response("x"), (false, false, false, false)),
        ] {
            assert_eq!(meaning(&error), expected, "{error}");
        }
        assert_eq!(status(404, "x").status(), Some((404, "x")));
        assert_eq!(EngineError::simulated_still_there("x").status(), None);
    }

    #[test]
    fn an_error_names_the_engine_the_request_the_cause_and_what_to_do() {
        let second = Duration::from_secs(1);
        for (failure, parts) in [
            (Failure::NoSocket, "no Docker engine at unix:///simulated: |systemctl start docker"),
            (Failure::PermissionDenied, "not permitted to use |docker group"),
            (Failure::Refused("refused".into()), "no Docker engine at |: refused; |--host"),
            (Failure::Unresolved("no such name".into()), "cannot resolve the host of |correct the name"),
            (Failure::TimedOut(second), "no answer from |to GET /x in 1s; |--timeout"),
            (Failure::SlowList(second), "no answer from |ten times --timeout"),
            (Failure::SlowRemoval(second / 10), "has not finished GET /x in 1s, |--removal-timeout"),
            (Failure::Status { status: 403, message: "no".into() }, "answered GET /x with 403: no; |proxy"),
            (Failure::StillThere, "with 404 (there is no such thing), and still shows it; |damaged"),
            (
                Failure::MalformedResponse("EOF".into()),
                "cannot understand the answer |is it a Docker engine?",
            ),
            (Failure::ConnectionLost("reset".into()), "was lost during GET /x: reset; |journalctl"),
            (Failure::Podman, "is Podman|podman image prune"),
            (Failure::TooOld(OLDEST), "is too old: |update Docker"),
            (Failure::TooNew(NEWEST), "is too new: |update ci-docker-prune"),
        ] {
            let text = EngineError::simulated("GET /x", failure).to_string();
            for part in parts.split('|') {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        // The engine's own message says it.
        let text = EngineError::simulated_status("GET /x", 500, "broken").to_string();
        assert!(text.ends_with("answered GET /x with 500: broken"), "{text}");
    }

    #[test]
    fn the_cause_is_found_in_the_chain_of_an_error() {
        let io = |kind: io::ErrorKind| Failure::of(&io::Error::from(kind));
        assert_eq!(io(io::ErrorKind::NotFound), Failure::NoSocket);
        assert_eq!(io(io::ErrorKind::PermissionDenied), Failure::PermissionDenied);
        assert!(matches!(io(io::ErrorKind::ConnectionRefused), Failure::Refused(_)));
        assert!(matches!(io(io::ErrorKind::ConnectionReset), Failure::ConnectionLost(_)));
    }
}
