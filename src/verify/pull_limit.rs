//! How many pulls Docker Hub still grants: the headers of its rate limit.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use zeroize::Zeroizing;

use super::found;
use crate::engine::Credential;
use crate::report::verify::{Check, CheckStatus};
use crate::units::duration;

/// Docker Hub's pull limit, of an account or of an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PullLimit {
    Limited {
        remaining: u64,
        limit: u64,
        window: Duration,
    },
    /// Without headers: the account has no limit.
    Unlimited,
    Unavailable(String),
}

impl PullLimit {
    /// `200;w=21600` in `ratelimit-limit` and `ratelimit-remaining`
    /// (Docker's documentation, "Docker Hub pull usage and limits").
    fn from_headers(limit: Option<&str>, remaining: Option<&str>) -> Self {
        let (limit, remaining) = match (limit, remaining) {
            (Some(limit), Some(remaining)) => (limit, remaining),
            (None, None) => return Self::Unlimited,
            _ => return Self::Unavailable("it answers with only one of the two headers".into()),
        };
        let number = |text: &str| text.split(';').next()?.trim().parse::<u64>().ok();
        let window = limit.split(';').find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
        match (number(limit), number(remaining)) {
            (Some(limit), Some(remaining)) => {
                Self::Limited { remaining, limit, window: Duration::from_secs(window.unwrap_or(21_600)) }
            }
            _ => Self::Unavailable(format!("it answers ratelimit-limit: {limit}, which has no number")),
        }
    }
}

/// Failed where no pull is left; a warning below a tenth of the limit: a run pulls about ten images.
fn verdict(limit: &PullLimit) -> Check {
    let (status, code, message) = match limit {
        PullLimit::Limited { remaining, limit, window } => {
            let of = format!("of {limit} pulls per {}", duration(*window));
            let left = format!("docker.io: {remaining} left {of}");
            match remaining {
                0 => {
                    let hint = "log in with an account that has a higher limit, or wait";
                    (CheckStatus::Failed, "none_left", format!("docker.io: none left {of}; {hint}"))
                }
                _ if remaining.saturating_mul(10) < *limit => (CheckStatus::Warning, "limited", left),
                _ => (CheckStatus::Ok, "limited", left),
            }
        }
        PullLimit::Unlimited => (CheckStatus::Ok, "unlimited", "docker.io: no pull limit".into()),
        PullLimit::Unavailable(why) => {
            let message = format!("docker.io: its limit could not be asked for: {why}");
            (CheckStatus::Warning, "not_available", message)
        }
    };
    let figures = match limit {
        PullLimit::Limited { remaining, limit, window } => {
            json!({"remaining_pulls": remaining, "limit_pulls": limit, "window_seconds": window.as_secs()})
        }
        PullLimit::Unlimited | PullLimit::Unavailable(_) => serde_json::Value::Null,
    };
    found("pulls", status, code, message, figures)
}

/// Where Docker Hub gives tokens, and where its registry is.
const AUTH: &str = "https://auth.docker.io";
const REGISTRY: &str = "https://registry-1.docker.io";

/// The image that Docker provides for this question: asking for it by `HEAD` counts as no pull.
const PREVIEW: &str = "ratelimitpreview/test";

/// Longest answer with a token, bytes.
const MAX_TOKEN_BYTES: usize = 1 << 20;

/// Ask for the limit of this account, or of this host's address without one. `instead` stands in for Docker Hub.
pub async fn check(credential: Option<&Credential>, instead: Option<&str>, timeout: Duration) -> Check {
    verdict(&match tokio::time::timeout(timeout, ask(credential, instead)).await {
        Ok(Ok(limit)) => limit,
        Ok(Err(error)) => PullLimit::Unavailable(format!("{error:#}")),
        Err(_) => PullLimit::Unavailable("Docker Hub does not answer (--timeout)".into()),
    })
}

async fn ask(credential: Option<&Credential>, instead: Option<&str>) -> Result<PullLimit> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(provider)
        .with_context(|| "this host's certificates of authorities")?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Http = Client::builder(TokioExecutor::new()).build(connector);
    let query = format!("service=registry.docker.io&scope=repository:{PREVIEW}:pull");
    let url = format!("{}/token?{query}", instead.unwrap_or(AUTH));
    let basic = credential.and_then(|credential| {
        let (user, password) = (credential.user.as_deref()?, credential.password.as_deref()?);
        let pair = Zeroizing::new(format!("{user}:{password}"));
        Some(Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
    });
    let answer = send(&client, Method::GET, &url, basic.as_ref()).await?;
    let body = Limited::new(answer.into_body(), MAX_TOKEN_BYTES).collect().await;
    let body = body.map_err(|error| anyhow!("{url}: {error}"))?.to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&body).with_context(|| url.clone())?;
    let Some(token) = answer["token"].as_str() else {
        bail!("{url}: no token in the answer");
    };
    let bearer = Zeroizing::new(format!("Bearer {token}"));
    let url = format!("{}/v2/{PREVIEW}/manifests/latest", instead.unwrap_or(REGISTRY));
    let answer = send(&client, Method::HEAD, &url, Some(&bearer)).await?;
    if answer.status().as_u16() == 429 && !answer.headers().contains_key("ratelimit-remaining") {
        return Err(refused(&url, answer.status()));
    }
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    Ok(PullLimit::from_headers(header("ratelimit-limit"), header("ratelimit-remaining")))
}

type Http = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

async fn send(
    client: &Http,
    method: Method,
    url: &str,
    authorization: Option<&Zeroizing<String>>,
) -> Result<Response<Incoming>> {
    let mut request = Request::builder().method(method).uri(url);
    if let Some(text) = authorization {
        let mut value = HeaderValue::from_str(text)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Empty::new()).with_context(|| url.to_owned())?;
    let answer = client.request(request).await.with_context(|| url.to_owned())?;
    if is_answer(answer.status()) { Ok(answer) } else { Err(refused(url, answer.status())) }
}

/// A 429 (Too Many Requests) has the headers too.
fn is_answer(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::TOO_MANY_REQUESTS
}

fn refused(url: &str, status: StatusCode) -> anyhow::Error {
    anyhow!("{url}: it answers {status}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_tell_what_is_left() {
        let limited =
            |remaining, limit| PullLimit::Limited { remaining, limit, window: Duration::from_secs(21_600) };
        for (limit, remaining, expected, status) in [
            (Some("200;w=21600"), Some("187;w=21600"), limited(187, 200), CheckStatus::Ok),
            (Some("100"), Some("9"), limited(9, 100), CheckStatus::Warning),
            (Some("100;w=21600"), Some("0;w=21600"), limited(0, 100), CheckStatus::Failed),
            (None, None, PullLimit::Unlimited, CheckStatus::Ok),
        ] {
            let found = PullLimit::from_headers(limit, remaining);
            assert_eq!((verdict(&found).status, found), (status, expected));
        }
        let odd = PullLimit::from_headers(Some("many"), Some("few"));
        assert!(matches!(odd, PullLimit::Unavailable(_)) && verdict(&odd).status == CheckStatus::Warning);
    }

    #[test]
    fn an_account_without_any_pull_left_is_an_answer() {
        for (status, expected) in
            [(200, true), (204, true), (429, true), (401, false), (404, false), (500, false)]
        {
            assert_eq!(is_answer(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}
