//! The content repository (client-server API, "Content repository"). The endpoints of before authenticated
//! media are for users whose apps still use them; for others they are frozen, as the specification asks,
//! at the date that the owner sets.

use std::time::Duration;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedMxcUri, ServerName, UInt,
    api::client::{
        authenticated_media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
            get_media_preview,
        },
        media::{
            create_content, create_content_async, create_mxc_uri, get_content as get_content_v3,
            get_content_as_filename as get_content_as_filename_v3,
            get_content_thumbnail as get_content_thumbnail_v3,
            get_media_config as get_media_config_v3, get_media_preview as get_media_preview_v3,
        },
    },
    media::Method,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use smol::future;

use crate::{
    api::{
        Api, Context, Download, Error, Session, Streamed, Unauthenticated, Upload,
        media::{download, download_as, find_local, wait},
    },
    media::{self, FileWriter, MediaInfo, StoredMedia, ThumbnailRequest},
    store::UserNum,
};

/// How long a download waits for media of another server.
const REMOTE_MEDIA_TIMEOUT: Duration = Duration::from_mins(5);

/// `POST /_matrix/media/v3/upload`
pub async fn create_content(
    api: Api,
    session: Session,
    request: create_content::v3::Request,
    upload: Upload,
) -> Result<create_content::v3::Response, Error> {
    let info = MediaInfo::new(request.content_type, request.filename)?;
    let draft = api
        .media
        .begin_upload(session.user, upload.length())
        .await?;
    let content = receive(draft, upload).await?.finish().await?;
    let id = api.media.store(session.user, info, content).await?;
    Ok(create_content::v3::Response::new(api.mxc_uri(&id)))
}

/// `POST /_matrix/media/v1/create`
pub async fn create_mxc_uri(
    api: Api,
    session: Session,
    _request: create_mxc_uri::v1::Request,
) -> Result<create_mxc_uri::v1::Response, Error> {
    let (id, until) = api.media.create(session.user).await?;
    let mut response = create_mxc_uri::v1::Response::new(api.mxc_uri(&id));
    let until = MilliSecondsSinceUnixEpoch(UInt::new_saturating(until));
    response.unused_expires_at = Some(until);
    Ok(response)
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
pub async fn create_content_async(
    api: Api,
    session: Session,
    request: create_content_async::v3::Request,
    upload: Upload,
) -> Result<Streamed, Error> {
    if !api.media.is_local(&request.server_name) {
        return Err(media::Error::NotFound.into());
    }
    let info = MediaInfo::new(request.content_type, request.filename)?;
    let id = request.media_id;
    api.media.check_pending_upload(session.user, &id)?;
    let draft = api
        .media
        .begin_upload(session.user, upload.length())
        .await?;
    let content = receive(draft, upload).await?.finish().await?;
    api.media
        .store_pending(session.user, &id, info, content)
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
    session: Session,
    request: get_content::v1::Request,
) -> Result<Download, Error> {
    let media = find(
        &api,
        session.user,
        &request.server_name,
        &request.media_id,
        request.timeout_ms,
    )
    .await?;
    download(&api, media).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub async fn get_content_as_filename(
    api: Api,
    session: Session,
    request: get_content_as_filename::v1::Request,
) -> Result<Download, Error> {
    let media = find(
        &api,
        session.user,
        &request.server_name,
        &request.media_id,
        request.timeout_ms,
    )
    .await?;
    download_as(&api, media, Some(request.filename)).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub async fn get_content_thumbnail(
    api: Api,
    session: Session,
    request: get_content_thumbnail::v1::Request,
) -> Result<Download, Error> {
    let server = &request.server_name;
    let media = find(
        &api,
        session.user,
        server,
        &request.media_id,
        request.timeout_ms,
    )
    .await?;
    let thumbnail = thumbnail_request(
        request.width,
        request.height,
        request.method,
        request.animated,
    );
    thumbnail_of(&api, server, media, thumbnail).await
}

fn thumbnail_request(
    width: UInt,
    height: UInt,
    method: Option<Method>,
    animated: Option<bool>,
) -> ThumbnailRequest {
    ThumbnailRequest {
        width: width.into(),
        height: height.into(),
        crop: method == Some(Method::Crop),
        animated: animated == Some(true),
    }
}

async fn thumbnail_of(
    api: &Api,
    server: &ServerName,
    media: StoredMedia,
    thumbnail: ThumbnailRequest,
) -> Result<Download, Error> {
    match api.media.thumbnail(media, thumbnail).await {
        Err(media::Error::TooManyPixels) if !api.media.is_local(server) => {
            Err(media::Error::RemoteTooManyPixels.into())
        }
        thumbnail => download(api, thumbnail?).await,
    }
}

/// `GET /_matrix/client/v1/media/config`
pub async fn get_media_config(
    api: Api,
    _session: Session,
    _request: get_media_config::v1::Request,
) -> Result<get_media_config::v1::Response, Error> {
    let max_bytes = UInt::new_saturating(api.media.max_upload().bytes());
    Ok(get_media_config::v1::Response::new(max_bytes))
}

/// `GET /_matrix/media/v3/config`
#[expect(deprecated)] // for clients from before Matrix 1.11
pub async fn get_media_config_v3(
    api: Api,
    _session: Session,
    _request: get_media_config_v3::v3::Request,
) -> Result<get_media_config_v3::v3::Response, Error> {
    let max_bytes = UInt::new_saturating(api.media.max_upload().bytes());
    Ok(get_media_config_v3::v3::Response::new(max_bytes))
}

/// `GET /_matrix/client/v1/media/preview_url`
pub async fn get_media_preview(
    api: Api,
    session: Session,
    request: get_media_preview::v1::Request,
) -> Result<get_media_preview::v1::Response, Error> {
    let preview = load_preview(&api, &session, &request.url).await?;
    Ok(get_media_preview::v1::Response::from_raw_value(preview))
}

/// `GET /_matrix/media/v3/preview_url`
#[expect(deprecated)] // for clients from before Matrix 1.11
pub async fn get_media_preview_v3(
    api: Api,
    session: Session,
    request: get_media_preview_v3::v3::Request,
) -> Result<get_media_preview_v3::v3::Response, Error> {
    let preview = load_preview(&api, &session, &request.url).await?;
    Ok(get_media_preview_v3::v3::Response::from_raw_value(preview))
}

/// The preview of the page at `url` as it is now; `ts` in requests is ignored.
async fn load_preview(api: &Api, session: &Session, url: &str) -> Result<Box<RawValue>, Error> {
    if !api.config.url_previews {
        return Err(Error::forbidden("URL previews are disabled on this server"));
    }
    let preview = api.previews.preview(session.user, url).await?;
    to_raw_value(&*preview).map_err(|_| Error::Internal("a preview that does not serialize"))
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
#[expect(deprecated)] // for clients from before Matrix 1.11, as the next two
pub async fn get_content_v3(
    api: Api,
    client: Unauthenticated,
    request: get_content_v3::v3::Request,
) -> Result<Download, Error> {
    let (server, id) = (&request.server_name, &request.media_id);
    let (allow_remote, timeout) = (request.allow_remote, request.timeout_ms);
    let media = find_for(&api, client, server, id, allow_remote, timeout).await?;
    download(&api, media).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
#[expect(deprecated)]
pub async fn get_content_as_filename_v3(
    api: Api,
    client: Unauthenticated,
    request: get_content_as_filename_v3::v3::Request,
) -> Result<Download, Error> {
    let (server, id) = (&request.server_name, &request.media_id);
    let (allow_remote, timeout) = (request.allow_remote, request.timeout_ms);
    let media = find_for(&api, client, server, id, allow_remote, timeout).await?;
    download_as(&api, media, Some(request.filename)).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
#[expect(deprecated)]
pub async fn get_content_thumbnail_v3(
    api: Api,
    client: Unauthenticated,
    request: get_content_thumbnail_v3::v3::Request,
) -> Result<Download, Error> {
    let (server, id) = (&request.server_name, &request.media_id);
    let (allow_remote, timeout) = (request.allow_remote, request.timeout_ms);
    let media = find_for(&api, client, server, id, allow_remote, timeout).await?;
    let thumbnail = thumbnail_request(
        request.width,
        request.height,
        request.method,
        request.animated,
    );
    thumbnail_of(&api, server, media, thumbnail).await
}

/// The media for the paths without authentication: all for users, whose apps may send the token all the
/// same; for others what is here and included in `unauthenticated_media`.
async fn find_for(
    api: &Api,
    client: Unauthenticated,
    server: &ServerName,
    id: &str,
    allow_remote: bool,
    timeout: Duration,
) -> Result<StoredMedia, Error> {
    let is_local = api.media.is_local(server);
    if let Some(user) = client.user {
        if is_local || allow_remote {
            return find(api, user, server, id, timeout).await;
        }
        let cached = api.media.find_remote(server, id)?;
        return Ok(cached.ok_or(media::Error::NotFound)?);
    }
    let media = if is_local {
        match api.media.find_local(id) {
            Err(media::Error::NotFound | media::Error::NotYetUploaded) => None,
            media => Some(media?),
        }
    } else {
        api.media.find_remote(server, id)?
    };
    let is_included =
        |media: &StoredMedia| api.config.unauthenticated_media.includes(media.created_ts);
    media.filter(is_included).ok_or_else(|| {
        Error::not_found(
            "media need authentication: use /_matrix/client/v1/media, or send the token",
        )
    })
}

/// Waits for a pending upload at most `timeout`.
async fn find(
    api: &Api,
    user: UserNum,
    server: &ServerName,
    id: &str,
    timeout: Duration,
) -> Result<StoredMedia, Error> {
    if api.media.is_local(server) {
        find_local(api, id, timeout).await
    } else {
        find_remote(api, user, server, id).await
    }
}

/// Fetches the media unless they are cached.
async fn find_remote(
    api: &Api,
    user: UserNum,
    server: &ServerName,
    id: &str,
) -> Result<StoredMedia, Error> {
    if let Some(media) = api.media.find_remote(server, id)? {
        return Ok(media);
    }
    let fetch = async {
        api.remote_media.fetch(user, server, id).await?;
        Ok::<_, Error>(())
    };
    let timeout = async {
        future::or(wait(REMOTE_MEDIA_TIMEOUT), api.stopping.wait()).await;
        Err(media::Error::NotYetUploaded.into())
    };
    future::or(fetch, timeout).await?;
    let media = api.media.find_remote(server, id)?;
    Ok(media.ok_or(media::Error::NotFound)?)
}

impl Context {
    fn mxc_uri(&self, id: &str) -> OwnedMxcUri {
        format!("mxc://{}/{id}", self.config.server_name).into()
    }
}
