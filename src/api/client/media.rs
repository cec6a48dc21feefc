//! Pictures and files ([content repository]).
//!
//! The endpoints that need no token are frozen, as the specification asks of servers: they have what
//! was there before the freeze, which here is nothing.
//!
//! [content repository]: https://spec.matrix.org/v1.19/client-server-api/#content-repository

use std::time::Duration;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedMxcUri, ServerName, UInt,
    api::client::{
        authenticated_media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
            get_media_preview,
        },
        media::{
            create_content, create_content_async, create_mxc_uri,
            get_content as get_frozen_content,
            get_content_as_filename as get_frozen_content_as_filename,
            get_content_thumbnail as get_frozen_content_thumbnail,
            get_media_config as get_media_config_v3, get_media_preview as get_media_preview_v3,
        },
    },
    http_headers::{ContentDisposition, ContentDispositionType},
    media::Method,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use smol::{Timer, future};

use crate::{
    api::{Api, Context, Download, Error, Session, Streamed, Unauthenticated, Upload},
    media::{self, FileWriter, MediaInfo, StoredMedia, ThumbnailRequest},
};

/// How long somebody can wait for what has not been uploaded yet.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long somebody can wait for what is fetched from another server.
const FETCH: Duration = Duration::from_mins(5);

/// What browsers only ever show as what it claims to be ([serving inline content]).
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

/// `POST /_matrix/media/v3/upload`
pub async fn create_content(
    api: Api,
    who: Session,
    request: create_content::v3::Request,
    upload: Upload,
) -> Result<create_content::v3::Response, Error> {
    let info = MediaInfo::new(request.content_type, request.filename)?;
    let draft = api.media.begin_upload(who.user, upload.length()).await?;
    let content = receive(draft, upload).await?.finish().await?;
    let id = api.media.store(who.user, info, content).await?;
    Ok(create_content::v3::Response::new(api.mxc(&id)))
}

/// `POST /_matrix/media/v1/create`
pub async fn create_mxc_uri(
    api: Api,
    who: Session,
    _request: create_mxc_uri::v1::Request,
) -> Result<create_mxc_uri::v1::Response, Error> {
    let (id, until) = api.media.create(who.user).await?;
    let mut response = create_mxc_uri::v1::Response::new(api.mxc(&id));
    let until = MilliSecondsSinceUnixEpoch(UInt::new_saturating(until));
    response.unused_expires_at = Some(until);
    Ok(response)
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
pub async fn create_content_async(
    api: Api,
    who: Session,
    request: create_content_async::v3::Request,
    upload: Upload,
) -> Result<Streamed, Error> {
    if !api.media.is_local(&request.server_name) {
        return Err(media::Error::NotFound.into());
    }
    let info = MediaInfo::new(request.content_type, request.filename)?;
    let id = request.media_id;
    api.media.check_pending_upload(who.user, &id)?;
    let draft = api.media.begin_upload(who.user, upload.length()).await?;
    let content = receive(draft, upload).await?.finish().await?;
    api.media
        .store_pending(who.user, &id, info, content)
        .await?;
    // ruma's response has no constructor.
    Streamed::json(&json!({}))
}

async fn receive(mut draft: FileWriter, mut upload: Upload) -> Result<FileWriter, Error> {
    while let Some(piece) = upload.next().await? {
        draft.write(&piece).await?;
    }
    Ok(draft)
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
pub async fn get_content(
    api: Api,
    _who: Session,
    request: get_content::v1::Request,
) -> Result<Download, Error> {
    let found = find(
        &api,
        (&request.server_name, &request.media_id),
        request.timeout_ms,
    );
    shown(&api, found.await?).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub async fn get_content_as_filename(
    api: Api,
    _who: Session,
    request: get_content_as_filename::v1::Request,
) -> Result<Download, Error> {
    let found = find(
        &api,
        (&request.server_name, &request.media_id),
        request.timeout_ms,
    );
    download(&api, found.await?, Some(request.filename)).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub async fn get_content_thumbnail(
    api: Api,
    _who: Session,
    request: get_content_thumbnail::v1::Request,
) -> Result<Download, Error> {
    let name = (&*request.server_name, &*request.media_id);
    let found = find(&api, name, request.timeout_ms).await?;
    let wanted = ThumbnailRequest {
        width: request.width.into(),
        height: request.height.into(),
        crop: request.method == Some(Method::Crop),
        animated: request.animated == Some(true),
    };
    match api.media.thumbnail(found, wanted).await {
        Err(media::Error::TooManyPixels) if !api.media.is_local(name.0) => {
            Err(media::Error::RemoteTooManyPixels.into())
        }
        made => shown(&api, made?).await,
    }
}

/// `GET /_matrix/client/v1/media/config`
pub async fn get_media_config(
    api: Api,
    _who: Session,
    _request: get_media_config::v1::Request,
) -> Result<get_media_config::v1::Response, Error> {
    let most = UInt::new_saturating(api.media.max_upload().bytes());
    Ok(get_media_config::v1::Response::new(most))
}

/// `GET /_matrix/media/v3/config`
#[expect(deprecated)] // for clients from before Matrix 1.11
pub async fn get_media_config_v3(
    api: Api,
    _who: Session,
    _request: get_media_config_v3::v3::Request,
) -> Result<get_media_config_v3::v3::Response, Error> {
    let most = UInt::new_saturating(api.media.max_upload().bytes());
    Ok(get_media_config_v3::v3::Response::new(most))
}

/// `GET /_matrix/client/v1/media/preview_url`
pub async fn get_media_preview(
    api: Api,
    _who: Session,
    request: get_media_preview::v1::Request,
) -> Result<get_media_preview::v1::Response, Error> {
    let shown = preview(&api, &request.url).await?;
    Ok(get_media_preview::v1::Response::from_raw_value(shown))
}

/// `GET /_matrix/media/v3/preview_url`
#[expect(deprecated)] // for clients from before Matrix 1.11
pub async fn get_media_preview_v3(
    api: Api,
    _who: Session,
    request: get_media_preview_v3::v3::Request,
) -> Result<get_media_preview_v3::v3::Response, Error> {
    let shown = preview(&api, &request.url).await?;
    Ok(get_media_preview_v3::v3::Response::from_raw_value(shown))
}

/// What is shown of the page at `url`. How it looked at some time, for which clients can ask, nobody
/// remembers here.
async fn preview(api: &Api, url: &str) -> Result<Box<RawValue>, Error> {
    if !api.config.url_previews {
        return Err(Error::forbidden("this server does not look at web pages"));
    }
    let shown = api.previews.preview(url).await?;
    let written = to_raw_value(&*shown);
    written.map_err(|_| Error::Internal("a preview that is no JSON"))
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
#[expect(deprecated)]
pub async fn get_frozen_content(
    _api: Api,
    _who: Unauthenticated,
    _request: get_frozen_content::v3::Request,
) -> Result<get_frozen_content::v3::Response, Error> {
    Err(frozen())
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
#[expect(deprecated)]
pub async fn get_frozen_content_as_filename(
    _api: Api,
    _who: Unauthenticated,
    _request: get_frozen_content_as_filename::v3::Request,
) -> Result<get_frozen_content_as_filename::v3::Response, Error> {
    Err(frozen())
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
#[expect(deprecated)]
pub async fn get_frozen_content_thumbnail(
    _api: Api,
    _who: Unauthenticated,
    _request: get_frozen_content_thumbnail::v3::Request,
) -> Result<get_frozen_content_thumbnail::v3::Response, Error> {
    Err(frozen())
}

fn frozen() -> Error {
    Error::not_found("media are shown only to those who say who they are")
}

/// The media, once they are there: waits for so long if they are announced.
async fn find(
    api: &Api,
    (server, id): (&ServerName, &str),
    timeout: Duration,
) -> Result<StoredMedia, Error> {
    if !api.media.is_local(server) {
        return find_remote(api, server, id).await;
    }
    find_own(api, id, timeout).await
}

/// This server's media `id`, once they are there.
pub(in crate::api) async fn find_own(
    api: &Api,
    id: &str,
    timeout: Duration,
) -> Result<StoredMedia, Error> {
    match api.media.find_local(id) {
        Err(media::Error::NotYetUploaded) => {}
        found => return Ok(found?),
    }
    let over = future::or(wait(timeout.min(PATIENCE)), api.stopping.wait());
    future::or(api.media.wait_for_upload(id), over).await;
    Ok(api.media.find_local(id)?)
}

async fn wait(time: Duration) {
    Timer::after(time).await;
}

/// The media of another server, which are fetched if they are not here.
async fn find_remote(api: &Api, server: &ServerName, id: &str) -> Result<StoredMedia, Error> {
    if let Some(found) = api.media.find_remote(server, id)? {
        return Ok(found);
    }
    let fetched = async {
        api.remote_media.fetch(server, id).await?;
        Ok::<_, Error>(())
    };
    let late = async {
        future::or(wait(FETCH), api.stopping.wait()).await;
        Err(media::Error::NotYetUploaded.into())
    };
    future::or(fetched, late).await?;
    let found = api.media.find_remote(server, id)?;
    Ok(found.ok_or(media::Error::NotFound)?)
}

/// What was found, to be sent under its own name.
pub(in crate::api) async fn shown(api: &Api, found: StoredMedia) -> Result<Download, Error> {
    let name = found.info.name.clone();
    download(api, found, name).await
}

/// What was found, to be sent under this name.
async fn download(api: &Api, found: StoredMedia, name: Option<String>) -> Result<Download, Error> {
    let file = api.media.open(&found).await?;
    let content_type = match found.info.content_type {
        unknown if unknown.is_empty() => "application/octet-stream".to_owned(),
        known => known,
    };
    Ok(Download {
        file,
        disposition: disposition(&content_type).with_filename(name),
        content_type,
        tag: found.hash[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
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

impl Context {
    /// The address of this server's media `id`.
    fn mxc(&self, id: &str) -> OwnedMxcUri {
        format!("mxc://{}/{id}", self.config.server_name).into()
    }
}
