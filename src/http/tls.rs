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
    ConfigBuilder, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::WantsServerCert,
};
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use smol::{Async, Timer, future};

use crate::{
    acme::Acme,
    config::PemFiles,
    pool::{Kind, Pool},
};

const HTTP: &[u8] = b"http/1.1";

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{setting} = \"{file}\": {error}; set it to the path of a PEM file that can be read")]
    File {
        setting: &'static str,
        file: String,
        error: pem::Error,
    },
    /// The certificate or the key is invalid, or they do not belong together.
    #[error("`tls_certificate` and `tls_key` cannot be used: {0}")]
    Pair(#[from] rustls::Error),
}

/// The server's certificate and key. Clones share them.
#[derive(Clone)]
pub enum Certificate {
    /// They are reloaded when their files change.
    Files(Arc<CertificateFiles>),
    /// Each connection gets the newest.
    Acme(Acme, TlsAcceptor),
}

pub struct CertificateFiles {
    files: PemFiles,
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
    pub fn of_files(files: &PemFiles, pool: &Pool) -> Result<Self, CertificateError> {
        let files = CertificateFiles::load(files.clone(), pool)?;
        Ok(Self::Files(Arc::new(files)))
    }

    pub fn of_acme(acme: &Acme) -> Result<Self, CertificateError> {
        let mut config = server_config()?.with_cert_resolver(acme.resolver());
        config.alpn_protocols = vec![HTTP.to_vec(), ACME_TLS_ALPN_NAME.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self::Acme(acme.clone(), acceptor))
    }

    /// The acceptor with the certificate as its files were less than `max_age` ago.
    pub(super) async fn acceptor(&self, max_age: Duration) -> TlsAcceptor {
        match self {
            Self::Files(files) => files.acceptor(max_age).await,
            Self::Acme(_, acceptor) => acceptor.clone(),
        }
    }

    /// Reads the files again, or orders at once what the authority refused before.
    pub async fn reload(&self) {
        match self {
            Self::Files(files) => files.reload().await,
            Self::Acme(acme, _) => acme.retry_now(),
        }
    }
}

impl CertificateFiles {
    fn load(files: PemFiles, pool: &Pool) -> Result<Self, CertificateError> {
        // The versions are taken before the files are read, so that no change is missed.
        let loaded = file_versions(&files);
        let state = State {
            acceptor: acceptor(&files)?,
            loaded,
            checked_at: Instant::now(),
        };
        Ok(Self {
            files,
            pool: pool.clone(),
            state: Mutex::new(state),
        })
    }

    async fn acceptor(&self, max_age: Duration) -> TlsAcceptor {
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
        let files = self.files.clone();
        let found = self
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

    /// If the files are invalid, the certificate in use stays.
    async fn reload(&self) {
        let files = self.files.clone();
        let read = move || (file_versions(&files), acceptor(&files));
        let (loaded, made) = match self.pool.run(Kind::LookUp, read).await {
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_versions(files: &PemFiles) -> Option<[FileVersion; 2]> {
    let version = |path: &Path| {
        let file = fs::metadata(path)?;
        Ok::<_, io::Error>((file.modified()?, file.ino(), file.len()))
    };
    Some([version(&files.certificate).ok()?, version(&files.key).ok()?])
}

fn acceptor(files: &PemFiles) -> Result<TlsAcceptor, CertificateError> {
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|certificates| match certificates.is_empty() {
            true => Err(pem::Error::NoItemsFound),
            false => Ok(certificates),
        })
        .map_err(in_file("tls_certificate", &files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(in_file("tls_key", &files.key))?;
    let mut config = server_config()?.with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn server_config() -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config
        .with_safe_default_protocol_versions()?
        .with_no_client_auth())
}

fn in_file(setting: &'static str, file: &Path) -> impl Fn(pem::Error) -> CertificateError {
    let file = file.display().to_string();
    move |error| CertificateError::File {
        setting,
        file: file.clone(),
        error,
    }
}

/// The TLS handshake. `None` if it fails, takes longer than `timeout`, or is the answer to a challenge of an
/// ACME authority, which sends no request.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    stream: Async<TcpStream>,
    timeout: Duration,
) -> Option<TlsStream<Async<TcpStream>>> {
    let handshake = async {
        let stream = acceptor.accept(stream).await.ok()?;
        let is_challenge = stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN_NAME);
        (!is_challenge).then_some(stream)
    };
    let timed_out = async {
        Timer::after(timeout).await;
        None
    };
    future::or(handshake, timed_out).await
}
