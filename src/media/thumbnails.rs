//! Thumbnails ([client-server API, "Thumbnails"]), made on request and cached.
//!
//! [client-server API, "Thumbnails"]: https://spec.matrix.org/v1.19/client-server-api/#thumbnails

use sha2::{Digest, Sha256};

use super::{
    error::Error,
    files::FileId,
    picture::{self, Failure, Picture, Shape},
    rows,
    service::{Media, MediaInfo, StoredMedia},
};
use crate::{
    pool::Kind,
    store::{self, Reader, Records, Rows, Tx, records},
};

/// The sizes that are made, the smallest first. Those up to 800 × 600 are the specification's.
const SIZES: [(u32, u32); 6] = [
    (32, 32),
    (96, 96),
    (320, 240),
    (640, 480),
    (800, 600),
    (1600, 1200),
];
/// No picture is larger.
const FULL_SIZE: (u32, u32) = (u32::MAX, u32::MAX);

/// The thumbnail has at least this size, if the picture has.
#[derive(Clone, Copy, Debug)]
pub struct ThumbnailRequest {
    /// In pixels.
    pub width: u64,
    /// In pixels.
    pub height: u64,
    /// Whether it is cropped to this aspect ratio.
    pub crop: bool,
    /// Whether it may be animated.
    pub animated: bool,
}

impl ThumbnailRequest {
    /// The thumbnail that is made: of the next larger of [`SIZES`], or of the picture's own size.
    fn shape(self) -> Shape {
        let (width, height) = (self.width.max(1), self.height.max(1));
        let fits = |(w, h): &&(u32, u32)| width <= u64::from(*w) && height <= u64::from(*h);
        let size = SIZES.iter().find(fits);
        let &(mut made_width, mut made_height) = size.unwrap_or(&FULL_SIZE);
        let crop = self.crop && size.is_some();
        if crop {
            // The largest of that aspect ratio.
            let (across, down) = (
                u64::from(made_width) * height,
                u64::from(made_height) * width,
            );
            if across > down {
                made_width = (down / height).max(width) as u32;
            } else {
                made_height = (across / width).max(height) as u32;
            }
        }
        Shape {
            width: made_width,
            height: made_height,
            crop,
            animated: self.animated,
        }
    }
}

/// The name of a shape in `thumbnails`.
fn variant(shape: Shape) -> String {
    let Shape {
        width,
        height,
        crop,
        animated,
    } = shape;
    let how = if crop { "crop" } else { "scale" };
    let moves = if animated { " animated" } else { "" };
    format!("{width}x{height} {how}{moves}")
}

impl Media {
    /// A thumbnail of `found`, or `found` itself if it is small already.
    ///
    /// # Errors
    /// [`Error::NoPicture`] or [`Error::TooManyPixels`].
    pub async fn thumbnail(
        &self,
        found: StoredMedia,
        wanted: ThumbnailRequest,
    ) -> Result<StoredMedia, Error> {
        let shape = wanted.shape();
        let variant = variant(shape);
        if let Some(cached) = self.cached_thumbnail(&found, &variant)? {
            return Ok(cached);
        }
        let _lock = self.0.thumbnail_lock.lock().await;
        // Another request may have made it meanwhile.
        if let Some(cached) = self.cached_thumbnail(&found, &variant)? {
            return Ok(cached);
        }
        match self.make(&found, shape).await? {
            Picture::Small(content_type) => Ok(with_type(found, content_type)),
            Picture::Made(bytes, content_type) => {
                self.store_thumbnail(&found, variant, &bytes, content_type)
                    .await
            }
        }
    }

    fn cached_thumbnail(
        &self,
        source: &StoredMedia,
        variant: &str,
    ) -> Result<Option<StoredMedia>, Error> {
        let now = self.0.clock.now_ms();
        let row = self.0.store.read(|s| {
            let Some(thumbnail) = s.thumbnails()?.load((source.hash, variant))? else {
                return Ok(None);
            };
            let file = s.media_files()?.load(thumbnail.file)?;
            let last_used = s
                .cached_files()?
                .get(thumbnail.file)?
                .map(|row| row.value());
            Ok::<_, store::Error>(file.map(|file| (thumbnail, file.size, last_used)))
        })?;
        Ok(row.map(|(row, size, last_used)| {
            self.touch(row.file, last_used, now);
            thumbnail(source, row.file, size, row.content_type)
        }))
    }

    async fn make(&self, found: &StoredMedia, shape: Shape) -> Result<Picture, Error> {
        let path = self.0.files.path(&found.hash);
        let max_bytes = self.0.max_picture_bytes;
        let made = self.0.pool.run(Kind::Picture, move || {
            let file = std::fs::File::open(path)?;
            Ok::<_, std::io::Error>(picture::make(file, shape, max_bytes))
        });
        match made.await?? {
            Ok(picture) => Ok(picture),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn store_thumbnail(
        &self,
        source: &StoredMedia,
        variant: String,
        bytes: &[u8],
        content_type: &'static str,
    ) -> Result<StoredMedia, Error> {
        let mut writer = self.create_file().await?;
        writer.write(bytes).await?;
        let mut content = writer.finish().await?;
        // Not the hash of the content: a user may upload the same.
        content.hash = Sha256::new()
            .chain_update(source.hash)
            .chain_update(&variant)
            .finalize()
            .into();
        let (file, size, now) = (content.hash, content.size, self.0.clock.now_ms());
        let row = records::Thumbnail {
            file,
            content_type: content_type.to_owned(),
        };
        let hash = source.hash;
        let job = move |tx: &Tx| rows::put_thumbnail(tx, hash, &variant, &row, size, now);
        self.commit(content, job).await?;
        self.evict(Some(file)).await?;
        Ok(thumbnail(source, file, size, content_type.to_owned()))
    }
}

/// The thumbnail of `source` in `file`.
fn thumbnail(source: &StoredMedia, file: FileId, size: u64, content_type: String) -> StoredMedia {
    let ending = content_type.strip_prefix("image/").unwrap_or_default();
    StoredMedia {
        info: MediaInfo {
            name: Some(format!("thumbnail.{ending}")),
            content_type,
        },
        hash: file,
        size,
        created_ts: source.created_ts,
    }
}

fn with_type(found: StoredMedia, content_type: &str) -> StoredMedia {
    StoredMedia {
        info: MediaInfo {
            content_type: content_type.to_owned(),
            ..found.info
        },
        ..found
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoPicture => Self::NoPicture,
            Failure::TooLarge => Self::TooManyPixels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ThumbnailRequest, variant};

    fn shape(width: u64, height: u64, crop: bool) -> String {
        let wanted = ThumbnailRequest {
            width,
            height,
            crop,
            animated: false,
        };
        variant(wanted.shape())
    }

    #[test]
    fn a_thumbnail_is_never_smaller_than_requested() {
        for (wanted, made) in [
            ((1, 1, true), "32x32 crop"),
            ((32, 32, true), "32x32 crop"),
            ((33, 33, true), "96x96 crop"),
            ((100, 100, true), "240x240 crop"),
            ((64, 32, true), "96x48 crop"),
            ((320, 240, true), "320x240 crop"),
            ((500, 250, true), "640x320 crop"),
            ((1, 1000, true), "1x1200 crop"),
            ((0, 0, false), "32x32 scale"),
            ((320, 240, false), "320x240 scale"),
            ((321, 1, false), "640x480 scale"),
            ((801, 601, false), "1600x1200 scale"),
            ((1601, 1, false), "4294967295x4294967295 scale"),
            ((1, u64::MAX, true), "4294967295x4294967295 scale"),
        ] {
            let (width, height, crop) = wanted;
            assert_eq!(shape(width, height, crop), made);
        }
    }
}
