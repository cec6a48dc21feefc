//! Downloads that wait for the content of a media id.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use smol::lock::OnceCell;

#[derive(Default)]
pub(super) struct UploadWaiters(Mutex<HashMap<String, Weak<OnceCell<()>>>>);

impl UploadWaiters {
    /// Waits until `id` is [uploaded](Self::uploaded).
    pub async fn wait(&self, id: &str) {
        let upload = self.join(id);
        upload.wait().await;
    }

    pub fn uploaded(&self, id: &str) {
        let upload = self.lock().remove(id);
        if let Some(upload) = upload.and_then(|upload| upload.upgrade()) {
            // Only this sets it.
            let _ = upload.set_blocking(());
        }
    }

    fn join(&self, id: &str) -> Arc<OnceCell<()>> {
        let mut uploads = self.lock();
        if let Some(upload) = uploads.get(id).and_then(Weak::upgrade) {
            return upload;
        }
        // Nobody waits for these any more.
        uploads.retain(|_, upload| upload.strong_count() > 0);
        let upload = Arc::default();
        uploads.insert(id.to_owned(), Arc::downgrade(&upload));
        upload
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<OnceCell<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use smol::{block_on, future};

    use super::UploadWaiters;

    #[test]
    fn all_who_wait_for_an_upload_go_on_after_it_and_nothing_is_kept_of_those_who_left() {
        let waiters = UploadWaiters::default();
        let both = future::zip(waiters.wait("id"), waiters.wait("id"));
        let upload = async { waiters.uploaded("id") };
        block_on(future::zip(both, upload));
        drop(waiters.join("left"));
        let _other = waiters.join("other");
        assert_eq!(waiters.lock().len(), 1);
    }
}
