//! Profiles (client-server API, "Profiles"). Display name and avatar are fields like any other:
//! the endpoints that once were theirs are the same paths.

use ruma::{
    UserId,
    api::{
        IncomingRequest, Metadata,
        client::profile::{
            delete_profile_field, get_profile, get_profile_field, set_profile_field,
        },
        error::DeserializationError,
    },
    profile::{ProfileFieldValue, UserProfile},
    serde::JsonObject,
};

use super::config::only_own;
use crate::{
    api::{Api, Error, Session, Unauthenticated},
    rates::{Kind, household},
    rooms::background::member_events,
    users::profiles::{self, Change},
};

/// `GET /_matrix/client/v3/profile/{userId}`
pub async fn get_profile(
    api: Api,
    who: Unauthenticated,
    request: get_profile::v3::Request,
) -> Result<get_profile::v3::Response, Error> {
    Ok(profile_of(&api, who, &request.user_id).await?.into())
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn get_profile_field(
    api: Api,
    who: Unauthenticated,
    request: get_profile_field::v3::Request,
) -> Result<get_profile_field::v3::Response, Error> {
    let profile = profile_of(&api, who, &request.user_id).await?;
    let field = request.field.as_str();
    let value = profile
        .get(field)
        .and_then(|value| ProfileFieldValue::new(field, value.clone()).ok())
        .ok_or_else(|| Error::not_found("this profile has no such field"))?;
    Ok(get_profile_field::v3::Response::new(value))
}

/// The profile of a user, here or on the user's server.
async fn profile_of(api: &Api, who: Unauthenticated, user: &UserId) -> Result<UserProfile, Error> {
    if !api.federation.allows(user.server_name()) {
        return Ok(api.users.profile(user)?);
    }
    let profiles = api.federation.profiles();
    if let Some(told) = profiles.known(user) {
        return Ok(told?);
    }
    api.rates.check(Kind::Ask, household(who.address))?;
    Ok(profiles.ask(user).await?)
}

/// A request to set a field. ruma's own reading of it takes a body in which another property comes
/// first for broken JSON.
#[derive(Debug)]
pub struct SetField(set_profile_field::v3::Request);

impl Metadata for SetField {
    const METHOD: http::Method = set_profile_field::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_profile_field::v3::Request::RATE_LIMITED;
    type Authentication = <set_profile_field::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_profile_field::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_profile_field::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetField {
    type EndpointError = <set_profile_field::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_profile_field::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let mut body: JsonObject = serde_json::from_slice(body)?;
        body.retain(|property, _| path_args.last() == Some(&property.as_str()));
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, &*body);
        set_profile_field::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn set_profile_field(
    api: Api,
    who: Session,
    SetField(request): SetField,
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
            if profiles::apply(tx, user, &change)? {
                member_events::schedule_update(tx, user)?;
            }
            Ok(())
        })
        .await
}
