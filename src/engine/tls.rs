//! TLS with an engine, with certificates of both sides, from the files that the docker CLI reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// Trust only `ca.pem`, and show `cert.pem` with `key.pem`
/// (Docker's documentation, "Protect the Docker daemon socket").
pub fn configuration(folder: &Path) -> Result<ClientConfig, CertificateError> {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let wrong = |name: &str, why: &dyn std::fmt::Display| CertificateError {
        file: file(name),
        cause: why.to_string(),
    };
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let read = CertificateDer::pem_file_iter(file(name)).map_err(|error| wrong(name, &error))?;
        let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| wrong(name, &error))?;
        if read.is_empty() { Err(wrong(name, &"no certificate in it")) } else { Ok(read) }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.pem")? {
        roots.add(certificate).map_err(|error| wrong("ca.pem", &error))?;
    }
    let own = certificates("cert.pem")?;
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).map_err(|error| wrong("key.pem", &error))?;
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("", &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(own, key)
        .map_err(|error| wrong("key.pem", &error))
}

/// The cause of a connection that failed, where rustls found it.
pub fn failure(error: &(dyn std::error::Error + 'static)) -> Option<TlsFailure> {
    let Some(rustls) = error.downcast_ref::<rustls::Error>() else {
        // IO errors are nested, and `source` does not show the inner ones.
        return failure(error.downcast_ref::<std::io::Error>()?.get_ref()?);
    };
    Some(match rustls {
        rustls::Error::InvalidCertificate(why) => TlsFailure::ServerCertificate(why.to_string()),
        rustls::Error::AlertReceived(alert) => TlsFailure::ClientCertificate(format!("{alert:?}")),
        other => TlsFailure::Protocol(other.to_string()),
    })
}

/// A certificate or key of ours that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {cause}", file.display())]
pub struct CertificateError {
    file: PathBuf,
    cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsFailure {
    #[error("{0}")]
    ServerCertificate(String),
    #[error("{0}")]
    ClientCertificate(String),
    /// The server does not speak TLS, or no common version.
    #[error("{0}")]
    Protocol(String),
}
