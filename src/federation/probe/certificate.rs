//! The certificate that a server presents, valid or not.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// How many of its names are kept.
const MAX_NAMES: usize = 10;

#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// Why others do not accept it.
    pub verdict: Result<(), Error>,
    /// Of the chain that the server sends, with the certificate itself.
    pub chain_length: usize,
    /// The host names that it is for.
    pub names: Vec<String>,
    pub is_self_signed: bool,
    /// Milliseconds since the epoch, as the next one.
    pub not_before_ms: u64,
    pub not_after_ms: u64,
}

/// Records the certificate of a connection and its verdict, and accepts any.
#[derive(Debug)]
pub(super) struct Recorder {
    verifier: Arc<WebPkiServerVerifier>,
    now: UnixTime,
    recorded: Mutex<Option<PeerCertificate>>,
}

impl Recorder {
    pub(super) fn new(verifier: Arc<WebPkiServerVerifier>, now: UnixTime) -> Self {
        Self {
            verifier,
            now,
            recorded: Mutex::default(),
        }
    }

    pub(super) fn take(&self) -> Option<PeerCertificate> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.take()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = &self.verifier;
        let verdict = verifier.verify_server_cert(certificate, intermediates, name, ocsp, self.now);
        let recorded = PeerCertificate {
            verdict: verdict.map(drop),
            chain_length: 1 + intermediates.len(),
            ..PeerCertificate::parse(certificate)
        };
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorded);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = &self.verifier;
        verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = &self.verifier;
        verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl PeerCertificate {
    /// What cannot be parsed has no names and has ended.
    fn parse(certificate: &[u8]) -> Self {
        let mut parsed = Self {
            verdict: Ok(()),
            chain_length: 1,
            names: Vec::new(),
            is_self_signed: false,
            not_before_ms: 0,
            not_after_ms: 0,
        };
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return parsed;
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        parsed.names = names.take(MAX_NAMES).collect();
        parsed.is_self_signed = certificate.subject() == certificate.issuer();
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        parsed.not_before_ms = ms(certificate.validity().not_before.timestamp());
        parsed.not_after_ms = ms(certificate.validity().not_after.timestamp());
        parsed
    }
}
