//! TLS for clients and other servers.

use std::{
    fs, io,
    net::TcpStream,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_rustls::{TlsAcceptor, server::TlsStream};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use smol::{Async, Timer, future};

use crate::{
    config::Tls,
    pool::{Kind, Pool},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{setting} = \"{file}\": {error}; set it to the path of a PEM file that can be read")]
    File {
        setting: &'static str,
        file: String,
        error: pem::Error,
    },
    /// The certificate or the key is invalid, or they do not belong together.
    #[error("the TLS certificate and key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
}

/// The server's certificate and key. They are reloaded when their files change. Clones share them.
#[derive(Clone)]
pub struct Certificate(Arc<CertificateInner>);

struct CertificateInner {
    files: Tls,
    pool: Pool,
    state: Mutex<State>,
}

struct State {
    acceptor: TlsAcceptor,
    /// The versions of the files that were read last, valid or not.
    loaded: Option<[FileVersion; 2]>,
    checked_at: Instant,
}

/// Changes when a file is replaced: its modification time, inode and length.
type FileVersion = (SystemTime, u64, u64);

impl Certificate {
    pub(super) fn load(files: &Tls, pool: &Pool) -> Result<Self, Error> {
        // The versions are taken before the files are read, so that no change is missed.
        let loaded = file_versions(files);
        let state = State {
            acceptor: acceptor(files)?,
            loaded,
            checked_at: Instant::now(),
        };
        Ok(Self(Arc::new(CertificateInner {
            files: files.clone(),
            pool: pool.clone(),
            state: Mutex::new(state),
        })))
    }

    /// The acceptor with the certificate as its files were less than `max_age` ago.
    pub(super) async fn acceptor(&self, max_age: Duration) -> TlsAcceptor {
        let is_due = {
            let mut state = self.state();
            let is_due = state.checked_at.elapsed() >= max_age;
            if is_due {
                state.checked_at = Instant::now();
            }
            is_due
        };
        if is_due {
            self.reload_if_changed().await;
        }
        self.state().acceptor.clone()
    }

    async fn reload_if_changed(&self) {
        let files = self.0.files.clone();
        let found = self
            .0
            .pool
            .run(Kind::LookUp, move || file_versions(&files))
            .await;
        // A missing file may just be being replaced. If the pool is full, the next check will do.
        if let Ok(Some(found)) = found
            && self.state().loaded != Some(found)
        {
            self.reload().await;
        }
    }

    /// Reads the files again. If they are invalid, the certificate in use stays.
    pub async fn reload(&self) {
        let files = self.0.files.clone();
        let read = move || (file_versions(&files), acceptor(&files));
        let (loaded, made) = match self.0.pool.run(Kind::LookUp, read).await {
            Ok(read) => read,
            Err(busy) => return log::info!("the TLS certificate is not reloaded now: {busy}"),
        };
        let mut state = self.state();
        state.loaded = loaded;
        match made {
            Ok(acceptor) => {
                state.acceptor = acceptor;
                log::info!("the TLS certificate was reloaded");
            }
            Err(error) => log::warn!(
                "the TLS certificate cannot be reloaded, the old one stays in use: {error}; correct the \
                 files and send SIGHUP"
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_versions(files: &Tls) -> Option<[FileVersion; 2]> {
    let version = |path: &Path| {
        let file = fs::metadata(path)?;
        Ok::<_, io::Error>((file.modified()?, file.ino(), file.len()))
    };
    Some([version(&files.certificate).ok()?, version(&files.key).ok()?])
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let certificates = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(in_file("tls_certificate", &tls.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(in_file("tls_key", &tls.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn in_file(setting: &'static str, file: &Path) -> impl Fn(pem::Error) -> Error {
    let file = file.display().to_string();
    move |error| Error::File {
        setting,
        file: file.clone(),
        error,
    }
}

/// The TLS handshake. `None` if it fails or takes longer than `timeout`.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    stream: Async<TcpStream>,
    timeout: Duration,
) -> Option<TlsStream<Async<TcpStream>>> {
    let handshake = async { acceptor.accept(stream).await.ok() };
    let timed_out = async {
        Timer::after(timeout).await;
        None
    };
    future::or(handshake, timed_out).await
}
