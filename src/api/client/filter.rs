//! Stored filters (client-server API, "Filtering").

use std::borrow::Cow;

use ruma::{
    api::{
        client::filter::{create_filter, get_filter},
        error::DeserializationError,
    },
    exports::serde_html_form,
    serde::json_string,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::config::check_own;
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Streamed, Unread, adapted::drop_argument},
    rooms::timeline::filter::{EventFilter, SyncFilter},
};

/// The argument `filter` of a query.
#[derive(Debug)]
pub struct QueryFilter(pub EventFilter);

impl Quirk for QueryFilter {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Query {
            #[serde(with = "json_string", default)]
            filter: EventFilter,
        }
        let query = request.uri().query().unwrap_or_default();
        let Query { filter } = serde_html_form::from_str(query)?;
        drop_argument(request, "filter")?;
        Ok(Self(filter))
    }
}

/// `POST /_matrix/client/v3/user/{userId}/filter`
pub async fn create_filter(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: Unread(filter),
    }: Adapted<create_filter::v3::Request, Unread>,
) -> Result<create_filter::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let parsed: SyncFilter = serde_json::from_value(Value::Object(filter.clone()))
        .map_err(|error| Error::bad_json(format!("this is not a filter: {error}")))?;
    parsed.check_size()?;
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
