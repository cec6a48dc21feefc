//! The directory `acme` in the data directory: the account's key, and for each name its certificate with
//! the key, and what became of the orders. Only the server's user can read it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{crypto::ring::sign::any_ecdsa_type, pki_types::PrivatePkcs8KeyDer};

use super::{attempts::Attempts, issued::Issued};
use crate::pool::{Kind, Pool};

const ACCOUNT_KEY: &str = "account.der";

/// What is known of a name.
type Known = (Option<Arc<Issued>>, Attempts);

#[derive(Clone, Debug)]
pub(super) struct Files {
    directory: PathBuf,
    pool: Pool,
}

impl Files {
    pub(super) fn new(data_dir: &Path, pool: &Pool) -> Self {
        Self {
            directory: data_dir.join("acme"),
            pool: pool.clone(),
        }
    }

    /// What is known of a name. A file that holds no certificate, or no attempts, counts as absent: both
    /// are made again.
    pub(super) fn read(&self, name: &str) -> Result<Known, (PathBuf, io::Error)> {
        let read = |path: PathBuf| match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err((path, error)),
        };
        let path = self.certificate(name);
        let issued = read(path.clone())?.and_then(|pem| match Issued::parse(&pem, name) {
            Ok(issued) => Some(Arc::new(issued)),
            Err(error) => {
                log::warn!(
                    "{} is no certificate of {name} with its key ({error}): ordering another",
                    path.display()
                );
                None
            }
        });
        let attempts = read(self.attempts(name))?;
        let attempts = attempts.and_then(|json| serde_json::from_slice(&json).ok());
        Ok((issued, attempts.unwrap_or_default()))
    }

    pub(super) async fn account_key(&self) -> io::Result<Option<Vec<u8>>> {
        let path = self.directory.join(ACCOUNT_KEY);
        let read = move || {
            let key = match fs::read(&path) {
                Ok(key) => key,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            if any_ecdsa_type(&PrivatePkcs8KeyDer::from(&*key).into()).is_ok() {
                return Ok(Some(key));
            }
            log::warn!(
                "{} is no key of an account: making another account",
                path.display()
            );
            Ok(None)
        };
        let ran = self.pool.run(Kind::LookUp, read).await;
        ran.map_err(io::Error::other)?
    }

    pub(super) async fn write_account_key(&self, key: &[u8]) -> io::Result<()> {
        self.write(self.directory.join(ACCOUNT_KEY), key.to_vec())
            .await
    }

    pub(super) async fn write_certificate(&self, name: &str, pem: Vec<u8>) -> io::Result<()> {
        self.write(self.certificate(name), pem).await
    }

    pub(super) async fn write_attempts(&self, name: &str, attempts: &Attempts) -> io::Result<()> {
        let json = serde_json::to_vec(attempts)?;
        self.write(self.attempts(name), json).await
    }

    /// Host names have no slash.
    fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    fn attempts(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// Replaces a file as a whole: after a power cut it is the old or the new one.
    async fn write(&self, path: PathBuf, content: Vec<u8>) -> io::Result<()> {
        let directory = self.directory.clone();
        let write = move || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)?;
            // Of its own: a write may go on whose order has timed out.
            let temporary = path.with_added_extension("new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&directory)?.sync_all()
        };
        let ran = self.pool.run(Kind::LookUp, write).await;
        ran.map_err(io::Error::other)?
    }
}
