//! What a client asks before it logs in, or to learn what it can do here.

use ruma::{
    RoomVersionId,
    api::client::discovery::{
        discover_homeserver, discover_support, get_capabilities, get_supported_versions,
    },
};

use serde_json::json;

use crate::api::{Api, Error, Session, Streamed, Unauthenticated};

/// The versions of the specification that clients may go by. Naming one is a promise of what it
/// added and of everything before, so the first that is missing is the first whose additions
/// clients would miss: v1.4 adds threads, with endpoints that are not served yet.
const VERSIONS: &[&str] = &["v1.1", "v1.2", "v1.3"];

/// Features that are not in any of these versions, under the names that clients look for.
const UNSTABLE_FEATURES: &[&str] = &[];

/// What Element looks for here before it leaves a [dehydrated device](super::dehydrated_device).
const DEHYDRATION: &str = "org.matrix.msc3814";

/// The room versions that can be made and joined here. All are stable.
const ROOM_VERSIONS: &[RoomVersionId] = &[
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// The version of rooms that are made without naming one: the specification's recommendation.
const DEFAULT_ROOM_VERSION: RoomVersionId = RoomVersionId::V12;

/// `GET /_matrix/client/versions`
pub async fn get_supported_versions(
    _api: Api,
    _who: Option<Session>,
    _request: get_supported_versions::Request,
) -> Result<get_supported_versions::Response, Error> {
    let versions = VERSIONS.iter().copied().map(str::to_owned).collect();
    let mut response = get_supported_versions::Response::new(versions);
    let features = UNSTABLE_FEATURES.iter().copied().map(str::to_owned);
    response.unstable_features = features.map(|feature| (feature, true)).collect();
    Ok(response)
}

/// `GET /_matrix/client/v3/capabilities`
pub async fn get_capabilities(
    _api: Api,
    _who: Session,
    _request: get_capabilities::v3::Request,
) -> Result<get_capabilities::v3::Response, Error> {
    use get_capabilities::v3::{
        Capabilities, GetLoginTokenCapability, ProfileFieldsCapability, Response,
        RoomVersionStability, RoomVersionsCapability, ThirdPartyIdChangesCapability,
    };

    let stable = |version: &RoomVersionId| (version.clone(), RoomVersionStability::Stable);
    // What is not named here is as the specification's defaults have it: the password, the display
    // name and the avatar can be changed.
    let mut capabilities = Capabilities::new();
    capabilities.room_versions = RoomVersionsCapability::new(
        DEFAULT_ROOM_VERSION,
        ROOM_VERSIONS.iter().map(stable).collect(),
    );
    capabilities.profile_fields = Some(ProfileFieldsCapability::new(true));
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    capabilities.get_login_token = GetLoginTokenCapability::new(true);
    Ok(Response::new(capabilities))
}

/// `GET /.well-known/matrix/client`: where clients find the homeserver of this name.
///
/// A name that the world can reach is served at its own host, by hearth's TLS listeners or by a
/// proxy before it. A local one is where it listens.
pub async fn discover_homeserver(
    api: Api,
    _who: Unauthenticated,
    _request: discover_homeserver::Request,
) -> Result<Streamed, Error> {
    let config = &api.config;
    let base_url = if !config.is_local() {
        format!("https://{}", config.server_name)
    } else {
        let (scheme, address) = match (config.listen.first(), &config.tls) {
            (Some(address), _) => ("http", address),
            (None, Some(tls)) => ("https", &tls.listen[0]),
            (None, None) => return Err(Error::not_found("this server listens nowhere")),
        };
        format!(
            "{scheme}://{}:{}",
            config.server_name.host(),
            address.port()
        )
    };
    Streamed::json(&json!({ "m.homeserver": { "base_url": base_url }, DEHYDRATION: true }))
}

/// `GET /.well-known/matrix/support`: whom to ask for help, which nobody has said.
pub async fn discover_support(
    _api: Api,
    _who: Unauthenticated,
    _request: discover_support::Request,
) -> Result<discover_support::Response, Error> {
    Err(Error::not_found("nobody is named here"))
}
