//! What can be had again and so makes room for what cannot: media of other servers, those first
//! that nobody has asked for the longest.

use std::time::Duration;

use ruma::{OwnedMxcUri, OwnedServerName, ServerName};

use super::{
    Error, FileWriter, FinishedFile, Media, MediaInfo, StoredMedia,
    files::FileId,
    new_id,
    picture::{self, PictureInfo},
    removal, rows,
};
use crate::{
    config::Size,
    pool::Kind,
    store::{self, Reader, Rows, Space, Tx, records},
};

/// How exactly is known when something was last asked for: noting it costs the card something.
const EXACTLY: Duration = Duration::from_hours(1);
/// How many files go in one transaction.
const SLICE: usize = 50;
/// The part of the disk that is to stay free of what can be had again.
const FREE_PART: u64 = 10;

/// What takes up the disk, in bytes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    database: u64,
    own: u64,
    cached: u64,
}

impl Taken {
    /// How much of what can be had again there may be.
    fn allowed(self, budget: Option<Size>, space: Option<Space>) -> u64 {
        let others = self.database.saturating_add(self.own);
        let in_budget = budget.map(|budget| budget.bytes().saturating_sub(others));
        let on_disk = space.map(|space| {
            let free = self.cached.saturating_add(space.free);
            free.saturating_sub(space.total / FREE_PART)
        });
        in_budget
            .unwrap_or(u64::MAX)
            .min(on_disk.unwrap_or(u64::MAX))
    }
}

impl Media {
    /// The media `id` of another server, if they are here.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub fn find_remote(&self, server: &ServerName, id: &str) -> Result<Option<StoredMedia>, Error> {
        let now = self.0.clock.now_ms();
        let found = self.0.store.read(|s| {
            let Some(server) = rows::server(s, server)? else {
                return Ok(None);
            };
            let Some(row) = rows::get(s, (server, id))? else {
                return Ok(None);
            };
            let used = s.cached_files()?.get(row.0.file)?.map(|row| row.value());
            Ok::<_, Error>(Some((StoredMedia::from(row), used)))
        })?;
        let Some((found, used)) = found else {
            return Ok(None);
        };
        self.note_use(found.hash, used, now);
        Ok(Some(found))
    }

    /// Notes that a file was asked for, which was last asked for at `used` as far as is known.
    pub(super) fn note_use(&self, file: FileId, used: Option<u64>, now: u64) {
        if used.is_some_and(|used| used + (EXACTLY.as_millis() as u64) < now) {
            let store = self.0.store.clone();
            let noting = self.0.executor.spawn(async move {
                let noted = store.write_soon(move |tx| rows::touch(tx, file, now));
                if let Err(error) = noted.await {
                    log::debug!("cannot note that a file is in use: {error}");
                }
            });
            noting.detach();
        }
    }

    /// Begins a file that comes from another server.
    ///
    /// # Errors
    /// [`Error::Full`], or what the disk says.
    pub async fn begin_download(&self) -> Result<FileWriter, Error> {
        self.draft().await
    }

    /// Stores what was fetched of another server, and makes room for it.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn store_remote(
        &self,
        server: OwnedServerName,
        id: String,
        about: MediaInfo,
        content: FinishedFile,
    ) -> Result<(), Error> {
        let (file, size, now) = (content.hash, content.size, self.0.clock.now_ms());
        let media = records::Media {
            file,
            content_type: about.content_type,
            name: about.name,
            uploader: None,
            created_ts: now,
        };
        let job = move |tx: &Tx| {
            let key = (tx.server_num(server.as_str())?, &*id);
            rows::put_remote(tx, key, &media, size)
        };
        self.end(content, job).await?;
        self.make_room(Some(file)).await
    }

    /// Keeps a picture from the web as media of this server, if it is one; their address, and what it
    /// looks like.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn store_preview_image(
        &self,
        content: FinishedFile,
    ) -> Result<Option<(OwnedMxcUri, PictureInfo)>, Error> {
        let (path, memory) = (content.path(), self.0.picture_memory);
        let looked = self.0.pool.run(Kind::Picture, move || {
            Ok::<_, std::io::Error>(picture::look(std::fs::File::open(path)?, memory))
        });
        let Ok(seen) = looked.await?? else {
            return Ok(None);
        };
        let (file, size) = (content.hash, content.size);
        let media = records::Media {
            file,
            content_type: seen.kind.to_owned(),
            name: None,
            uploader: None,
            created_ts: self.0.clock.now_ms(),
        };
        let id = new_id();
        let address = format!("mxc://{}/{id}", self.0.server_name);
        let job = move |tx: &Tx| rows::put_remote(tx, (rows::OWN, &id), &media, size);
        self.end(content, job).await?;
        self.make_room(Some(file)).await?;
        Ok(Some((address.into(), seen)))
    }

    /// Begins a file, for which what can be had again makes room if need be.
    pub(super) async fn draft(&self) -> Result<FileWriter, Error> {
        let most = self.0.max_upload;
        match self.0.files.draft(most).await {
            Err(Error::Full) => {
                self.make_room(None).await?;
                self.0.files.draft(most).await
            }
            draft => draft,
        }
    }

    /// Lets go what can be had again, until there is no more of it than there may be. `but` stays.
    pub(super) async fn make_room(&self, but: Option<FileId>) -> Result<(), Error> {
        loop {
            let excess = self.excess().await?;
            if excess == 0 {
                return Ok(());
            }
            let evict = move |tx: &Tx| rows::evict(tx, (excess, SLICE), but);
            if self.0.store.write_shrinking(evict).await? == 0 {
                return Ok(());
            }
            self.sweep().await?;
        }
    }

    /// How much too much there is of what can be had again, in bytes.
    async fn excess(&self) -> Result<u64, Error> {
        let (own, cached) = self.0.store.read(rows::spaces)?;
        let (directory, budget) = (self.0.data_dir.clone(), self.0.disk);
        let measured = self.0.pool.run(Kind::File, move || {
            let taken = Taken {
                database: store::database_size(&directory).unwrap_or(0),
                own,
                cached,
            };
            taken.allowed(budget, Space::of(&directory).ok())
        });
        Ok(cached.saturating_sub(measured.await?))
    }

    /// Removes what left users uploaded, and the files of which the database does not speak any more.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        while !self.0.store.read(|s| s.erased_uploaders()?.is_empty())? {
            self.0
                .store
                .write_shrinking(removal::remove_some_uploads)
                .await?;
        }
        let _ending = self.0.ending.lock().await;
        loop {
            let doomed = self.0.store.read(|s| rows::pending_deletion(s, SLICE))?;
            if doomed.is_empty() {
                return Ok(());
            }
            for (file, is_in_use) in &doomed {
                if !is_in_use {
                    self.0.files.remove(*file).await?;
                }
            }
            let done = move |tx: &Tx| {
                let mut table = tx.pending_deletion_files()?;
                for (file, _) in &doomed {
                    table.remove(*file)?;
                }
                Ok::<_, Error>(())
            };
            self.0.store.write_shrinking(done).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Taken;
    use crate::{config::Size, store::Space};

    #[test]
    fn what_can_be_had_again_gets_what_is_left_of_the_budget_and_a_tenth_of_the_disk_stays_free() {
        let taken = Taken {
            database: 10 << 20,
            own: 20 << 20,
            cached: 30 << 20,
        };
        let space = |total: u64, free: u64| {
            Some(Space {
                total: total << 20,
                free: free << 20,
            })
        };
        for (budget, space, allowed) in [
            (None, None, u64::MAX),
            (Some(100), None, 70 << 20),
            (Some(25), None, 0),
            (None, space(1000, 100), 30 << 20),
            (None, space(1000, 90), 20 << 20),
            (None, space(1000, 10), 0),
            (Some(100), space(1000, 500), 70 << 20),
        ] {
            assert_eq!(taken.allowed(budget.map(Size::mebi), space), allowed);
        }
    }
}
