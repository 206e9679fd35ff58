//! Where an engine listens, and how long to wait for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct EngineSettings {
    pub host: HostUrl,
    /// The manager to ask about services, where it is another engine.
    pub swarm_host: Option<HostUrl>,
    pub timeout: Duration,
    /// Timeout for one removal, while the engine answers other requests.
    pub removal_timeout: Duration,
}

impl EngineSettings {
    /// How long a removal in flight may still take, with one interval before it and one after it.
    pub fn longest_removal(&self) -> Duration {
        self.removal_timeout + 2 * self.timeout
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostUrl {
    Unix(PathBuf),
    /// `HOST:PORT`, plain HTTP.
    Tcp(String),
    /// `HOST:PORT`, and the folder of `ca.pem`, `cert.pem` and `key.pem`.
    Tls(String, PathBuf),
}

impl fmt::Display for HostUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
        }
    }
}

impl HostUrl {
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Tls(..) => None,
        }
    }

    /// # Errors
    /// The URL has none of the supported forms.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hint = "expected unix:///PATH or tcp://HOST:PORT";
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("https", _)) => {
                Err(format!("{hint}; for TLS set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"))
            }
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                match address.rsplit_once(':') {
                    Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                        Ok(Self::Tcp(address.into()))
                    }
                    _ => Err(hint.into()),
                }
            }
            Some(("ssh", _)) => Err(format!(
                "{hint}; for ssh, forward the remote socket (ssh -L ./docker.sock:/var/run/docker.sock), and name --disk-path"
            )),
            _ => Err(hint.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_host_parser_panic(
            text in "(unix:///[a-z/]{1,20}|tcp://[a-z.]{1,9}:[0-9]{1,5}|(unix|tcp|http|ssh|)(://)?.{0,30})"
        ) {
            if let Ok(host) = HostUrl::parse(&text) {
                // What it shows is the same host.
                proptest::prop_assert_eq!(HostUrl::parse(&host.to_string()), Ok(host));
            }
        }
    }

    #[test]
    fn host_urls() {
        let unix = |path: &str| Ok(HostUrl::Unix(path.into()));
        let tcp = |address: &str| Ok(HostUrl::Tcp(address.into()));
        let table = [
            ("unix:///var/run/docker.sock", unix("/var/run/docker.sock")),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1:2375")),
            ("tcp://[::1]:2375/", tcp("[::1]:2375")),
            ("http://manager:2375", tcp("manager:2375")),
        ];
        for (text, expected) in table {
            assert_eq!(HostUrl::parse(text), expected, "{text}");
        }
        for text in [
            "",
            "/var/run/docker.sock",
            "unix://docker.sock",
            "tcp://host",
            "tcp://:1",
            "ssh://host",
            "npipe:////./pipe/x",
            "https://host:2376",
            "tcp://host:65536",
        ] {
            let error = HostUrl::parse(text).unwrap_err();
            assert!(error.contains("unix:///PATH"), "{text}");
            assert_eq!(error.contains("DOCKER_TLS_VERIFY=1"), text.starts_with("https"), "{text}");
            assert_eq!(error.contains("forward the remote socket"), text.starts_with("ssh"), "{text}");
        }
        let socket = |text: &str| HostUrl::parse(text).unwrap().socket().map(Path::to_owned);
        assert_eq!(socket("unix:///x"), Some("/x".into()));
        assert_eq!(socket("tcp://a:1"), None);
    }
}
