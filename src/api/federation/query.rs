//! Profiles and aliases, for other servers (server-server API, "Querying for information").

use ruma::{
    api::federation::query::{
        get_custom_information, get_profile_information, get_room_information,
    },
    profile::UserProfile,
};

use crate::{
    api::{Api, Error, Origin},
    rooms::directory::aliases,
};

/// `GET /_matrix/federation/v1/query/profile`
pub async fn get_profile_information(
    api: Api,
    _origin: Origin,
    request: get_profile_information::v1::Request,
) -> Result<get_profile_information::v1::Response, Error> {
    let profile = api.users.profile(&request.user_id)?;
    let profile: UserProfile = match &request.field {
        None => profile,
        Some(field) => {
            let value = profile.get(field.as_str()).cloned();
            let field = value.map(|value| (field.as_str().to_owned(), value));
            field.into_iter().collect()
        }
    };
    Ok(profile.into())
}

/// `GET /_matrix/federation/v1/query/directory`
pub async fn get_room_information(
    api: Api,
    _origin: Origin,
    request: get_room_information::v1::Request,
) -> Result<get_room_information::v1::Response, Error> {
    let found = |s: &_| aliases::look_up(s, &api.local, &request.room_alias);
    let (room_id, servers) = api.store.read(found)?;
    Ok(get_room_information::v1::Response::new(room_id, servers))
}

/// `GET /_matrix/federation/v1/query/{queryType}`, for types that have no endpoint of their own.
pub async fn get_custom_information(
    _api: Api,
    _origin: Origin,
    _request: get_custom_information::v1::Request,
) -> Result<get_custom_information::v1::Response, Error> {
    // As Synapse answers.
    Err(Error::not_found("this server has no queries of this type"))
}
