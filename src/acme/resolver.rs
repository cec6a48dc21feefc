//! Which certificate a TLS connection gets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_acme::{ResolvesServerCertAcme, is_tls_alpn_challenge};

#[derive(Debug)]
pub(super) struct Resolver(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// By name, in the order of the settings.
    certificates: Vec<(String, Option<Arc<CertifiedKey>>)>,
    /// The answer to the challenge of the order that is under way.
    challenge: Option<Arc<ResolvesServerCertAcme>>,
}

impl Resolver {
    /// Without certificates.
    pub(super) fn new(names: &[String]) -> Self {
        Self(Mutex::new(Inner {
            certificates: names.iter().map(|name| (name.clone(), None)).collect(),
            challenge: None,
        }))
    }

    /// `name` is one of the settings.
    pub(super) fn set(&self, name: &str, key: Arc<CertifiedKey>) {
        let mut inner = self.inner();
        if let Some((_, of_name)) = inner.certificates.iter_mut().find(|(of, _)| of == name) {
            *of_name = Some(key);
        }
    }

    pub(super) fn set_challenge(&self, challenge: Option<Arc<ResolvesServerCertAcme>>) {
        self.inner().challenge = challenge;
    }

    pub(super) fn http_challenge(&self, token: &str) -> Option<String> {
        let challenge = self.inner().challenge.clone()?;
        challenge.get_http_01_key_auth(token)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Resolver {
    /// Who names no host, or an unknown one, gets the first certificate, which says what this server is.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let inner = self.inner();
        if is_tls_alpn_challenge(&hello) {
            let challenge = inner.challenge.clone()?;
            return challenge.resolve(hello);
        }
        let all = || inner.certificates.iter();
        let of_name = hello.server_name().and_then(|name| {
            let (_, key) = all().find(|(of, _)| of.eq_ignore_ascii_case(name))?;
            key.clone()
        });
        of_name.or_else(|| all().find_map(|(_, key)| key.clone()))
    }
}
