//! This server's media, for other servers ([content repository]). They are given no others: those they
//! fetch where they are from.
//!
//! [content repository]: https://spec.matrix.org/v1.19/server-server-api/#content-repository

use ruma::api::federation::authenticated_media::get_content;

use crate::api::{
    Api, Download, Error, Origin,
    client::media::{download, find_own},
};

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
pub async fn get_content(
    api: Api,
    _who: Origin,
    request: get_content::v1::Request,
) -> Result<Download, Error> {
    let found = find_own(&api, &request.media_id, request.timeout_ms).await?;
    let name = found.about.name.clone();
    download(&api, found, name).await
}
