//! Stored filters (client-server API, "Filtering").

use ruma::api::client::filter::{create_filter, get_filter};
use serde_json::value::RawValue;

use super::config::check_own;
use crate::{
    api::{Adapted, Api, AsSent, Error, Session, Streamed},
    rooms::timeline::filter::check_definition,
};

/// `POST /_matrix/client/v3/user/{userId}/filter`
pub async fn create_filter(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: AsSent(filter),
    }: Adapted<create_filter::v3::Request, AsSent>,
) -> Result<create_filter::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    check_definition(&request.filter)?;
    let id = api.users.add_filter(session.user, &filter).await?;
    Ok(create_filter::v3::Response::new(id))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub async fn get_filter(
    api: Api,
    session: Session,
    request: get_filter::v3::Request,
) -> Result<Streamed, Error> {
    check_own(&session, &request.user_id)?;
    let filter: Box<RawValue> = api.users.filter(session.user, &request.filter_id)?;
    Streamed::json(&filter)
}
