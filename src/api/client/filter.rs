//! Stored filters (client-server API, "Filtering").

use ruma::api::client::filter::{create_filter, get_filter};

use super::config::check_own;
use crate::api::{Api, Error, Session};

/// `POST /_matrix/client/v3/user/{userId}/filter`
pub async fn create_filter(
    api: Api,
    session: Session,
    request: create_filter::v3::Request,
) -> Result<create_filter::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let id = api.users.add_filter(session.user, &request.filter).await?;
    Ok(create_filter::v3::Response::new(id))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub async fn get_filter(
    api: Api,
    session: Session,
    request: get_filter::v3::Request,
) -> Result<get_filter::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let filter = api.users.filter(session.user, &request.filter_id)?;
    Ok(get_filter::v3::Response::new(filter))
}
