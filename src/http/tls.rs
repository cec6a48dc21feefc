//! TLS towards clients and other servers.

use std::{net::TcpStream, path::Path, sync::Arc, time::Duration};

use futures_rustls::{TlsAcceptor, server::TlsStream};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use smol::{Async, Timer, future};

use crate::config::Tls;

/// Why TLS cannot be served. The messages name the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or is not what it should be.
    #[error("{file}: {error}")]
    File {
        /// The path as it stands in the settings.
        file: String,
        /// What is wrong.
        error: pem::Error,
    },
    /// The certificate and the key do not work, or not together.
    #[error("the TLS certificate and key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
}

/// Reads the certificate and the key.
pub(super) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let certificates = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(in_file(&tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(in_file(&tls.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn in_file(file: &Path) -> impl Fn(pem::Error) -> Error {
    let file = file.display().to_string();
    move |error| Error::File {
        file: file.clone(),
        error,
    }
}

/// Shakes hands with a client, if it does so in time.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    stream: Async<TcpStream>,
    time: Duration,
) -> Option<TlsStream<Async<TcpStream>>> {
    let shaken = async { acceptor.accept(stream).await.ok() };
    let late = async {
        Timer::after(time).await;
        None
    };
    future::or(shaken, late).await
}
