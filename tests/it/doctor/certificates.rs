//! Certificates, good and bad, of an authority of the tests.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Valid,
    Expired,
    EndsSoon,
    OfAnotherName,
    WithoutItsChain,
    SelfSigned,
    /// As `openssl req -x509` makes it: it may sign others.
    SelfSignedAuthority,
}

/// The authority in PEM, and the configuration of a server with a certificate for `names`.
pub fn make(kind: Certificate, names: &[&str]) -> (String, Arc<ServerConfig>) {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().expect("a key"))
    };
    let (params, key) = authority("root");
    let root = CertifiedIssuer::self_signed(params, key).expect("a certificate");
    let (params, key) = authority("intermediate");
    let intermediate = CertifiedIssuer::signed_by(params, key, &root).expect("a certificate");
    let names = match kind {
        Certificate::OfAnotherName => vec!["other.test".to_owned()],
        _ => names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, "server");
    params.not_before = date_time_ymd(2026, 1, 1);
    // The clock of the tests has the 21st of September.
    params.not_after = match kind {
        Certificate::Expired => date_time_ymd(2026, 9, 11),
        Certificate::EndsSoon => date_time_ymd(2026, 9, 30),
        _ => date_time_ymd(2027, 9, 21),
    };
    if kind == Certificate::SelfSignedAuthority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let is_self_signed = matches!(
        kind,
        Certificate::SelfSigned | Certificate::SelfSignedAuthority
    );
    let key = KeyPair::generate().expect("a key");
    let certificate = match is_self_signed {
        true => params.self_signed(&key),
        false => params.signed_by(&key, &intermediate),
    };
    let mut chain: Vec<CertificateDer<'static>> =
        vec![certificate.expect("a certificate").der().clone()];
    if !is_self_signed && kind != Certificate::WithoutItsChain {
        chain.push(intermediate.der().clone());
    }
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    (root.pem(), Arc::new(config.expect("a configuration")))
}
