//! Downloads of stored media, for clients and for other servers.

use std::time::Duration;

use ruma::http_headers::{ContentDisposition, ContentDispositionType};
use smol::{Timer, future};

use super::{Api, Download, Error};
use crate::{
    media::{self, StoredMedia},
    store::hex,
};

/// How long a download waits for a pending upload, at most.
const MAX_UPLOAD_WAIT: Duration = Duration::from_secs(60);

/// The content types that are safe to show inline ([serving inline content])
///
/// [serving inline content]: https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// Waits for a pending upload at most `timeout`.
pub(super) async fn find_local(
    api: &Api,
    id: &str,
    timeout: Duration,
) -> Result<StoredMedia, Error> {
    match api.media.find_local(id) {
        Err(media::Error::NotYetUploaded) => {}
        media => return Ok(media?),
    }
    let give_up = future::or(wait(timeout.min(MAX_UPLOAD_WAIT)), api.stopping.wait());
    future::or(api.media.wait_for_upload(id), give_up).await;
    Ok(api.media.find_local(id)?)
}

pub(super) async fn wait(duration: Duration) {
    Timer::after(duration).await;
}

pub(super) async fn download(api: &Api, media: StoredMedia) -> Result<Download, Error> {
    let name = media.info.name.clone();
    download_as(api, media, name).await
}

pub(super) async fn download_as(
    api: &Api,
    media: StoredMedia,
    name: Option<String>,
) -> Result<Download, Error> {
    let file = api.media.open(&media).await?;
    let content_type = match media.info.content_type {
        unknown if unknown.is_empty() => "application/octet-stream".to_owned(),
        content_type => content_type,
    };
    Ok(Download {
        file,
        disposition: disposition(&content_type).with_filename(name),
        content_type,
        tag: hex(&media.hash[..16]),
    })
}

fn disposition(content_type: &str) -> ContentDisposition {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_safe = INLINE.iter().any(|safe| essence.eq_ignore_ascii_case(safe));
    ContentDisposition::new(if is_safe {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    })
}
