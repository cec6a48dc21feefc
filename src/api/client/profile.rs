//! Profiles (client-server API, "Profiles"). Display name and avatar are fields like any other:
//! the endpoints that once were theirs are the same paths.

use ruma::{
    api::client::profile::{
        delete_profile_field, get_profile, get_profile_field, set_profile_field,
    },
    profile::ProfileFieldValue,
};

use super::config::only_own;
use crate::{
    api::{Anyone, Api, Error, Session},
    users::profiles::{self, Change},
};

/// `GET /_matrix/client/v3/profile/{userId}`
pub async fn get_profile(
    api: Api,
    _who: Anyone,
    request: get_profile::v3::Request,
) -> Result<get_profile::v3::Response, Error> {
    Ok(api.users.profile(&request.user_id)?.into())
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn get_profile_field(
    api: Api,
    _who: Anyone,
    request: get_profile_field::v3::Request,
) -> Result<get_profile_field::v3::Response, Error> {
    let profile = api.users.profile(&request.user_id)?;
    let field = request.field.as_str();
    let value = profile
        .get(field)
        .and_then(|value| ProfileFieldValue::new(field, value.clone()).ok())
        .ok_or_else(|| Error::not_found("this profile has no such field"))?;
    Ok(get_profile_field::v3::Response::new(value))
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn set_profile_field(
    api: Api,
    who: Session,
    request: set_profile_field::v3::Request,
) -> Result<set_profile_field::v3::Response, Error> {
    only_own(&who, &request.user_id)?;
    change(&api, &who, Change::set(&request.value)?).await?;
    Ok(set_profile_field::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn delete_profile_field(
    api: Api,
    who: Session,
    request: delete_profile_field::v3::Request,
) -> Result<delete_profile_field::v3::Response, Error> {
    only_own(&who, &request.user_id)?;
    change(&api, &who, Change::remove(&request.field)?).await?;
    Ok(delete_profile_field::v3::Response::new())
}

async fn change(api: &Api, who: &Session, change: Change) -> Result<(), Error> {
    let user = who.user;
    api.store
        .write(move |tx| {
            profiles::apply(tx, user, &change)?;
            Ok(())
        })
        .await
}
