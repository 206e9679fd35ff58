//! Docker's configuration of this user, and the programs that keep its credentials.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::checks::login::{self, Credential, CredentialLocation, CredentialTest, Login, Source};

/// `config.json` in `DOCKER_CONFIG`, else in `~/.docker`.
pub fn path() -> PathBuf {
    let folder = env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    folder.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".docker")).join("config.json")
}

/// The credential for a registry, and what to say of it; there is none where the search failed.
pub async fn credential(registry: &str, limit: Duration) -> (Option<Credential>, Login) {
    let found = |credential: Credential, source| {
        let user = credential.user.clone();
        (Some(credential), Login::Found { user, source, test: CredentialTest::NotAsked })
    };
    // docker looks there first (since 28.3).
    let variable = Zeroizing::new(env::var("DOCKER_AUTH_CONFIG").unwrap_or_default());
    if let Ok(CredentialLocation::Here(credential)) = login::credential_location(&variable, registry) {
        return found(credential, Source::Environment);
    }
    let path = path();
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return (None, Login::NoConfig(path)),
        Err(error) => return (None, Login::Unreadable(path, error.to_string())),
    };
    match login::credential_location(&text, registry) {
        Err(why) => (None, Login::Unreadable(path, why)),
        Ok(CredentialLocation::Nowhere) => (None, Login::Missing(path)),
        Ok(CredentialLocation::Here(credential)) => found(credential, Source::File(path)),
        Ok(CredentialLocation::Helper(name)) => match ask(&name, login::key(registry), limit).await {
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
            // A helper that does not read has nothing to say.
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
                return login::from_helper(&text).map_err(failed);
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
