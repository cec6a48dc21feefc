//! Removing files that no row names any more.

use super::{error::Error, removal::remove_some_uploads, rows, service::Media};
use crate::store::{Effect, Reader, Rows, Tx};

/// Files of one transaction.
const BATCH_FILES: usize = 50;

impl Media {
    /// Every effect of a commit is passed to this.
    pub fn apply(&self, effect: &Effect) {
        if let Effect::MediaGone | Effect::Reopened = effect {
            let this = self.clone();
            let sweep = self.0.executor.spawn(async move {
                if let Err(error) = this.sweep().await {
                    log::error!(
                        "cannot remove the files of deleted media: {error}; they stay on the disk until \
                         the next deletion or start"
                    );
                }
            });
            sweep.detach();
        }
    }

    /// Removes the uploads of erased users, and the files in `pending_deletion_files`.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        while !self.0.store.read(|s| s.erased_uploaders()?.is_empty())? {
            self.0.store.write_shrinking(remove_some_uploads).await?;
        }
        let _lock = self.0.commit_lock.lock().await;
        loop {
            let pending = self
                .0
                .store
                .read(|s| rows::pending_deletion(s, BATCH_FILES))?;
            if pending.is_empty() {
                return Ok(());
            }
            for file in pending.iter().filter(|file| !file.is_in_use) {
                self.0.files.remove(file.id).await?;
            }
            let done = move |tx: &Tx| {
                let mut table = tx.pending_deletion_files()?;
                for file in &pending {
                    table.remove(file.id)?;
                }
                Ok::<_, Error>(())
            };
            self.0.store.write_shrinking(done).await?;
        }
    }
}
