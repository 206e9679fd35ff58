//! The Docker engine: the only place that talks to it.

pub mod deploy;
pub mod read;
pub mod remove;
mod tls;
mod transport;
pub mod watch;

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use bollard::Docker;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::facts::Unavailable;
use crate::settings::HostUrl;
use transport::Transport;

/// Docker 20.10: the first to count a service's tasks (`GET /services?status=true`).
const OLDEST: Version = Version { major: 1, minor: 41 };
/// What this program was written against (Docker 29).
const NEWEST: Version = Version { major: 1, minor: 53 };

/// A connection to an engine, for reading.
#[derive(Debug, Clone)]
pub struct Engine {
    transport: Transport,
    docker: Docker,
    host: HostUrl,
    version: Version,
    timeout: Duration,
}

/// An API version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: usize,
    minor: usize,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { major: major.parse()?, minor: minor.parse()? })
    }
}

impl Engine {
    /// Connect, and agree on an API version.
    ///
    /// # Errors
    /// The engine cannot be reached, or speaks none of our versions.
    pub async fn connect(host: &HostUrl, timeout: Duration) -> Result<Self, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            api_version: String,
            #[serde(default, rename = "MinAPIVersion")]
            min_api_version: String,
            #[serde(default)]
            components: Vec<Component>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Component {
            #[serde(default)]
            name: String,
        }
        let transport = Transport::new(host)
            .map_err(|why| EngineError::new(host, "connect", Problem::Certificates(why)))?;
        let bollard = |version| {
            let error = |error: bollard::errors::Error| Problem::Nonsense(error.to_string());
            transport
                .bollard(timeout, version)
                .map_err(|version| EngineError::new(host, "connect", error(version)))
        };
        let (docker, version) = (bollard(OLDEST)?, OLDEST);
        let mut engine = Self { transport: transport.clone(), docker, host: host.clone(), version, timeout };
        let answer: Answer = engine.get_unversioned("/version").await?;
        let error = |problem| EngineError::new(host, "GET /version", problem);
        if answer.components.iter().any(|component| component.name.starts_with("Podman")) {
            return Err(error(Problem::Podman));
        }
        let parse = |text: &str| {
            text.parse::<Version>().map_err(|_| error(Problem::Nonsense(format!("API version '{text}'"))))
        };
        let newest = parse(&answer.api_version)?;
        let oldest = if answer.min_api_version.is_empty() { OLDEST } else { parse(&answer.min_api_version)? };
        if newest < OLDEST {
            return Err(error(Problem::TooOld(newest)));
        }
        if oldest > NEWEST {
            return Err(error(Problem::TooNew(oldest)));
        }
        engine.version = newest.min(NEWEST);
        engine.docker = bollard(engine.version)?;
        Ok(engine)
    }

    /// The longest wait for one answer.
    pub fn patience(&self) -> Duration {
        self.timeout
    }

    /// The version of its API that we speak with it.
    pub fn api_version(&self) -> String {
        self.version.to_string()
    }

    /// Is the engine on this host, so that its paths are ours?
    pub fn is_local(&self) -> bool {
        matches!(self.host, HostUrl::Unix(_))
    }

    /// Does it answer at all?
    async fn is_alive(&self) -> bool {
        self.get_unversioned::<serde::de::IgnoredAny>("/version").await.is_ok()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.get_unversioned(&format!("/v{}{path}", self.version)).await
    }

    async fn get_unversioned<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let body = self.fetch(path).await?;
        serde_json::from_slice(&body).map_err(|why| self.nonsense(path, &why))
    }

    /// An answer of one JSON value after the other.
    async fn get_lines<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, EngineError> {
        let body = self.fetch(&format!("/v{}{path}", self.version)).await?;
        let values = serde_json::Deserializer::from_slice(&body).into_iter::<T>();
        values.collect::<Result<_, _>>().map_err(|why| self.nonsense(path, &why))
    }

    async fn fetch(&self, path: &str) -> Result<Bytes, EngineError> {
        self.answer(&asked(path), self.transport.send(Method::GET, path, None, None)).await
    }

    /// Any request, with a registry's credential and a JSON body where it has them.
    async fn send(
        &self,
        method: Method,
        path: &str,
        auth: Option<&Zeroizing<String>>,
        body: Option<&str>,
    ) -> Result<Bytes, EngineError> {
        let asked = format!("{method} {path}");
        let path = format!("/v{}{path}", self.version);
        self.answer(&asked, self.transport.send(method, &path, auth, body)).await
    }

    async fn answer(
        &self,
        asked: &str,
        answer: impl Future<Output = Result<(StatusCode, Bytes), Box<dyn std::error::Error>>>,
    ) -> Result<Bytes, EngineError> {
        let error = |problem| EngineError::new(&self.host, asked, problem);
        match tokio::time::timeout(self.timeout, answer).await {
            Err(_) => Err(error(Problem::TimedOut(self.timeout))),
            Ok(Err(lost)) => Err(error(Problem::of(lost.as_ref()))),
            Ok(Ok((status, body))) if status.is_success() => Ok(body),
            Ok(Ok((status, body))) => Err(error(Problem::Status(status.as_u16(), message(&body)))),
        }
    }

    fn nonsense(&self, path: &str, why: &serde_json::Error) -> EngineError {
        EngineError::new(&self.host, &asked(path), Problem::Nonsense(why.to_string()))
    }
}

/// A question as an operator would write it: without its query.
fn asked(path: &str) -> String {
    format!("GET {}", path.split('?').next().unwrap_or(path))
}

/// The engine's own words in an answer that is an error.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    serde_json::from_slice::<Message>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).chars().take(200).collect(), |answer| answer.message)
        .trim()
        .to_owned()
}

/// What went wrong between us and the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    NoSocket,
    NotPermitted,
    Refused(String),
    /// Its name is not known.
    Unresolved(String),
    TimedOut(Duration),
    /// A removal took longer than this, or the engine does not answer beside it.
    SlowRemoval(Duration),
    Status(u16, String),
    Nonsense(String),
    Lost(String),
    /// Ours cannot be read.
    Certificates(String),
    Untrusted(tls::Complaint),
    Podman,
    TooOld(Version),
    TooNew(Version),
}

/// A failed question or order: names the host, what was asked, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineError {
    host: HostUrl,
    asked: String,
    problem: Problem,
}

impl Problem {
    /// Find the cause in a client error's chain.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = Some(error);
        while let Some(error) = next {
            // hyper-util's word for a name that does not resolve.
            if error.to_string() == "dns error" {
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                return Self::Unresolved(why);
            }
            if let Some(complaint) = tls::complaint(error) {
                return Self::Untrusted(complaint);
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                match error.kind() {
                    io::ErrorKind::NotFound => return Self::NoSocket,
                    io::ErrorKind::PermissionDenied => return Self::NotPermitted,
                    io::ErrorKind::ConnectionRefused => return Self::Refused(error.to_string()),
                    _ => {}
                }
            }
            text = error.to_string();
            next = error.source();
        }
        Self::Lost(text)
    }
}

impl EngineError {
    fn new(host: &HostUrl, asked: &str, problem: Problem) -> Self {
        Self { host: host.clone(), asked: asked.to_owned(), problem }
    }

    fn from_bollard(host: &HostUrl, asked: &str, timeout: Duration, error: &bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        let problem = match error {
            Error::DockerResponseServerError { status_code, message } => {
                Problem::Status(*status_code, message.trim().to_owned())
            }
            Error::RequestTimeoutError => Problem::TimedOut(timeout),
            Error::JsonDataError { message, .. } => Problem::Nonsense(message.clone()),
            Error::JsonSerdeError { err } => Problem::Nonsense(err.to_string()),
            other => match other.source() {
                Some(source) => Problem::of(source),
                None => Problem::Lost(other.to_string()),
            },
        };
        Self::new(host, asked, problem)
    }

    /// The engine answered with this status, in these words.
    pub fn of_status(asked: &str, status: u16, message: &str) -> Self {
        Self::of_simulated(asked, Problem::Status(status, message.to_owned()))
    }

    /// The engine did not answer within this time.
    pub fn of_timeout(asked: &str, timeout: Duration) -> Self {
        Self::of_simulated(asked, Problem::TimedOut(timeout))
    }

    /// The connection was lost.
    pub fn of_lost(asked: &str) -> Self {
        Self::of_simulated(asked, Problem::Lost("connection reset".into()))
    }

    /// The answer made no sense.
    pub fn of_nonsense(asked: &str) -> Self {
        Self::of_simulated(asked, Problem::Nonsense("EOF while parsing a value".into()))
    }

    fn of_simulated(asked: &str, problem: Problem) -> Self {
        Self::new(&HostUrl::Unix("/simulated".into()), asked, problem)
    }

    /// Did the engine take too long, so that it may still be at work?
    pub fn timed_out(&self) -> bool {
        matches!(self.problem, Problem::TimedOut(_) | Problem::SlowRemoval(_))
    }

    /// The engine's HTTP status, where it answered with one that is an error.
    pub fn status(&self) -> Option<(u16, &str)> {
        match &self.problem {
            Problem::Status(status, message) => Some((*status, message)),
            _ => None,
        }
    }
}

impl std::error::Error for EngineError {}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { host, asked, problem } = self;
        match problem {
            Problem::NoSocket => write!(
                f,
                "no Docker engine at {host}: there is no such socket; start the engine (systemctl start docker) \
                 or name another with --host"
            ),
            Problem::NotPermitted => write!(
                f,
                "not permitted to use the Docker engine at {host}; run as root or as a member of the docker group"
            ),
            Problem::Refused(why) => write!(
                f,
                "no Docker engine at {host}: {why}; start the engine (systemctl status docker says why it stopped) \
                 or name another with --host"
            ),
            Problem::Unresolved(why) => write!(
                f,
                "cannot resolve the host of {host}: {why}; correct the name (--host, --swarm-host), or name an address"
            ),
            Problem::TimedOut(timeout) => write!(
                f,
                "no answer from the Docker engine at {host} to {asked} in {}; see whether it hangs \
                 (journalctl -u docker), or allow more with --timeout",
                humantime::format_duration(*timeout)
            ),
            Problem::SlowRemoval(waited) => write!(
                f,
                "the Docker engine at {host} has not finished {asked} in {}, and may still be at work on it; see whether \
                 it hangs (journalctl -u docker), or allow more with --removal-timeout",
                humantime::format_duration(Duration::from_secs(waited.as_secs().max(1)))
            ),
            Problem::Status(status, message) => {
                write!(f, "the Docker engine at {host} answered {asked} with {status}: {message}")
            }
            Problem::Podman => write!(
                f,
                "{host} is Podman, which has no Swarm and no events of its services, and keeps images in another way; \
                 name a Docker engine with --host, and prune Podman with podman image prune"
            ),
            Problem::Nonsense(why) => {
                write!(f, "cannot understand the answer of {host} to {asked}: {why}; is it a Docker engine?")
            }
            Problem::Lost(why) => write!(
                f,
                "the connection to the Docker engine at {host} was lost during {asked}: {why}; \
                 see journalctl -u docker"
            ),
            Problem::Certificates(why) => {
                write!(f, "cannot speak TLS with {host}: {why}; see DOCKER_CERT_PATH")
            }
            Problem::Untrusted(tls::Complaint::Theirs(why)) => write!(
                f,
                "the Docker engine at {host} is not trusted: {why}; is ca.pem in DOCKER_CERT_PATH of the authority \
                 that signed its certificate, and is the certificate for that name or address?"
            ),
            Problem::Untrusted(tls::Complaint::Ours(why)) => write!(
                f,
                "the Docker engine at {host} refuses our certificate ({why}): see cert.pem and key.pem in \
                 DOCKER_CERT_PATH"
            ),
            Problem::Untrusted(tls::Complaint::Other(why)) => {
                write!(f, "no TLS with {host}: {why}; is it the port of dockerd --tlsverify?")
            }
            Problem::TooOld(version) => write!(
                f,
                "the Docker engine at {host} is too old: it speaks the API up to {version}, and {OLDEST} \
                 (Docker 20.10) is needed"
            ),
            Problem::TooNew(version) => write!(
                f,
                "the Docker engine at {host} is too new: it speaks the API from {version} on, and this \
                 program up to {NEWEST}; update ci-docker-prune"
            ),
        }
    }
}

impl From<EngineError> for Unavailable {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}
