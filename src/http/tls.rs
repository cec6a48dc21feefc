//! TLS towards clients and other servers.

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

/// The certificate that is shown to whoever connects, and its key: as their files have them, also
/// when these change. Clones are the same.
#[derive(Clone)]
pub struct Certificate(Arc<Parts>);

struct Parts {
    files: Tls,
    pool: Pool,
    state: Mutex<State>,
}

struct State {
    acceptor: TlsAcceptor,
    /// The files that were read last, of use or not.
    read: Option<[Stamp; 2]>,
    /// When the files were last looked at.
    looked: Instant,
}

/// What changes of a file when it is replaced: its time, its number and its length.
type Stamp = (SystemTime, u64, u64);

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// If they are of no use.
    pub(super) fn load(files: &Tls, pool: &Pool) -> Result<Self, Error> {
        // Looked at before they are read, so that no change is missed.
        let read = stamps(files);
        let state = State {
            acceptor: acceptor(files)?,
            read,
            looked: Instant::now(),
        };
        Ok(Self(Arc::new(Parts {
            files: files.clone(),
            pool: pool.clone(),
            state: Mutex::new(state),
        })))
    }

    /// Who shakes hands with the certificate, as it is or was less than `time` ago.
    pub(super) async fn acceptor(&self, time: Duration) -> TlsAcceptor {
        let is_due = {
            let mut state = self.state();
            let is_due = state.looked.elapsed() >= time;
            if is_due {
                state.looked = Instant::now();
            }
            is_due
        };
        if is_due {
            self.look().await;
        }
        self.state().acceptor.clone()
    }

    /// Reads the files if they have changed. If they are of no use, the certificate stays as it is.
    async fn look(&self) {
        let files = self.0.files.clone();
        let found = self.0.pool.run(Kind::LookUp, move || stamps(&files)).await;
        // A busy pool is no change, and a file that is not there may just be being replaced.
        if let Ok(Some(found)) = found
            && self.state().read != Some(found)
        {
            self.reload().await;
        }
    }

    /// Reads the files, whether they have changed or not. If they are of no use, the certificate
    /// stays as it is.
    pub async fn reload(&self) {
        let files = self.0.files.clone();
        let read = move || (stamps(&files), acceptor(&files));
        let (read, made) = match self.0.pool.run(Kind::LookUp, read).await {
            Ok(read) => read,
            Err(busy) => return log::warn!("the TLS certificate is not read again: {busy}"),
        };
        let mut state = self.state();
        state.read = read;
        match made {
            Ok(acceptor) => {
                state.acceptor = acceptor;
                log::info!("the TLS certificate was read again");
            }
            Err(error) => log::warn!("the TLS certificate stays as it is: {error}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &Tls) -> Option<[Stamp; 2]> {
    let stamp = |path: &Path| {
        let file = fs::metadata(path)?;
        Ok::<_, io::Error>((file.modified()?, file.ino(), file.len()))
    };
    Some([stamp(&files.certificate).ok()?, stamp(&files.key).ok()?])
}

/// Reads the certificate and the key.
fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
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
