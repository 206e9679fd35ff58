//! A registry's credential, as the engine expects it in a header.

use std::fmt;

use zeroize::Zeroizing;

/// The key that docker keeps the credential of Docker Hub under (docker/cli: `registry.IndexServer`).
pub const HUB: &str = "https://index.docker.io/v1/";

/// A credential. Its secrets are wiped from memory after use and never shown; what is sent to the engine is a copy.
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

/// The key of a registry in the configuration, and what a helper is asked for.
pub fn registry_key(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => HUB,
        other => other,
    }
}

#[derive(Debug)]
pub enum CredentialTest {
    NotAsked,
    Passed,
    Refused(String),
    Unavailable(String),
}
