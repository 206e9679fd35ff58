//! What can go wrong between this program and an engine, and what to do about it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use humantime::format_duration;

use super::tls::{CertificateError, TlsFailure};
use super::{HostUrl, NEWEST, OLDEST, Version};
use crate::world::EngineError;

/// Why a request failed, as the kernel or a library reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    NoSocket,
    PermissionDenied,
    Refused(String),
    Unresolved(String),
    TimedOut(Duration),
    /// A list took this long while the engine answered other requests.
    SlowList(Duration),
    /// A removal took longer than this, or the engine does not answer other requests beside it.
    SlowRemoval(Duration),
    Status {
        status: u16,
        message: String,
    },
    /// Not JSON, or not of the shape that the API has.
    MalformedResponse(String),
    /// The engine answers an order with 404 and still shows the object.
    StillThere,
    ConnectionLost(String),
    Certificate(CertificateError),
    Tls(TlsFailure),
    Podman,
    TooOld(Version),
    TooNew(Version),
}

impl Failure {
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = Some(error);
        while let Some(error) = next {
            // Hyper-util's message for a name that does not resolve.
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

    pub(super) fn of_bollard(error: &bollard::errors::Error, waited: Duration) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::Status { status: *status_code, message: plain(message) }
            }
            Error::RequestTimeoutError => Self::TimedOut(waited),
            Error::JsonDataError { message, .. } => Self::MalformedResponse(message.clone()),
            Error::JsonSerdeError { err } => Self::MalformedResponse(err.to_string()),
            other => match other.source() {
                Some(source) => Self::of(source),
                None => Self::ConnectionLost(other.to_string()),
            },
        }
    }

    pub(super) fn at(self, host: &HostUrl, request: &str) -> EngineError {
        let (sentence, hint) = self.message_and_hint(host, request);
        let text = if hint.is_empty() { sentence } else { format!("{sentence}; {hint}") };
        match self {
            Self::Status { status, message } => EngineError::with_status(text, status, message),
            Self::TimedOut(_) | Self::SlowList(_) | Self::SlowRemoval(_) => EngineError::timeout(text),
            _ => EngineError::new(text),
        }
    }

    /// A sentence, and what an operator can do about it; that is empty if the engine's own message says it.
    fn message_and_hint(&self, host: &HostUrl, request: &str) -> (String, &'static str) {
        let engine = format!("the Docker engine at {host}");
        match self {
            Self::NoSocket => (
                format!("no Docker engine at {host}: there is no such socket"),
                "start the engine (systemctl start docker) or name another with --host",
            ),
            Self::PermissionDenied => {
                (format!("not permitted to use {engine}"), "run as root or as a member of the docker group")
            }
            Self::Refused(why) => (
                format!("no Docker engine at {host}: {why}"),
                "start the engine (systemctl status docker says why it stopped) or name another with --host",
            ),
            Self::Unresolved(why) => (
                format!("cannot resolve the host of {host}: {why}"),
                "correct the name (--host, --swarm-host), or name an address",
            ),
            Self::TimedOut(waited) => (
                format!("no answer from {engine} to {request} in {}", format_duration(*waited)),
                "see whether it hangs (journalctl -u docker), or allow more with --timeout",
            ),
            Self::SlowList(waited) => (
                format!("no answer from {engine} to {request} in {}", format_duration(*waited)),
                "it answers other requests, and a list may take ten times --timeout; allow more with --timeout",
            ),
            Self::SlowRemoval(waited) => (
                format!(
                    "{engine} has not finished {request} in {}, and may still be at work on it",
                    format_duration(Duration::from_secs(waited.as_secs().max(1)))
                ),
                "see whether it hangs (journalctl -u docker), or allow more with --removal-timeout",
            ),
            Self::Status { status, message } => status_message_and_hint(&engine, request, *status, message),
            Self::StillThere => (
                format!("{engine} answered {request} with 404 (there is no such thing), and still shows it"),
                "its store may be damaged: see journalctl -u docker, and restart it",
            ),
            Self::MalformedResponse(why) => (
                format!("cannot understand the answer of {host} to {request}: {why}"),
                "is it a Docker engine?",
            ),
            Self::ConnectionLost(why) => (
                format!("the connection to {engine} was lost during {request}: {why}"),
                "see journalctl -u docker",
            ),
            Self::Certificate(why) => {
                (format!("cannot speak TLS with {host}: {why}"), "see DOCKER_CERT_PATH")
            }
            Self::Tls(why) => tls_message_and_hint(why, host),
            Self::Podman => (
                format!(
                    "{host} is Podman, which has no Swarm, no events of services and another image store"
                ),
                "name a Docker engine with --host, and prune Podman with podman image prune",
            ),
            Self::TooOld(newest) => (
                format!(
                    "{engine} is too old: it speaks the API up to {newest}, and {OLDEST} (Docker 20.10) is needed"
                ),
                "update Docker",
            ),
            Self::TooNew(oldest) => (
                format!(
                    "{engine} is too new: it speaks the API from {oldest} on, and this program up to {NEWEST}"
                ),
                "update ci-docker-prune",
            ),
        }
    }
}

fn status_message_and_hint(
    engine: &str,
    request: &str,
    status: u16,
    message: &str,
) -> (String, &'static str) {
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    let sentence = format!("{engine} answered {request} with {status}{message}");
    match (status, proxy_switches(request)) {
        (403, Some(switches)) => (
            format!("{sentence}; if docker-socket-proxy is in front of it, set {switches}"),
            "let any other proxy allow this request",
        ),
        (403, None) => (
            sentence,
            "if a proxy is in front of the engine, let it allow this request; otherwise see journalctl -u docker",
        ),
        _ => (sentence, ""),
    }
}

fn tls_message_and_hint(failure: &TlsFailure, host: &HostUrl) -> (String, &'static str) {
    match failure {
        TlsFailure::ServerCertificate(why) => (
            format!("the Docker engine at {host} is not trusted: {why}"),
            "is ca.pem in DOCKER_CERT_PATH of the authority that signed its certificate, and is the \
             certificate for that name or address?",
        ),
        TlsFailure::ClientCertificate(why) => (
            format!("the Docker engine at {host} refuses our certificate ({why})"),
            "see cert.pem and key.pem in DOCKER_CERT_PATH",
        ),
        TlsFailure::Protocol(why) => {
            (format!("no TLS with {host}: {why}"), "is it the port of dockerd --tlsverify?")
        }
    }
}

/// The longest that is shown of an answer that is none of the engine's, in characters.
const LONGEST_MESSAGE: usize = 200;

/// The engine's own words; of a page of HTML, which a proxy makes, its text in one line.
fn plain(message: &str) -> String {
    let message = message.trim();
    let is_page = message.starts_with('<');
    let mut text = String::new();
    let mut in_tag = false;
    for letter in message.chars() {
        match letter {
            '<' if is_page => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            letter if !in_tag => text.push(letter),
            _ => {}
        }
    }
    if !is_page {
        return text;
    }
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.dedup();
    words.join(" ").chars().take(LONGEST_MESSAGE).collect()
}

/// The variables of docker-socket-proxy (Tecnativa's, and its descendants) that allow a request: one for the beginning of
/// the path, and `POST` for what is not only read.
fn proxy_switches(request: &str) -> Option<String> {
    let (method, path) = request.split_once(' ')?;
    let section = path.split(['/', '?']).find(|part| !part.is_empty() && !part.starts_with("v1."))?;
    let switch = match section {
        "auth" | "build" | "containers" | "distribution" | "events" | "images" | "info" | "nodes"
        | "services" | "system" | "tasks" | "version" => section.to_uppercase(),
        _ => return None,
    };
    Some(if method == "GET" { format!("{switch}=1") } else { format!("{switch}=1 and POST=1") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_means_for_a_prune_is_told_by_status_and_words() {
        let failure = |failure: Failure| failure.at(&HostUrl::Unix("/simulated".into()), "DELETE /x");
        let status = |status, message: &str| failure(Failure::Status { status, message: message.into() });
        let slow = Duration::from_secs(3);
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
            (failure(Failure::ConnectionLost("x".into())), (false, false, false, false)),
            (failure(Failure::StillThere), (false, false, false, false)),
            (failure(Failure::MalformedResponse("x".into())), (false, false, false, false)),
        ] {
            assert_eq!(meaning(&error), expected, "{error}");
        }
        assert_eq!(status(404, "x").status(), Some((404, "x")));
        assert_eq!(failure(Failure::StillThere).status(), None);
    }

    #[test]
    fn an_error_names_the_engine_the_request_the_cause_and_what_to_do() {
        let second = Duration::from_secs(1);
        let host = HostUrl::Unix("/simulated".into());
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
            let text = failure.at(&host, "GET /x").to_string();
            for part in parts.split('|') {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        // The engine's own message says it.
        let text = Failure::Status { status: 500, message: "broken".into() }.at(&host, "GET /x").to_string();
        assert!(text.ends_with("answered GET /x with 500: broken"), "{text}");
    }

    #[test]
    fn a_page_of_a_proxy_is_one_plain_line_and_names_its_switch() {
        let page = "<html><head><title>403 Forbidden</title></head>\n<body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>";
        assert_eq!(plain(page), "403 Forbidden 403 Forbidden Request forbidden by administrative rules.");
        assert_eq!(plain(" conflict: a < b \n"), "conflict: a < b");
        assert!(plain(&format!("<p>{}", "x".repeat(999))).len() <= LONGEST_MESSAGE);
        for (request, switches) in [
            ("GET /v1.51/system/df?type=image", Some("SYSTEM=1")),
            ("GET /containers/json", Some("CONTAINERS=1")),
            ("DELETE /v1.41/images/x", Some("IMAGES=1 and POST=1")),
            ("POST /v1.41/build/prune", Some("BUILD=1 and POST=1")),
            ("GET /x", None),
        ] {
            assert_eq!(proxy_switches(request).as_deref(), switches, "{request}");
        }
        let host = HostUrl::Unix("/simulated".into());
        let text =
            Failure::Status { status: 403, message: plain(page) }.at(&host, "GET /system/df").to_string();
        assert!(
            text.contains("docker-socket-proxy is in front of it, set SYSTEM=1; let any other proxy"),
            "{text}"
        );
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
