//! The Docker engine: the only place that talks to it.

pub mod containers;
mod credential;
pub mod deploy;
mod disk_usage;
mod engines;
mod error;
pub mod events;
mod host_url;
mod images;
pub mod remove;
mod services;
mod system;
mod tasks;
mod tls;
mod transport;
pub mod watch;
mod wire;

use std::fmt;
use std::time::Duration;

use bollard::Docker;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::world::EngineError;
#[cfg(test)]
pub use credential::HUB;
pub use credential::{Credential, CredentialTest, registry_key};
pub use engines::Engines;
use error::Failure;
pub use host_url::{EngineSettings, HostUrl};
use transport::Transport;

/// Docker 20.10: the first to count a service's tasks (`GET /services?status=true`).
const OLDEST: Version = Version { major: 1, minor: 41 };
/// The newest version that this program is tested with (Docker 29).
const NEWEST: Version = Version { major: 1, minor: 53 };

/// A list may take this many timeouts as long as the engine answers other requests: on the containerd store each
/// image or container takes milliseconds (9 s for 2,000 images on an idle machine, 28.5).
const LIST_TIMEOUTS: u32 = 10;

type Received = Result<(StatusCode, Bytes), Box<dyn std::error::Error>>;

#[derive(Debug, Clone)]
pub struct Engine {
    transport: Transport,
    docker: Docker,
    host: HostUrl,
    version: Version,
    timeout: Duration,
}

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
    pub async fn connect(host: &HostUrl, timeout: Duration) -> Result<Self, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
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
        let transport =
            Transport::new(host).map_err(|error| Failure::Certificate(error).at(host, "connect"))?;
        let bollard = |version| {
            let error = |error: bollard::errors::Error| Failure::MalformedResponse(error.to_string());
            transport.bollard(timeout, version).map_err(|why| error(why).at(host, "connect"))
        };
        let (docker, version) = (bollard(OLDEST)?, OLDEST);
        let mut engine = Self { transport: transport.clone(), docker, host: host.clone(), version, timeout };
        let answer: Response = engine.get_unversioned("/version").await?;
        let error = |failure: Failure| failure.at(host, "GET /version");
        if answer.components.iter().any(|component| component.name.starts_with("Podman")) {
            return Err(error(Failure::Podman));
        }
        let parse = |text: &str| {
            text.parse::<Version>()
                .map_err(|_| error(Failure::MalformedResponse(format!("API version '{text}'"))))
        };
        let newest = parse(&answer.api_version)?;
        let oldest = if answer.min_api_version.is_empty() { OLDEST } else { parse(&answer.min_api_version)? };
        engine.version = negotiated(oldest, newest).map_err(error)?;
        engine.docker = bollard(engine.version)?;
        Ok(engine)
    }

    pub fn api_version(&self) -> String {
        self.version.to_string()
    }

    pub fn is_local(&self) -> bool {
        matches!(self.host, HostUrl::Unix(_))
    }

    async fn is_alive(&self) -> bool {
        self.get_unversioned::<serde::de::IgnoredAny>("/version").await.is_ok()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.get_unversioned(&format!("/v{}{path}", self.version)).await
    }

    async fn get_unversioned<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let body = self.fetch(path).await?;
        serde_json::from_slice(&body).map_err(|why| self.malformed(path, &why))
    }

    async fn get_lines<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, EngineError> {
        let body = self.fetch(&format!("/v{}{path}", self.version)).await?;
        let values = serde_json::Deserializer::from_slice(&body).into_iter::<T>();
        values.collect::<Result<_, _>>().map_err(|why| self.malformed(path, &why))
    }

    async fn get_list<T: DeserializeOwned>(&self, version: Version, path: &str) -> Result<T, EngineError> {
        let versioned = format!("/v{version}{path}");
        let answer = self.transport.send(Method::GET, &versioned, None, None);
        let body = self.long_answer(&request_line(&versioned), answer).await?;
        serde_json::from_slice(&body).map_err(|why| self.malformed(&versioned, &why))
    }

    async fn fetch(&self, path: &str) -> Result<Bytes, EngineError> {
        self.answer(&request_line(path), self.transport.send(Method::GET, path, None, None)).await
    }

    /// Any request, with a registry's credential and a JSON body if given.
    async fn send(
        &self,
        method: Method,
        path: &str,
        auth: Option<&Zeroizing<String>>,
        body: Option<&str>,
    ) -> Result<Bytes, EngineError> {
        let request = format!("{method} {path}");
        let path = format!("/v{}{path}", self.version);
        self.answer(&request, self.transport.send(method, &path, auth, body)).await
    }

    async fn answer(
        &self,
        request: &str,
        answer: impl Future<Output = Received>,
    ) -> Result<Bytes, EngineError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(received) => self.body(request, received),
            Err(_) => Err(Failure::TimedOut(self.timeout).at(&self.host, request)),
        }
    }

    async fn long_answer(
        &self,
        request: &str,
        answer: impl Future<Output = Received>,
    ) -> Result<Bytes, EngineError> {
        tokio::pin!(answer);
        let limit = self.timeout.saturating_mul(LIST_TIMEOUTS);
        let began = tokio::time::Instant::now();
        let failure = loop {
            let left = limit.saturating_sub(began.elapsed());
            match tokio::time::timeout(left.min(self.timeout), &mut answer).await {
                Ok(received) => return self.body(request, received),
                Err(_) if began.elapsed() >= limit => break Failure::SlowList(limit),
                Err(_) if self.is_alive().await => {}
                Err(_) => break Failure::TimedOut(self.timeout),
            }
        };
        Err(failure.at(&self.host, request))
    }

    fn body(&self, request: &str, received: Received) -> Result<Bytes, EngineError> {
        let failure = match received {
            Ok((status, body)) if status.is_success() => return Ok(body),
            Ok((status, body)) => Failure::Status { status: status.as_u16(), message: message(&body) },
            Err(lost) => Failure::of(lost.as_ref()),
        };
        Err(failure.at(&self.host, request))
    }

    fn malformed(&self, path: &str, why: &serde_json::Error) -> EngineError {
        Failure::MalformedResponse(why.to_string()).at(&self.host, &request_line(path))
    }
}

/// The newest API version that both the engine, which has these, and this program have.
fn negotiated(oldest: Version, newest: Version) -> Result<Version, Failure> {
    if newest < OLDEST {
        return Err(Failure::TooOld(newest));
    }
    if oldest > NEWEST {
        return Err(Failure::TooNew(oldest));
    }
    Ok(newest.min(NEWEST))
}

/// A request without its query, as in messages.
fn request_line(path: &str) -> String {
    format!("GET {}", path.split('?').next().unwrap_or(path))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_speak_is_spoken() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        let (older, newer) = (version("1.40"), version("1.99"));
        for (oldest, newest, expected) in [
            (OLDEST, OLDEST, Ok(OLDEST)),
            (version("1.24"), version("1.47"), Ok(version("1.47"))),
            (version("1.44"), newer, Ok(NEWEST)),
            (NEWEST, newer, Ok(NEWEST)),
            (older, older, Err(Failure::TooOld(older))),
            (newer, newer, Err(Failure::TooNew(newer))),
        ] {
            assert_eq!(negotiated(oldest, newest), expected, "{oldest} {newest}");
        }
        assert!(version("1.9") < version("1.10") && version("1.53") < version("2.0"));
        for text in ["", "a.b", "1.2.3"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
