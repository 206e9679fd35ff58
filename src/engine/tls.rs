//! TLS with an engine, both sides by certificate: the files that the docker CLI reads, and what is wrong
//! with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Trust only `ca.pem`, and show `cert.pem` with `key.pem`
/// (Docker's documentation, "Protect the Docker daemon socket").
///
/// # Errors
/// Names the file, and what is wrong with it.
pub fn configuration(folder: &Path) -> Result<ClientConfig, String> {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let wrong = |name: &str, why: &dyn std::fmt::Display| format!("{}: {why}", file(name).display());
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>, String> {
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
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(own, key)
        .map_err(|error| wrong("key.pem", &error))
}

/// What rustls says of a connection that failed, if it was rustls.
pub fn complaint(error: &(dyn std::error::Error + 'static)) -> Option<Complaint> {
    let Some(rustls) = error.downcast_ref::<rustls::Error>() else {
        // IO errors wrap it, one in the other, and hide what they wrap from `source`.
        return complaint(error.downcast_ref::<std::io::Error>()?.get_ref()?);
    };
    Some(match rustls {
        rustls::Error::InvalidCertificate(why) => Complaint::Theirs(why.to_string()),
        rustls::Error::AlertReceived(alert) => Complaint::Ours(format!("{alert:?}")),
        other => Complaint::Other(other.to_string()),
    })
}

/// Whose certificate is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    Theirs(String),
    Ours(String),
    /// They speak no TLS, or none of ours.
    Other(String),
}
