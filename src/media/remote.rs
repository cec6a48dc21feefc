//! Storing media of other servers, and pictures of previews.

use ruma::{OwnedMxcUri, OwnedServerName};

use super::{
    error::Error,
    files::{FileWriter, FinishedFile},
    picture::{self, PictureInfo},
    rows,
    service::{Media, MediaInfo, new_media_id},
};
use crate::{
    pool::Kind,
    store::{Tx, records},
};

impl Media {
    /// Begins a file that is fetched.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub async fn begin_download(&self) -> Result<FileWriter, Error> {
        self.create_file().await
    }

    /// Stores media of another server, and evicts others if need be.
    pub async fn store_remote(
        &self,
        server: OwnedServerName,
        id: String,
        info: MediaInfo,
        content: FinishedFile,
    ) -> Result<(), Error> {
        let (file, size) = (content.hash, content.size);
        let media = records::Media {
            file,
            content_type: info.content_type,
            name: info.name,
            uploader: None,
            created_ts: self.0.clock.now_ms(),
        };
        let job = move |tx: &Tx| {
            let key = (tx.server_num(server.as_str())?, &*id);
            rows::put_remote(tx, key, &media, size)
        };
        self.commit(content, job).await?;
        self.evict(Some(file)).await
    }

    /// Stores the picture of a preview as media of this server; `None` if it is no picture.
    pub async fn store_preview_image(
        &self,
        content: FinishedFile,
    ) -> Result<Option<(OwnedMxcUri, PictureInfo)>, Error> {
        let (path, max_bytes) = (content.path(), self.0.max_picture_bytes);
        let info = self.0.pool.run(Kind::Picture, move || {
            Ok::<_, std::io::Error>(picture::info(std::fs::File::open(path)?, max_bytes))
        });
        let Ok(info) = info.await?? else {
            return Ok(None);
        };
        let (file, size) = (content.hash, content.size);
        let media = records::Media {
            file,
            content_type: info.content_type.to_owned(),
            name: None,
            uploader: None,
            created_ts: self.0.clock.now_ms(),
        };
        let id = new_media_id();
        let uri = format!("mxc://{}/{id}", self.0.server_name);
        let job = move |tx: &Tx| rows::put_remote(tx, (rows::OWN, &id), &media, size);
        self.commit(content, job).await?;
        self.evict(Some(file)).await?;
        Ok(Some((uri.into(), info)))
    }
}
