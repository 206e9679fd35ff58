//! Docker Hub, asked how many pulls it still grants.

use std::sync::Arc;
use std::time::Duration;

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
use zeroize::Zeroizing;

use super::error::{Cause, Context, HostError, Result, chain};
use crate::checks::login::Credential;
use crate::checks::pull_limit::PullLimit;

/// Where Docker Hub gives tokens, and where its registry is.
const AUTH: &str = "https://auth.docker.io";
const REGISTRY: &str = "https://registry-1.docker.io";

/// The image that Docker provides for this question: asking for it by `HEAD` counts as no pull.
const PREVIEW: &str = "ratelimitpreview/test";

/// Longest answer with a token, bytes.
const MAX_TOKEN_BYTES: usize = 1 << 20;

/// Ask for the limit of this account, or of this host's address without one. `instead` stands in for Docker Hub.
pub async fn pull_limit(
    credential: Option<&Credential>,
    instead: Option<&str>,
    timeout: Duration,
) -> PullLimit {
    match tokio::time::timeout(timeout, ask(credential, instead)).await {
        Ok(Ok(limit)) => limit,
        Ok(Err(error)) => PullLimit::Unavailable(format!("{error:#}")),
        Err(_) => PullLimit::Unavailable("Docker Hub does not answer (--timeout)".into()),
    }
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
    let body = body.map_err(|error| Cause::Said(error.to_string())).with_context(|| url.clone())?.to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&body).with_context(|| url.clone())?;
    let Some(token) = answer["token"].as_str() else {
        return Err(HostError::new(url, Cause::Said("no token in the answer".into())));
    };
    let bearer = Zeroizing::new(format!("Bearer {token}"));
    let url = format!("{}/v2/{PREVIEW}/manifests/latest", instead.unwrap_or(REGISTRY));
    let answer = send(&client, Method::HEAD, &url, Some(&bearer)).await?;
    if answer.status().as_u16() == 429 && !answer.headers().contains_key("ratelimit-remaining") {
        return Err(refused(url, answer.status()));
    }
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    Ok(PullLimit::from_headers(header("ratelimit-limit"), header("ratelimit-remaining")))
}

type Http = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// # Errors
/// Names the address; a status of failure is one.
async fn send(
    client: &Http,
    method: Method,
    url: &str,
    authorization: Option<&Zeroizing<String>>,
) -> Result<Response<Incoming>> {
    let http = |error: &dyn std::error::Error| HostError::new(url, Cause::Said(chain(error)));
    let mut request = Request::builder().method(method).uri(url);
    if let Some(text) = authorization {
        let mut value = HeaderValue::from_str(text).map_err(|error| http(&error))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let answer = client
        .request(request.body(Empty::new()).map_err(|error| http(&error))?)
        .await
        .map_err(|error| http(&error))?;
    if is_answer(answer.status()) { Ok(answer) } else { Err(refused(url, answer.status())) }
}

/// The limit itself is told with 429 (Too Many Requests) too.
fn is_answer(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::TOO_MANY_REQUESTS
}

fn refused(url: impl Into<String>, status: StatusCode) -> HostError {
    HostError::new(url, Cause::Said(format!("it answers {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_without_any_pull_left_is_an_answer() {
        for (status, expected) in
            [(200, true), (204, true), (429, true), (401, false), (404, false), (500, false)]
        {
            assert_eq!(is_answer(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}
