//! Local media, for other servers ([content repository]). Media of third servers are not served.
//!
//! [content repository]: https://spec.matrix.org/v1.19/server-server-api/#content-repository

use ruma::{
    api::federation::authenticated_media::{get_content, get_content_thumbnail},
    media::Method,
};

use crate::{
    api::{
        Api, Error, Multipart, Origin,
        media::{download, find_local},
    },
    media::ThumbnailRequest,
};

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
pub async fn get_content(
    api: Api,
    _origin: Origin,
    request: get_content::v1::Request,
) -> Result<Multipart, Error> {
    let found = find_local(&api, &request.media_id, request.timeout_ms).await?;
    Ok(Multipart(download(&api, found).await?))
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
pub async fn get_content_thumbnail(
    api: Api,
    _origin: Origin,
    request: get_content_thumbnail::v1::Request,
) -> Result<Multipart, Error> {
    let found = find_local(&api, &request.media_id, request.timeout_ms).await?;
    let wanted = ThumbnailRequest {
        width: request.width.into(),
        height: request.height.into(),
        crop: request.method == Some(Method::Crop),
        animated: request.animated == Some(true),
    };
    let thumbnail = api.media.thumbnail(found, wanted).await?;
    Ok(Multipart(download(&api, thumbnail).await?))
}
