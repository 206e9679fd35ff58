//! The requests of `verify --redeploy`: they concern a service of its own and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::Engine;
use super::credential::{Credential, CredentialTest, registry_key};
use super::wire::encode;
use crate::facts::{Reference, label};
use crate::world::EngineError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// With the engine's message, such as that no node is eligible.
    Coming(Option<String>),
    Started,
    Failed(String),
}

/// `X-Registry-Auth`: base64url of this JSON (API documentation, "Authentication").
fn auth(credential: &Credential, registry: &str) -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE.encode(auth_json(credential, registry)))
}

fn auth_json(credential: &Credential, registry: &str) -> Zeroizing<String> {
    #[derive(Serialize)]
    struct Auth<'a> {
        username: Option<&'a str>,
        password: Option<&'a str>,
        identitytoken: Option<&'a str>,
        registrytoken: Option<&'a str>,
        serveraddress: &'a str,
    }
    let auth = Auth {
        username: credential.user.as_deref(),
        password: credential.password.as_ref().map(|password| password.as_str()),
        identitytoken: credential.identity_token.as_ref().map(|identity_token| identity_token.as_str()),
        registrytoken: credential.registry_token.as_ref().map(|registry_token| registry_token.as_str()),
        serveraddress: registry_key(registry),
    };
    // A map of strings can always be written.
    Zeroizing::new(serde_json::to_string(&auth).unwrap_or_default())
}

impl Engine {
    /// `POST /auth`: have the engine test a credential at its registry.
    pub async fn test_login(&self, credential: &Credential, registry: &str) -> CredentialTest {
        let body = auth_json(credential, registry);
        match self.send(Method::POST, "/auth", None, Some(&body)).await {
            Ok(_) => CredentialTest::Passed,
            Err(error) => match error.status() {
                Some((401 | 403, message)) => CredentialTest::Refused(message.to_owned()),
                // The engine wraps what the registry said (observed on 20.10 and 26.1).
                Some((500, message))
                    if message.contains("unauthorized") || message.contains("401 Unauthorized") =>
                {
                    CredentialTest::Refused(message.to_owned())
                }
                _ => CredentialTest::Unavailable(error.to_string()),
            },
        }
    }

    /// `GET /distribution/{image}/json`: the digest that a name has at its registry now.
    pub async fn resolve(&self, image: &str, credential: Option<&Credential>) -> Result<String, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
            descriptor: Descriptor,
        }
        #[derive(Deserialize)]
        struct Descriptor {
            digest: String,
        }
        let path = format!("/distribution/{image}/json");
        let auth = credential.map(|credential| auth(credential, Reference::parse(image).registry()));
        let body = self.send(Method::GET, &path, auth.as_ref(), None).await?;
        let answer: Response = serde_json::from_slice(&body).map_err(|why| self.malformed(&path, &why))?;
        Ok(answer.descriptor.digest)
    }

    /// The digests of an image's layers, lowest first; `None` where there is no such image.
    pub async fn layers(&self, reference: &str) -> Result<Option<Vec<String>>, EngineError> {
        #[derive(Deserialize)]
        struct Response {
            #[serde(rename = "RootFS")]
            root_fs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            #[serde(rename = "Layers", default)]
            layers: Option<Vec<String>>,
        }
        let answer: Option<Response> =
            super::wire::gone_is_none(self.get(&format!("/images/{reference}/json")).await)?;
        Ok(answer.map(|answer| answer.root_fs.layers.unwrap_or_default()))
    }

    /// `POST /services/create`: one replica on this node that is never started again.
    pub async fn deploy(
        &self,
        name: &str,
        image: &str,
        node: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<(), EngineError> {
        let constraints: Vec<String> = node.map(|node| format!("node.id=={node}")).into_iter().collect();
        let spec = json!({
            "Name": name,
            "Labels": { label::PROOF: node.unwrap_or_default() },
            "TaskTemplate": {
                "ContainerSpec": { "Image": image, "Labels": { label::PROOF: "" } },
                "RestartPolicy": { "Condition": "none" },
                "Placement": { "Constraints": constraints },
            },
            "Mode": { "Replicated": { "Replicas": 1 } },
        });
        let auth = credential.map(|credential| auth(credential, Reference::parse(image).registry()));
        self.send(Method::POST, "/services/create", auth.as_ref(), Some(&spec.to_string())).await.map(drop)
    }

    pub async fn progress(&self, service: &str) -> Result<Progress, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
            status: Status,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Status {
            state: String,
            err: Option<String>,
        }
        let filters = json!({"service": [service]}).to_string();
        let tasks: Vec<Response> = self.get(&format!("/tasks?filters={}", encode(&filters))).await?;
        let Some(Response { status }) = tasks.into_iter().next() else { return Ok(Progress::Coming(None)) };
        // The program was started and failed by itself, which is not what the proof is about. One that could not be
        // started has an exit status too, of the engine's making (observed on 28.5); swarmkit's words tell them
        // apart.
        let ended = status.err.as_ref().is_some_and(|error| error.contains("non-zero exit"));
        Ok(match status.state.as_str() {
            "running" | "complete" => Progress::Started,
            "failed" if ended => Progress::Started,
            "failed" | "rejected" | "orphaned" => {
                Progress::Failed(status.err.unwrap_or_else(|| format!("its task was {}", status.state)))
            }
            _ => Progress::Coming(status.err.filter(|error| !error.is_empty())),
        })
    }

    /// `DELETE /services/{name}`, of a service that the proof made. Whether it existed.
    pub async fn tear_down(&self, service: &str) -> Result<bool, EngineError> {
        match self.send(Method::DELETE, &format!("/services/{service}"), None, None).await {
            Ok(_) => Ok(true),
            Err(error) if error.status().is_some_and(|(status, _)| status == 404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn has_container(&self, service: &str) -> Result<bool, EngineError> {
        let filters = json!({"label": [format!("{}={service}", label::SERVICE_NAME)]}).to_string();
        let containers: Vec<serde::de::IgnoredAny> =
            self.get(&format!("/containers/json?all=1&filters={}", encode(&filters))).await?;
        Ok(!containers.is_empty())
    }
}
