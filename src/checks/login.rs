//! Which credential Docker's configuration holds for a registry, as the docker CLI would look for it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::CheckStatus;

/// The key that docker keeps the credential of Docker Hub under (docker/cli: `registry.IndexServer`).
const HUB: &str = "https://index.docker.io/v1/";

/// What came of looking for a registry's credential.
#[derive(Debug)]
pub enum Login {
    Found {
        /// A token may have none.
        user: Option<String>,
        source: Source,
        test: CredentialTest,
    },
    NoConfig(PathBuf),
    Unreadable(PathBuf, String),
    /// The file has none.
    Missing(PathBuf),
    /// The helper, or store, of this name has no entry for it.
    NotKept(String),
    NoHelper(String),
    HelperFailed(String, String),
    HelperHangs(String),
}

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    /// The variable `DOCKER_AUTH_CONFIG`.
    Environment,
    /// `docker-credential-NAME`.
    Helper(String),
}

/// What the registry said.
#[derive(Debug)]
pub enum CredentialTest {
    NotAsked,
    Passed,
    Refused(String),
    Unavailable(String),
}

impl Login {
    /// Only a credential that is there, and that the registry accepts where it was asked, is ok.
    pub fn status(&self) -> CheckStatus {
        match self {
            Self::Found { test: CredentialTest::NotAsked | CredentialTest::Passed, .. } => CheckStatus::Ok,
            _ => CheckStatus::Failed,
        }
    }
}

/// A credential. Its secrets are wiped with it and never shown; what is sent to the engine is a copy.
#[derive(Default)]
pub struct Credential {
    pub user: Option<String>,
    pub password: Option<Zeroizing<String>>,
    pub identity_token: Option<Zeroizing<String>>,
    pub registry_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where the configuration says that a credential is.
#[derive(Debug)]
pub enum CredentialLocation {
    Here(Credential),
    /// Ask `docker-credential-NAME`.
    Helper(String),
    Nowhere,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    auths: Option<HashMap<String, Auth>>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(rename = "credHelpers")]
    cred_helpers: Option<HashMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Zeroizing<String>,
    username: String,
    password: Zeroizing<String>,
    identitytoken: Zeroizing<String>,
    registrytoken: Zeroizing<String>,
}

/// The key of a registry in the configuration, and what a helper is asked for.
pub fn key(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => HUB,
        other => other,
    }
}

/// Look for a registry's credential: its own helper, else the store, else the file itself.
///
/// # Errors
/// The text is no configuration of Docker's; says where, and nothing of what is there.
pub fn credential_location(config: &str, registry: &str) -> Result<CredentialLocation, String> {
    let place = |error: &serde_json::Error| format!("no valid JSON at line {}", error.line());
    let empty = config.trim().is_empty();
    let config: Config =
        serde_json::from_str(if empty { "{}" } else { config }).map_err(|error| place(&error))?;
    let key = key(registry);
    // An empty one means the file itself.
    let helper =
        config.cred_helpers.and_then(|mut cred_helper| cred_helper.remove(key)).or(config.creds_store);
    if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
        return Ok(CredentialLocation::Helper(helper));
    }
    let auths = config.auths.unwrap_or_default();
    let same = || auths.iter().find(|(other, _)| hostname(other) == key).map(|(_, auth)| auth);
    let Some(auth) = auths.get(key).or_else(same) else { return Ok(CredentialLocation::Nowhere) };
    Ok(credential(auth)?.map_or(CredentialLocation::Nowhere, CredentialLocation::Here))
}

fn credential(auth: &Auth) -> Result<Option<Credential>, String> {
    let filled = |text: &Zeroizing<String>| Some(text.clone()).filter(|value| !value.is_empty());
    let (mut user, mut password) = (Some(auth.username.clone()), filled(&auth.password));
    if !auth.auth.is_empty() {
        let wrong = || "an auth entry is not base64 of USER:PASSWORD".to_owned();
        let bytes = Zeroizing::new(STANDARD.decode(auth.auth.trim()).map_err(|_| wrong())?);
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
        let (name, secret) = text.split_once(':').ok_or_else(wrong)?;
        user = Some(name.to_owned());
        // Docker pads some with zeros (docker/cli: `decodeAuth`).
        password = filled(&Zeroizing::new(secret.trim_end_matches('\0').to_owned()));
    }
    let user = user.filter(|user| !user.is_empty());
    let identity_token = filled(&auth.identitytoken);
    let registry_token = filled(&auth.registrytoken);
    if password.is_none() && identity_token.is_none() && registry_token.is_none() {
        return Ok(None);
    }
    Ok(Some(Credential { user, password, identity_token, registry_token }))
}

/// What a helper answered to `get`.
///
/// # Errors
/// It is no answer of a helper; says nothing of what it is.
pub fn from_helper(answer: &[u8]) -> Result<Credential, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: Zeroizing<String>,
    }
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|_| "its answer is no credential".to_owned())?;
    if answer.secret.is_empty() {
        return Err("its answer has no secret".into());
    }
    // docker-credential-helpers: this user's secret is an identity token.
    if answer.username == "<token>" {
        return Ok(Credential { identity_token: Some(answer.secret), ..Credential::default() });
    }
    Ok(Credential { user: Some(answer.username), password: Some(answer.secret), ..Credential::default() })
}

/// Source: docker/cli `credentials.ConvertToHostname`.
fn hostname(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_where_docker_would() {
        let basic = STANDARD.encode("alice:s3cret:with:colons");
        let user = |config: &str, registry: &str| match credential_location(config, registry).unwrap() {
            CredentialLocation::Here(credential) => credential.user.unwrap_or_else(|| "token".into()),
            CredentialLocation::Helper(name) => format!("helper {name}"),
            CredentialLocation::Nowhere => "nowhere".into(),
        };
        let auth = |key: &str| format!(r#"{{"auths": {{"{key}": {{"auth": "{basic}"}}}}}}"#);
        let table = [
            (auth(HUB), "docker.io", "alice"),
            (auth("index.docker.io"), "docker.io", "nowhere"),
            (auth("https://hub.docker.com/"), "hub.docker.com", "alice"),
            (String::new(), "docker.io", "nowhere"),
            (r#"{"auths": null, "credsStore": null, "credHelpers": null}"#.into(), "a", "nowhere"),
            (
                r#"{"credsStore": "pass", "credHelpers": {"a": ""}, "auths": {"a": {"identitytoken": "x"}}}"#
                    .into(),
                "a",
                "token",
            ),
            (auth("docker.io"), "docker.io", "nowhere"),
            (auth(HUB), "registry.example.org", "nowhere"),
            (auth("https://registry.example.org/v2/"), "registry.example.org", "alice"),
            (auth("registry.example.org:5000"), "registry.example.org", "nowhere"),
            (auth("registry.example.org:5000"), "registry.example.org:5000", "alice"),
            ("{}".into(), "docker.io", "nowhere"),
            (r#"{"auths": {"a": {}}}"#.into(), "a", "nowhere"),
            (r#"{"auths": {"a": {"username": "bob", "password": "x"}}}"#.into(), "a", "bob"),
            (r#"{"auths": {"a": {"identitytoken": "x"}}}"#.into(), "a", "token"),
            (r#"{"auths": {"a": {"registrytoken": "x"}}}"#.into(), "a", "token"),
            (r#"{"auths": {"a": {}}, "credsStore": "pass"}"#.into(), "a", "helper pass"),
            (r#"{"credsStore": "pass", "credHelpers": {"a": "ecr-login"}}"#.into(), "a", "helper ecr-login"),
            (r#"{"credHelpers": {"a": "ecr-login"}}"#.into(), "b", "nowhere"),
            (format!(r#"{{"credHelpers": {{"{HUB}": "pass"}}}}"#), "docker.io", "helper pass"),
        ];
        for (config, registry, expected) in table {
            assert_eq!(user(&config, registry), expected, "{registry} in {config}");
        }
    }

    #[test]
    fn nothing_secret_is_in_an_error_or_in_debug_output() {
        for broken in [
            r#"{"auths": {"a": {"auth": "s3cret!!"}}}"#.to_owned(),
            format!(r#"{{"auths": {{"a": {{"auth": "{}"}}}}}}"#, STANDARD.encode("s3cret")),
            r#"{"auths": {"a": "s3cret"}}"#.into(),
            r#"{"auths": s3cret"#.into(),
        ] {
            let error = credential_location(&broken, "a").unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(!from_helper(b"s3cret").unwrap_err().contains("s3cret"));
        let found = from_helper(br#"{"ServerURL": "a", "Username": "alice", "Secret": "s3cret"}"#).unwrap();
        assert!(!format!("{found:?}").contains("s3cret"));
    }

    #[test]
    fn helpers_may_answer_with_tokens_or_nothing() {
        let token = from_helper(br#"{"Username": "<token>", "Secret": "x"}"#).unwrap();
        assert!(token.user.is_none() && token.identity_token.is_some());
        assert!(from_helper(br#"{"Username": "alice", "Secret": ""}"#).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*", registry in ".*") {
            let _ = credential_location(&text, &registry);
            let _ = from_helper(text.as_bytes());
        }
    }
}
