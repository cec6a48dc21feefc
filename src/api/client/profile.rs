//! Profiles (client-server API, "Profiles"). Display name and avatar are fields like any other.

use std::borrow::Cow;

use ruma::{
    UserId,
    api::{
        client::profile::{
            delete_profile_field, get_profile, get_profile_field, set_profile_field,
        },
        error::DeserializationError,
    },
    profile::{ProfileFieldValue, UserProfile},
};

use super::config::check_own;
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Unauthenticated, adapted::edit_body},
    rooms::background::member_events,
    users::profiles::{self, Change},
};

/// `GET /_matrix/client/v3/profile/{userId}`
pub async fn get_profile(
    api: Api,
    client: Unauthenticated,
    request: get_profile::v3::Request,
) -> Result<get_profile::v3::Response, Error> {
    Ok(profile_of(&api, client, &request.user_id).await?.into())
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn get_profile_field(
    api: Api,
    client: Unauthenticated,
    request: get_profile_field::v3::Request,
) -> Result<get_profile_field::v3::Response, Error> {
    let profile = profile_of(&api, client, &request.user_id).await?;
    let field = request.field.as_str();
    let value = profile
        .get(field)
        .and_then(|value| ProfileFieldValue::new(field, value.clone()).ok())
        .ok_or_else(|| Error::not_found("the profile has no field of this name"))?;
    Ok(get_profile_field::v3::Response::new(value))
}

/// The profile of a user, fetched if the user is remote.
async fn profile_of(
    api: &Api,
    client: Unauthenticated,
    user: &UserId,
) -> Result<UserProfile, Error> {
    if !api.federation.allows(user.server_name()) {
        return Ok(api.users.profile(user)?);
    }
    let profiles = api.federation.profiles();
    if let Some(cached) = profiles.cached(user) {
        return Ok(cached?);
    }
    let _permit = api.remote_lookup_permit(client).await?;
    Ok(profiles.fetch(user).await?)
}

/// Other properties than the field are ignored; ruma fails if one comes first.
#[derive(Debug)]
pub struct OnlyTheField;

impl Quirk for OnlyTheField {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        edit_body(request, |body| {
            body.retain(|property, _| path_arguments.last() == Some(&property.as_str()));
        })?;
        Ok(Self)
    }
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn set_profile_field(
    api: Api,
    session: Session,
    Adapted { request, .. }: Adapted<set_profile_field::v3::Request, OnlyTheField>,
) -> Result<set_profile_field::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    change(&api, &session, Change::set(&request.value)?).await?;
    Ok(set_profile_field::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn delete_profile_field(
    api: Api,
    session: Session,
    request: delete_profile_field::v3::Request,
) -> Result<delete_profile_field::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    change(&api, &session, Change::remove(&request.field)?).await?;
    Ok(delete_profile_field::v3::Response::new())
}

async fn change(api: &Api, session: &Session, change: Change) -> Result<(), Error> {
    let user = session.user;
    api.store
        .write(move |tx| {
            if profiles::apply(tx, user, &change)? {
                member_events::schedule_update(tx, user)?;
            }
            Ok(())
        })
        .await
}
