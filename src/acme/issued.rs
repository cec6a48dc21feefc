//! An issued certificate with its key, as the authority's library writes them: PEM, the key first.

use std::sync::Arc;

use ruma::serde::{Base64, base64::UrlSafe};
use rustls::{
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(String);

#[derive(Debug)]
pub(super) struct Issued {
    pub(super) key: Arc<CertifiedKey>,
    /// Milliseconds since the epoch.
    pub(super) not_before_ms: u64,
    pub(super) not_after_ms: u64,
    /// By which the authority is asked when to renew it (RFC 9773, section 4.1), if it has one.
    pub(super) renewal_id: Option<String>,
}

impl Issued {
    /// The certificate has to be one of `name`.
    pub(super) fn parse(pem: &[u8], name: &str) -> Result<Self, Malformed> {
        let malformed = |error: &dyn ToString| Malformed(error.to_string());
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| malformed(&error))?;
        let key = any_ecdsa_type(&key).map_err(|error| malformed(&error))?;
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| malformed(&error))?;
        let first = chain
            .first()
            .ok_or_else(|| malformed(&"it has no certificate"))?;
        let (_, certificate) =
            X509Certificate::from_der(first).map_err(|error| malformed(&error))?;
        if !is_for(&certificate, name) {
            return Err(Malformed("it is for another name".to_owned()));
        }
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let validity = certificate.validity();
        let (not_before_ms, not_after_ms) = (
            ms(validity.not_before.timestamp()),
            ms(validity.not_after.timestamp()),
        );
        let renewal_id = renewal_id(&certificate);
        let key = CertifiedKey::new(chain, key);
        // A key of another certificate would fail each handshake.
        key.keys_match().map_err(|error| malformed(&error))?;
        Ok(Self {
            key: Arc::new(key),
            not_before_ms,
            not_after_ms,
            renewal_id,
        })
    }

    /// When it is renewed without a hint: when a third of its time is left.
    pub(super) fn renew_at_ms(&self) -> u64 {
        let validity = self.not_after_ms.saturating_sub(self.not_before_ms);
        self.not_after_ms - validity / 3
    }
}

fn is_for(certificate: &X509Certificate<'_>, name: &str) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| {
        let mut names = names.value.general_names.iter();
        names.any(|of| matches!(of, GeneralName::DNSName(of) if of.eq_ignore_ascii_case(name)))
    })
}

fn renewal_id(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut extensions = certificate.extensions().iter();
    let authority = extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
        _ => None,
    })?;
    let serial = certificate.raw_serial();
    let parts = [authority.0, serial].map(|part| Base64::<UrlSafe, _>::new(part).encode());
    Some(parts.join("."))
}
