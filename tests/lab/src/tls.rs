//! Certificates for an engine on a port and for whoever asks it, as Docker's documentation makes them.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// In a folder: `ca.pem`, and a certificate with its key that this authority has signed. `server.pem` and
/// `server-key.pem` are for these names and addresses; `cert.pem` and `key.pem` are a client's.
pub fn certificates(folder: &Path, names: &[&str]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut authority = CertificateParams::new(vec![])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let sign = |names: &[&str], usage, certificate: &str, key: &str| -> Result<()> {
        let mut parameters =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        parameters.extended_key_usages = vec![usage];
        let pair = KeyPair::generate()?;
        fs::write(folder.join(certificate), parameters.signed_by(&pair, &issuer)?.pem())?;
        fs::write(folder.join(key), pair.serialize_pem())?;
        Ok(())
    };
    sign(names, ExtendedKeyUsagePurpose::ServerAuth, "server.pem", "server-key.pem")?;
    sign(&[], ExtendedKeyUsagePurpose::ClientAuth, "cert.pem", "key.pem")
}
