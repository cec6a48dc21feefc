//! Certificates from an ACME authority such as Let's Encrypt: got, kept and renewed without the owner.
//!
//! - [`renewal`] decides when a name's certificate is ordered; [`attempts`] how long a failure is waited out.
//! - [`new_order`] gets one certificate: with rustls-acme, which knows the protocol.
//! - [`authority`] asks what needs no account: whether there is an authority, and when it wants to renew.
//! - [`resolver`] hands certificates and answers to challenges to TLS connections.
//! - [`files`] keeps all of it in the data directory; [`issued`] reads a certificate.
//! - [`failure`] says in words what went wrong.
//!
//! Each name has a certificate of its own, so that a name that does not lead here spoils no other.
//!
//! Sources: [RFC 8555], [RFC 8737] (TLS-ALPN-01), [RFC 9773] (renewal information).
//!
//! [RFC 8555]: https://www.rfc-editor.org/rfc/rfc8555
//! [RFC 8737]: https://www.rfc-editor.org/rfc/rfc8737
//! [RFC 9773]: https://www.rfc-editor.org/rfc/rfc9773

mod attempts;
mod authority;
mod failure;
mod files;
mod inner;
mod issued;
mod new_order;
mod renewal;
mod resolver;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::Path,
    sync::{Arc, Mutex},
};

use rustls::{ClientConfig, server::ResolvesServerCert};
use serde::Serialize;
use smol::channel;

use self::{
    files::Files,
    inner::{Inner, Name},
    resolver::Resolver,
};
use crate::{clock::Clock, config, pool::Pool};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file in the directory cannot be read.
    #[error("cannot read {path}: {error}; make it readable for hearth, or remove it")]
    File { path: String, error: io::Error },
    #[error("the certificate authorities of this machine cannot be used: {0}")]
    Authorities(#[from] rustls::Error),
}

/// The certificates of the server. Clones share them.
#[derive(Clone)]
pub struct Acme(Arc<Inner>);

/// What the owner may know of a name's certificate.
#[derive(Clone, Debug, Serialize)]
pub struct NameStatus {
    pub name: String,
    /// Milliseconds since the epoch. None without a certificate.
    pub expires_ms: Option<u64>,
    /// Why the last order failed.
    pub failure: Option<String>,
}

impl Acme {
    /// Reads the certificates that are in the data directory. `client` trusts the authority.
    pub fn load(
        settings: &config::Acme,
        data_dir: &Path,
        client: Arc<ClientConfig>,
        pool: &Pool,
        clock: &Clock,
    ) -> Result<Self, Error> {
        let files = Files::new(data_dir, pool);
        let resolver = Arc::new(Resolver::new(&settings.names));
        let mut names = BTreeMap::new();
        for name in &settings.names {
            let read = files.read(name).map_err(|(path, error)| Error::File {
                path: path.display().to_string(),
                error,
            })?;
            let (issued, attempts) = read;
            if let Some(issued) = &issued {
                resolver.set(name, issued.key.clone());
            }
            names.insert(name.clone(), Name { issued, attempts });
        }
        Ok(Self(Arc::new(Inner {
            settings: settings.clone(),
            files,
            client,
            clock: clock.clone(),
            resolver,
            names: Mutex::new(names),
            wake: channel::bounded(1),
        })))
    }

    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.0.resolver.clone()
    }

    /// The response to an HTTP-01 challenge, if there is one with this token.
    pub fn http_challenge(&self, token: &str) -> Option<String> {
        self.0.resolver.http_challenge(token)
    }

    /// Orders what is due, now and for ever. The listeners must accept connections.
    pub async fn run(&self) {
        renewal::run(&self.0).await;
    }

    /// Makes the next orders at once, whatever has failed.
    pub fn retry_now(&self) {
        // If it is full, that is about to happen.
        let _ = self.0.wake.0.try_send(());
    }

    pub fn status(&self) -> Vec<NameStatus> {
        let names = self.0.names();
        let status = |(name, state): (&String, &Name)| NameStatus {
            name: name.clone(),
            expires_ms: state.issued.as_ref().map(|issued| issued.not_after_ms),
            failure: state.attempts.failure.clone(),
        };
        names.iter().map(status).collect()
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").finish_non_exhaustive()
    }
}
