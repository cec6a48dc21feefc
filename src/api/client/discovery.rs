//! Discovery of the server and of what it supports (client-server API, "Server Discovery", "API Versions"
//! and "Capabilities negotiation").

use ruma::api::client::discovery::{
    discover_homeserver, discover_support, get_capabilities, get_supported_versions,
};
use serde_json::json;

use crate::{
    api::{Api, Error, Session, Streamed, Unauthenticated},
    protocol::versions,
};

/// The versions of the specification that are announced. Clients use what a version added without asking
/// further, so a version is announced if all that it added is served, or if clients bear a 404 where it
/// is not.
const VERSIONS: &[&str] = &[
    "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12", "v1.13", "v1.14",
];

/// The feature flags that are announced: each makes some client use something that is served.
/// `tests/it/versions.rs` says what.
const UNSTABLE_FEATURES: &[&str] = &[
    "fi.mau.msc2246",
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc2285.stable",
    "org.matrix.msc2432",
    "org.matrix.msc3030",
    "org.matrix.msc3266",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3715.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3882",
    "org.matrix.msc3916",
    "org.matrix.msc3916.stable",
    "org.matrix.msc3981",
    "org.matrix.msc4155",
    "org.matrix.msc4380.stable",
    "org.matrix.simplified_msc3575",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    "uk.timedout.msc4323",
];

/// Element uses [dehydrated devices](super::dehydrated_device) if `/.well-known/matrix/client` has this.
const DEHYDRATION: &str = "org.matrix.msc3814";

/// `GET /_matrix/client/versions`
pub async fn get_supported_versions(
    _api: Api,
    _session: Option<Session>,
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
    api: Api,
    session: Session,
    _request: get_capabilities::v3::Request,
) -> Result<Streamed, Error> {
    use get_capabilities::v3::{
        AccountModerationCapability, Capabilities, GetLoginTokenCapability,
        ProfileFieldsCapability, Response, RoomVersionStability, RoomVersionsCapability,
        ThirdPartyIdChangesCapability,
    };

    let is_admin = api.users.is_admin(session.user)?;
    // Those of which rooms can be created. A room of another version is to be upgraded: "any version not
    // explicitly labelled as `stable` […] is to be treated as `unstable`".
    let created = versions::SUPPORTED
        .into_iter()
        .filter(|version| versions::rules(version).is_some_and(versions::may_be_created));
    let available = created.map(|version| (version, RoomVersionStability::Stable));
    let mut capabilities = Capabilities::new();
    capabilities.room_versions =
        RoomVersionsCapability::new(versions::DEFAULT, available.collect());
    capabilities.profile_fields = Some(ProfileFieldsCapability::new(true));
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    capabilities.get_login_token = GetLoginTokenCapability::new(true);
    capabilities.account_moderation = AccountModerationCapability::new(is_admin, is_admin);
    // Other capabilities have the defaults of the specification. ruma leaves out these, which clients want
    // to read.
    Streamed::edited(Response::new(capabilities), |body| {
        if let Some(capabilities) = body.get_mut("capabilities") {
            for name in ["m.change_password", "m.set_avatar_url", "m.set_displayname"] {
                capabilities[name] = json!({ "enabled": true });
            }
        }
    })
}

/// `GET /.well-known/matrix/client`
pub async fn discover_homeserver(
    api: Api,
    _client: Unauthenticated,
    _request: discover_homeserver::Request,
) -> Result<Streamed, Error> {
    let base_url = api.config.client_url();
    let base_url = base_url.ok_or_else(|| Error::not_found("this server has no listener"))?;
    Streamed::json(&json!({ "m.homeserver": { "base_url": base_url }, DEHYDRATION: true }))
}

/// `GET /.well-known/matrix/support`
pub async fn discover_support(
    api: Api,
    _client: Unauthenticated,
    _request: discover_support::Request,
) -> Result<discover_support::Response, Error> {
    use discover_support::{Contact, ContactRole::Admin, Response};

    let contact = api.config.contact.clone();
    let users = contact.users.into_iter();
    let users = users.map(|user| Contact::with_matrix_id(Admin, user));
    let addresses = contact.email_addresses.into_iter();
    let addresses = addresses.map(|address| Contact::with_email_address(Admin, address));
    let mut response = Response::with_contacts(users.chain(addresses).collect());
    response.support_page = contact.page;
    // "At least one of `contacts` or `support_page` is required."
    if response.contacts.is_empty() && response.support_page.is_none() {
        return Err(Error::not_found("no support contact is configured"));
    }
    Ok(response)
}
