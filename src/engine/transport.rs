//! One HTTP client for both: bollard's requests, and questions that bollard has no types for.
//!
//! bollard's `Service` has no `PreviousSpec`, which names the image that a rollback needs, so the
//! answers that a plan rests on are read with types of our own.

use std::path::Path;
use std::time::Duration;

use bollard::{BollardRequest, ClientVersion, Docker};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyperlocal::UnixConnector;
use zeroize::Zeroizing;

use super::tls::{self, CertificateError};
use super::{HostUrl, Version};

type Body = <BollardRequest as RequestBody>::Body;

/// Names the body type of bollard's requests, which bollard does not expose.
trait RequestBody {
    type Body;
}

impl<B> RequestBody for Request<B> {
    type Body = B;
}

/// Idle connections are reused up to this age.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The HTTP client of one engine.
#[derive(Debug, Clone)]
pub struct Transport {
    client: AnyClient,
    base: String,
}

#[derive(Debug, Clone)]
enum AnyClient {
    Unix(Client<UnixConnector, Body>),
    Tcp(Client<HttpConnector, Body>),
    Tls(Client<HttpsConnector<HttpConnector>, Body>),
}

impl AnyClient {
    async fn request(
        &self,
        request: BollardRequest,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        match self {
            Self::Unix(client) => client.request(request).await,
            Self::Tcp(client) => client.request(request).await,
            Self::Tls(client) => client.request(request).await,
        }
    }
}

impl Transport {
    pub fn new(host: &HostUrl) -> Result<Self, CertificateError> {
        // Connections are reused by the next request, but not after a pause: what lies between us and the engine
        // may close them when they are idle, and that must not fail a removal.
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(POOL_IDLE_TIMEOUT);
        let (client, base) = match host {
            HostUrl::Unix(path) => (AnyClient::Unix(builder.build(UnixConnector)), unix_base(path)),
            HostUrl::Tcp(address) => {
                (AnyClient::Tcp(builder.build(HttpConnector::new())), format!("http://{address}"))
            }
            HostUrl::Tls(address, folder) => {
                let tls = HttpsConnectorBuilder::new().with_tls_config(tls::configuration(folder)?);
                let connector = tls.https_only().enable_http1().build();
                (AnyClient::Tls(builder.build(connector)), format!("https://{address}"))
            }
        };
        Ok(Self { client, base })
    }

    /// bollard over this client, speaking this version of the API. bollard 0.21 loses the version on
    /// its way to the URI (observed: it sends `DELETE /images/…`), so it is put in here.
    pub fn bollard(&self, timeout: Duration, version: Version) -> Result<Docker, bollard::errors::Error> {
        let (client, base) = (self.client.clone(), self.base.clone());
        let send = move |mut request: BollardRequest| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let prefix = if path.starts_with("/v1.") { String::new() } else { format!("/v{version}") };
            let versioned = format!("{base}{prefix}{path}").parse();
            let client = client.clone();
            async move {
                *request.uri_mut() = versioned?;
                client.request(request).await.map_err(bollard::errors::Error::from)
            }
        };
        let client_version = ClientVersion { major_version: version.major, minor_version: version.minor };
        let seconds = timeout.as_secs().max(1);
        Docker::connect_with_custom_transport(send, Some(self.base.as_str()), seconds, &client_version)
    }

    /// A request, with a registry's credential and a JSON body where it has them; the status and the
    /// whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        auth: Option<&Zeroizing<String>>,
        body: Option<&str>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(auth) = auth {
            let mut value = HeaderValue::from_str(auth)?;
            value.set_sensitive(true);
            request = request.header("X-Registry-Auth", value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Bytes::copy_from_slice(body.unwrap_or_default().as_bytes());
        let response = self.client.request(request.body(bollard::body_full(body))?).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// `GET` a path with its query; the body is still to come.
    pub async fn request(&self, path: &str) -> Result<Response<Incoming>, Box<dyn std::error::Error>> {
        let request = Request::get(format!("{}{path}", self.base)).body(bollard::body_full(Bytes::new()))?;
        Ok(self.client.request(request).await?)
    }
}

/// The connector takes the socket's path in hexadecimal where other URIs have a host.
fn unix_base(path: &Path) -> String {
    let uri: hyper::Uri = hyperlocal::Uri::new(path, "/").into();
    uri.to_string().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// When this fails, bollard sends the version itself: [`Transport::bollard`] need not put it in any more
    /// (docs/decisions/9-bollard.md).
    #[test]
    fn bollard_still_loses_the_version_on_its_way_to_the_uri() {
        let sent = Arc::new(Mutex::new(String::new()));
        let record = Arc::clone(&sent);
        let send = move |request: BollardRequest| {
            *record.lock().unwrap() = request.uri().path().to_owned();
            async { Err::<Response<Incoming>, _>(bollard::errors::Error::RequestTimeoutError) }
        };
        let version = ClientVersion { major_version: 1, minor_version: 41 };
        let docker = Docker::connect_with_custom_transport(send, Some("http://x"), 1, &version).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let failed = runtime.block_on(docker.remove_container("web", None));
        assert!(failed.is_err());
        assert_eq!(*sent.lock().unwrap(), "/containers/web");
    }
}
