//! Simplified sliding sync ([MSC4186]), at the path that clients use today and at the proposal's own. The two
//! differ in where a request has its parameters, and in the names of some fields.
//!
//! ruma's type knows only the first, and not all filters.
//!
//! [MSC4186]: https://github.com/matrix-org/matrix-spec-proposals/pull/4186

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OwnedRoomId, UserId,
    api::{
        IncomingRequest,
        auth_scheme::AccessToken,
        client::state::get_state_events,
        error::{DeserializationError, Error as MatrixError, ErrorKind},
        metadata,
    },
    exports::serde_html_form,
    presence::PresenceState,
};
use serde::Deserialize;
use smol::stream::StreamExt;

use crate::{
    api::{Api, Error, Session, Streamed},
    store::{
        Position,
        records::{RequiredState, StatePattern},
    },
    sync::sliding::{
        Dialect, Extensions, Filters, List, Outcome, Pos, RoomConfig, Scope, SlidingSyncRequest,
        ToDevice,
    },
    users::{
        account_data::{ignored_users, invite_permissions},
        to_device::MAX_SYNC_MESSAGES,
    },
};

const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// Of lists and of subscriptions (MSC4186).
const MAX_RULES: usize = 100;
const MAX_RANGES: usize = 32;
/// Of all lists and subscriptions together.
const MAX_STATE_PATTERNS: usize = 1000;
/// Of the filters of all lists together, and of each selection of lists and rooms.
const MAX_NAMES: usize = 200;
/// Of event types, state keys, names of lists, tags …
const MAX_NAME_BYTES: usize = 255;
const MAX_TIMELINE_LIMIT: u64 = 100;

metadata! {
    method: POST,
    rate_limited: false,
    authentication: AccessToken,
    history: {
        unstable("org.matrix.simplified_msc3575") => "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        unstable("org.matrix.msc4186") => "/_matrix/client/v4/sync",
    }
}

#[derive(Debug)]
pub struct Request {
    dialect: Dialect,
    query: Query,
    body: Body,
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = get_state_events::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let body: Body = serde_json::from_slice(request.body())?;
        let is_unstable = request.uri().path().contains("/unstable/");
        let (dialect, query) = match is_unstable {
            true => {
                let query = request.uri().query().unwrap_or_default();
                (Dialect::Unstable, serde_html_form::from_str(query)?)
            }
            false => (Dialect::Proposal, body.query.clone()),
        };
        Ok(Self {
            dialect,
            query,
            body,
        })
    }
}

/// In the query, or in the body, by the dialect.
#[derive(Clone, Debug, Default, Deserialize)]
struct Query {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Body {
    conn_id: Option<String>,
    txn_id: Option<String>,
    #[serde(flatten)]
    query: Query,
    lists: Option<BTreeMap<String, ListBody>>,
    room_subscriptions: Option<BTreeMap<String, ConfigBody>>,
    extensions: Option<ExtensionsBody>,
}

#[derive(Debug, Deserialize)]
struct ListBody {
    #[serde(flatten)]
    config: ConfigBody,
    ranges: Option<Vec<(u64, u64)>>,
    range: Option<(u64, u64)>,
    filters: Option<Filters>,
}

#[derive(Debug, Deserialize)]
struct ConfigBody {
    #[serde(default)]
    timeline_limit: u64,
    required_state: Option<RequiredStateBody>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RequiredStateBody {
    /// Types and state keys, with `*`, `$LAZY` and `$ME`.
    Pairs(Vec<(String, String)>),
    Proposal {
        #[serde(default)]
        include: Vec<PatternBody>,
        #[serde(default)]
        exclude: Vec<PatternBody>,
        #[serde(default)]
        lazy_members: bool,
    },
}

#[derive(Debug, Deserialize)]
struct PatternBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ExtensionsBody {
    to_device: Option<ToDeviceBody>,
    e2ee: Option<Extension>,
    account_data: Option<Extension>,
    receipts: Option<Extension>,
    typing: Option<Extension>,
}

#[derive(Debug, Deserialize)]
struct ToDeviceBody {
    enabled: Option<bool>,
    limit: Option<u64>,
    since: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Extension {
    enabled: Option<bool>,
    #[serde(flatten)]
    scope: Scope,
}

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync` and `POST /_matrix/client/v4/sync`
pub async fn sliding_sync(api: Api, session: Session, request: Request) -> Result<Streamed, Error> {
    let Request {
        dialect,
        query,
        body,
    } = request;
    let timeout = Duration::from_millis(query.timeout.unwrap_or_default()).min(MAX_TIMEOUT);
    let set_presence = set_presence(query.set_presence.as_deref())?;
    let since = query.pos.as_deref().map(str::parse::<Pos>);
    let since = since.transpose().map_err(|_| unknown_pos())?;
    let connection = body.conn_id.unwrap_or_default();
    check_name("conn_id", &connection)?;
    body.txn_id
        .as_deref()
        .map_or(Ok(()), |id| check_name("txn_id", id))?;
    let client = (session.device, Some(connection.as_str().into()));
    let mut patterns = 0;
    let user = &session.user_id;
    let sync_request = SlidingSyncRequest {
        user: session.user,
        user_id: session.user_id.clone(),
        device: session.device,
        dialect,
        connection,
        since,
        txn_id: body.txn_id,
        lists: lists(body.lists.unwrap_or_default(), user, &mut patterns)?,
        subscriptions: subscriptions(
            body.room_subscriptions.unwrap_or_default(),
            user,
            &mut patterns,
        )?,
        extensions: extensions(body.extensions.unwrap_or_default())?,
        ignored: api.store.read(|s| ignored_users::load(s, session.user))?,
        invites: api
            .store
            .read(|s| invite_permissions::load(s, session.user))?,
        lazy_loaded: api
            .lazy_loaded_members
            .begin(client, since.map(Pos::progress)),
    };
    let handler = api.sliding_sync_handler();
    match handler.sync(sync_request, &set_presence, timeout).await? {
        Outcome::Response(response) => Ok(Streamed::new(response.map(|piece| Ok(piece?)))),
        Outcome::Ended(error) => Err(error.into()),
        Outcome::UnknownPos => Err(unknown_pos()),
    }
}

fn unknown_pos() -> Error {
    let message = "pos: this connection has expired; start again without pos";
    Error::new(ErrorKind::UnknownPos, message)
}

fn set_presence(presence: Option<&str>) -> Result<PresenceState, Error> {
    match presence {
        None | Some("online") => Ok(PresenceState::Online),
        Some("offline") => Ok(PresenceState::Offline),
        Some("unavailable") => Ok(PresenceState::Unavailable),
        Some(_) => Err(Error::invalid_param(
            "set_presence must be online, unavailable or offline",
        )),
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Error> {
    match name.len() <= MAX_NAME_BYTES {
        true => Ok(()),
        false => Err(Error::invalid_param(format!(
            "{field}: at most {MAX_NAME_BYTES} bytes"
        ))),
    }
}

fn check_names<'a>(field: &str, names: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    let mut count = 0;
    for name in names {
        check_name(field, name)?;
        count += 1;
    }
    check_count(field, count, MAX_NAMES)
}

fn check_count(field: &str, count: usize, max: usize) -> Result<(), Error> {
    match count <= max {
        true => Ok(()),
        false => Err(Error::invalid_param(format!("{field}: at most {max}"))),
    }
}

fn lists(
    bodies: BTreeMap<String, ListBody>,
    user: &UserId,
    patterns: &mut usize,
) -> Result<Vec<List>, Error> {
    check_count("lists", bodies.len(), MAX_RULES)?;
    let mut lists = Vec::new();
    let mut names = 0;
    for (name, body) in bodies {
        check_name("lists", &name)?;
        let ranges = match (body.ranges, body.range) {
            (None, None) => None,
            (ranges, range) => Some(ranges.into_iter().flatten().chain(range).collect()),
        };
        check_count("ranges", ranges.as_ref().map_or(0, Vec::len), MAX_RANGES)?;
        let filters = body.filters.unwrap_or_default();
        check_filters(&filters, &mut names)?;
        lists.push(List {
            name,
            ranges,
            config: config(body.config, user, patterns)?,
            filters,
        });
    }
    Ok(lists)
}

/// `names` counts the names in all filters.
fn check_filters(filters: &Filters, names: &mut usize) -> Result<(), Error> {
    let Filters {
        spaces,
        room_types,
        not_room_types,
        room_name_like,
        tags,
        not_tags,
        ..
    } = filters;
    let texts = [spaces, tags, not_tags].into_iter().flatten().flatten();
    let types = [room_types, not_room_types].into_iter().flatten().flatten();
    for name in texts
        .map(Some)
        .chain(types.map(Option::as_ref))
        .chain([room_name_like.as_ref()])
    {
        name.map_or(Ok(()), |name| check_name("filters", name))?;
        *names += 1;
    }
    // Each list has a place for `room_name_like`.
    check_count("filters", *names, MAX_NAMES + MAX_RULES)
}

/// Rooms whose ids are invalid are ignored, as unknown ones are.
fn subscriptions(
    bodies: BTreeMap<String, ConfigBody>,
    user: &UserId,
    patterns: &mut usize,
) -> Result<Vec<(OwnedRoomId, RoomConfig)>, Error> {
    check_count("room_subscriptions", bodies.len(), MAX_RULES)?;
    let mut subscriptions = Vec::new();
    for (room, body) in bodies {
        let config = config(body, user, patterns)?;
        subscriptions.extend(OwnedRoomId::try_from(room).ok().map(|room| (room, config)));
    }
    Ok(subscriptions)
}

fn config(body: ConfigBody, user: &UserId, patterns: &mut usize) -> Result<RoomConfig, Error> {
    let limit = body.timeline_limit.min(MAX_TIMELINE_LIMIT);
    let required_state = body.required_state.map(|body| required_state(body, user));
    if let Some(required) = &required_state {
        let all = required.include.iter().chain(&required.exclude);
        for pattern in all {
            *patterns += 1;
            check_names(
                "required_state",
                pattern.kind.iter().chain(&pattern.state_key),
            )?;
        }
    }
    check_count("required_state", *patterns, MAX_STATE_PATTERNS)?;
    Ok(RoomConfig {
        timeline_limit: u16::try_from(limit).unwrap_or(u16::MAX),
        required_state: required_state.into_iter().collect(),
    })
}

fn required_state(body: RequiredStateBody, user: &UserId) -> RequiredState {
    match body {
        RequiredStateBody::Pairs(pairs) => {
            let mut required = RequiredState::default();
            for (kind, state_key) in pairs {
                let kind = (kind != "*").then_some(kind);
                let is_member = kind.as_deref() == Some("m.room.member");
                let state_key = match &*state_key {
                    "$LAZY" => {
                        required.lazy_members |= is_member;
                        continue;
                    }
                    "$ME" => Some(user.to_string()),
                    "*" => None,
                    _ => Some(state_key),
                };
                required.include.push(StatePattern { kind, state_key });
            }
            // Who asks for all members by their type gets all, whatever else is asked for.
            let wants_all = |pattern: &StatePattern| {
                pattern.kind.as_deref() == Some("m.room.member") && pattern.state_key.is_none()
            };
            required.lazy_members &= !required.include.iter().any(wants_all);
            required
        }
        RequiredStateBody::Proposal {
            include,
            exclude,
            lazy_members,
        } => {
            let patterns = |bodies: Vec<PatternBody>| {
                let bodies = bodies.into_iter();
                bodies
                    .map(|PatternBody { kind, state_key }| StatePattern { kind, state_key })
                    .collect()
            };
            RequiredState {
                include: patterns(include),
                exclude: patterns(exclude),
                lazy_members,
            }
        }
    }
}

fn extensions(body: ExtensionsBody) -> Result<Extensions, Error> {
    let scope = |extension: Option<Extension>| {
        let enabled = extension.filter(|extension| extension.enabled == Some(true));
        let scope = enabled.map(|extension| extension.scope);
        if let Some(scope) = &scope {
            for names in [&scope.lists, &scope.rooms] {
                check_names("extensions", names.iter().flatten())?;
            }
        }
        Ok::<_, Error>(scope)
    };
    let to_device = body
        .to_device
        .filter(|to_device| to_device.enabled == Some(true));
    let to_device = to_device.map(|ToDeviceBody { limit, since, .. }| {
        let received = since.as_deref().unwrap_or("0").parse().map_err(|_| {
            Error::invalid_param("extensions: to_device.since is not a next_batch of to_device")
        })?;
        let limit = limit.map_or(MAX_SYNC_MESSAGES, |limit| limit as usize);
        Ok::<_, Error>(ToDevice {
            limit: limit.clamp(1, MAX_SYNC_MESSAGES),
            received: Position(received),
        })
    });
    Ok(Extensions {
        to_device: to_device.transpose()?,
        e2ee: body.e2ee.and_then(|e2ee| e2ee.enabled) == Some(true),
        account_data: scope(body.account_data)?,
        receipts: scope(body.receipts)?,
        typing: scope(body.typing)?,
    })
}
