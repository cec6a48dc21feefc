//! The certificate authorities that are trusted for connections to other servers.

use std::{io, path::Path, sync::Arc};

use futures_rustls::TlsConnector;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem, pem::PemObject},
};

/// Why the file of the setting `extra_ca` is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read, or has no certificates.
    #[error("{file}: {error}")]
    File { file: String, error: pem::Error },
    /// A certificate in it is not of an authority.
    #[error("{file}: {error}")]
    Authority { file: String, error: rustls::Error },
}

/// The authorities of the system and those in the file of the setting `extra_ca`.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    extra: Vec<CertificateDer<'static>>,
}

impl Authorities {
    pub fn load(extra_ca: Option<&Path>) -> Result<Self, TlsError> {
        let Some(path) = extra_ca else {
            return Ok(Self::default());
        };
        let file = || path.display().to_string();
        let in_extra_ca = |error| TlsError::File {
            file: file(),
            error,
        };
        let found = CertificateDer::pem_file_iter(path).map_err(in_extra_ca)?;
        let extra = found.collect::<Result<Vec<_>, _>>().map_err(in_extra_ca)?;
        let mut roots = RootCertStore::empty();
        for certificate in &extra {
            let added = roots.add(certificate.clone());
            added.map_err(|error| TlsError::Authority {
                file: file(),
                error,
            })?;
        }
        if extra.is_empty() {
            let nothing = io::Error::new(io::ErrorKind::InvalidData, "no certificate in it");
            return Err(in_extra_ca(pem::Error::Io(nothing)));
        }
        Ok(Self { extra })
    }

    #[cfg(test)]
    pub fn of(extra: Vec<CertificateDer<'static>>) -> Self {
        Self { extra }
    }

    pub fn connector(&self) -> Result<TlsConnector, rustls::Error> {
        Ok(TlsConnector::from(Arc::new(self.client_config()?)))
    }

    /// Reads the files of the system.
    pub fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Reads the files of the system.
    pub fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            log::debug!("a certificate authority of the system cannot be read: {error}");
        }
        roots.add_parsable_certificates(system.certs);
        for certificate in &self.extra {
            roots.add(certificate.clone())?;
        }
        if roots.is_empty() {
            log::warn!(
                "no certificate authorities were found, so no other server can be reached: install the \
                 package ca-certificates"
            );
        }
        Ok(roots)
    }
}
