//! Which credential Docker's configuration holds for a registry, as the docker CLI would look for it.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::found;
use crate::engine::{Credential, CredentialTest, Engine, registry_key};
use crate::facts::Answer;
use crate::host::home_of;
use crate::report::verify::{Check, CheckStatus};

/// The result of looking for a registry's credential.
#[derive(Debug)]
pub enum Login {
    Found {
        user: Option<String>,
        source: Source,
        test: CredentialTest,
    },
    NoConfig(PathBuf),
    Unreadable(PathBuf, String),
    Missing(PathBuf),
    /// The credential helper or store of this name has no entry.
    NotKept(String),
    NoHelper(String),
    HelperFailed(String, String),
    HelperHangs(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Environment,
    Helper(String),
}

pub async fn check(
    engine: Answer<&Engine>,
    registry: &str,
    online: bool,
    limit: Duration,
) -> (Option<Credential>, Check) {
    let (credential, mut login) = credential(registry, limit).await;
    if let (Login::Found { test, .. }, Some(credential), true) = (&mut login, &credential, online) {
        *test = match engine {
            Ok(engine) => engine.test_login(credential, registry).await,
            Err(why) => CredentialTest::Unavailable(why.0),
        };
    }
    let check = verdict(registry, &login);
    (credential, Check { registry: Some(registry.to_owned()), ..check })
}

/// Ok for a credential that exists and, if the registry was asked, that it accepts.
fn verdict(registry: &str, login: &Login) -> Check {
    let log_in = format!("docker login {}", if registry == "docker.io" { "" } else { registry });
    let log_in = log_in.trim();
    let file = |path: &Path| path.display().to_string();
    let mut status = CheckStatus::Failed;
    let (code, message) = match login {
        Login::Found { user, source, test } => {
            let who = user.as_ref().map_or_else(|| "a token".into(), |user| format!("user {user}"));
            let source = match source {
                Source::File(path) => file(path),
                Source::Environment => "DOCKER_AUTH_CONFIG".into(),
                Source::Helper(name) => format!("docker-credential-{name}"),
            };
            let (code, test) = match test {
                CredentialTest::NotAsked => ("found", String::new()),
                CredentialTest::Passed => ("accepted", ", accepted by the registry".into()),
                CredentialTest::Refused(why) => {
                    ("refused", format!(", and the registry refuses it: {why}; {log_in}"))
                }
                CredentialTest::Unavailable(why) => (
                    "not_tested",
                    format!(", and it could not be tested: {why}; can the engine reach the registry?"),
                ),
            };
            if matches!(code, "found" | "accepted") {
                status = CheckStatus::Ok;
            }
            (code, format!("{who}, from {source}{test}"))
        }
        Login::NoConfig(path) => {
            status = CheckStatus::Warning;
            let who = format!("no {}; {log_in}, as the user who deploys", file(path));
            ("no_docker_config", format!("{who}. {ANONYMOUS}"))
        }
        Login::Unreadable(path, why) => {
            ("not_readable", format!("cannot read {}: {why}; fix or remove it, and {log_in}", file(path)))
        }
        Login::Missing(path) => {
            status = CheckStatus::Warning;
            ("no_credential", format!("no credential in {}; {log_in}. {ANONYMOUS}", file(path)))
        }
        Login::NotKept(helper) => {
            status = CheckStatus::Warning;
            ("no_credential", format!("docker-credential-{helper} has no entry; {log_in}. {ANONYMOUS}"))
        }
        Login::NoHelper(helper) => (
            "no_credential_helper",
            format!(
                "docker-credential-{helper} is not on the PATH; install it, or take it out of credsStore and credHelpers"
            ),
        ),
        Login::HelperFailed(helper, why) => (
            "credential_helper_failed",
            format!(
                "docker-credential-{helper} failed: {why}; try it by hand: docker-credential-{helper} list"
            ),
        ),
        Login::HelperHangs(helper) => (
            "credential_helper_failed",
            format!("docker-credential-{helper} does not answer (--timeout); does it wait for a password?"),
        ),
    };
    found("login", status, code, format!("{registry}: {message}"), Value::Null)
}

/// Docker's documentation of Docker Hub's limits.
const ANONYMOUS: &str = "Anonymous pulls are legal, and fewer";

/// Where the configuration says that a credential is.
#[derive(Debug)]
enum CredentialLocation {
    Here(Credential),
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

/// Look for a registry's credential: its own helper, else the store, else the file itself.
fn credential_location(config: &str, registry: &str) -> Result<CredentialLocation, String> {
    let place = |error: &serde_json::Error| format!("no valid JSON at line {}", error.line());
    let empty = config.trim().is_empty();
    let config: Config =
        serde_json::from_str(if empty { "{}" } else { config }).map_err(|error| place(&error))?;
    let key = registry_key(registry);
    // An empty helper stands for the file itself.
    let helper =
        config.cred_helpers.and_then(|mut cred_helper| cred_helper.remove(key)).or(config.creds_store);
    if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
        return Ok(CredentialLocation::Helper(helper));
    }
    let auths = config.auths.unwrap_or_default();
    let same = || auths.iter().find(|(other, _)| hostname(other) == key).map(|(_, auth)| auth);
    let Some(auth) = auths.get(key).or_else(same) else { return Ok(CredentialLocation::Nowhere) };
    Ok(credential_of(auth)?.map_or(CredentialLocation::Nowhere, CredentialLocation::Here))
}

fn credential_of(auth: &Auth) -> Result<Option<Credential>, String> {
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

fn from_helper(answer: &[u8]) -> Result<Credential, String> {
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

/// `config.json` in `DOCKER_CONFIG`, else in `~/.docker`; with sudo that of who called it, where root has none.
fn path() -> PathBuf {
    let folder = env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".docker"));
    let own = folder.join("config.json");
    let by_sudo = || {
        let user = env::var("SUDO_USER").ok().filter(|user| !user.is_empty())?;
        Some(home_of(&user)?.join(".docker/config.json")).filter(|path| path.is_file())
    };
    if own.exists() { own } else { by_sudo().unwrap_or(own) }
}

/// The credential for a registry, and what to say of it; there is none where the search failed.
pub async fn credential(registry: &str, limit: Duration) -> (Option<Credential>, Login) {
    let found = |credential: Credential, source| {
        let user = credential.user.clone();
        (Some(credential), Login::Found { user, source, test: CredentialTest::NotAsked })
    };
    // docker looks there first (since 28.3).
    let variable = Zeroizing::new(env::var("DOCKER_AUTH_CONFIG").unwrap_or_default());
    if let Ok(CredentialLocation::Here(credential)) = credential_location(&variable, registry) {
        return found(credential, Source::Environment);
    }
    let path = path();
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return (None, Login::NoConfig(path)),
        Err(error) => return (None, Login::Unreadable(path, error.to_string())),
    };
    match credential_location(&text, registry) {
        Err(why) => (None, Login::Unreadable(path, why)),
        Ok(CredentialLocation::Nowhere) => (None, Login::Missing(path)),
        Ok(CredentialLocation::Here(credential)) => found(credential, Source::File(path)),
        Ok(CredentialLocation::Helper(name)) => match ask(&name, registry_key(registry), limit).await {
            Ok(credential) => found(credential, Source::Helper(name)),
            Err(login) => (None, login),
        },
    }
}

/// `docker-credential-NAME get`, the registry on its standard input
/// (docker/docker-credential-helpers, README).
async fn ask(name: &str, key: &str, limit: Duration) -> Result<Credential, Login> {
    let failed = |why: String| Login::HelperFailed(name.to_owned(), why);
    if name.contains('/') {
        return Err(Login::NoHelper(name.to_owned()));
    }
    let mut child = Command::new(Path::new(&format!("docker-credential-{name}")))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Login::NoHelper(name.to_owned()),
            _ => failed(error.to_string()),
        })?;
    let mut stdin = child.stdin.take();
    let answer = async {
        if let Some(stdin) = &mut stdin {
            // A helper that does not read its input is not an error.
            let _ = stdin.write_all(key.as_bytes()).await;
        }
        drop(stdin.take());
        child.wait_with_output().await
    };
    match tokio::time::timeout(limit, answer).await {
        Err(_) => Err(Login::HelperHangs(name.to_owned())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(output)) => {
            let text = Zeroizing::new(output.stdout);
            if output.status.success() {
                return from_helper(&text).map_err(failed);
            }
            // The words of docker-credential-helpers' `ErrCredentialsNotFound`; other output of a helper
            // may hold a secret.
            if text.starts_with(b"credentials not found") {
                return Err(Login::NotKept(name.to_owned()));
            }
            Err(failed(output.status.to_string()))
        }
    }
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
            (auth(crate::engine::HUB), "docker.io", "alice"),
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
            (auth(crate::engine::HUB), "registry.example.org", "nowhere"),
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
            (
                format!(r#"{{"credHelpers": {{"{}": "pass"}}}}"#, crate::engine::HUB),
                "docker.io",
                "helper pass",
            ),
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
