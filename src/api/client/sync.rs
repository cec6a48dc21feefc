//! Syncing (client-server API, "Syncing").

use std::{borrow::Cow, time::Duration};

use ruma::api::{
    client::{
        filter::FilterDefinition,
        sync::sync_events::v3::{self, Filter},
    },
    error::DeserializationError,
};
use smol::stream::StreamExt;

use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Streamed},
    rooms::{self, timeline::filter::check_definition},
    sync::{Request, StateAfter, SyncToken},
    users::{
        self,
        account_data::{ignored_users, invite_permissions},
    },
};

const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// matrix-js-sdk knows only the unstable name of MSC4222.
impl Quirk for StateAfter {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let is_unstable = pairs.any(|pair| pair == "org.matrix.msc4222.use_state_after=true");
        Ok(if is_unstable {
            Self::Unstable
        } else {
            Self::No
        })
    }
}

/// `GET /_matrix/client/v3/sync`
pub async fn sync(
    api: Api,
    session: Session,
    Adapted { request, quirk }: Adapted<v3::Request, StateAfter>,
) -> Result<Streamed, Error> {
    let filter = match request.filter {
        None => FilterDefinition::default(),
        Some(Filter::FilterDefinition(filter)) => {
            check_definition(&filter)?;
            filter
        }
        // ruma takes what does not parse as a filter for an id.
        Some(Filter::FilterId(id)) if id.starts_with('{') => {
            return Err(Error::invalid_param("filter: this is not a filter"));
        }
        // NOTSPEC: an unknown id is an invalid argument, as with Synapse.
        Some(Filter::FilterId(id)) => match api.users.filter(session.user, &id) {
            Err(users::Error::NotFound(reason)) => return Err(Error::invalid_param(reason)),
            filter => filter?,
        },
        Some(_) => {
            return Err(Error::invalid_param(
                "filter must be a filter as JSON, or the id of one",
            ));
        }
    };
    let since = request.since.as_deref().map(str::parse::<SyncToken>);
    let since = since.transpose().map_err(rooms::Error::from)?;
    let received = since.map(|since| (0, since.position));
    let lazy_loaded = (api.lazy_loaded_members).begin((session.device, None), received);
    let sync_request = Request {
        user: session.user,
        user_id: session.user_id,
        device: session.device,
        filter,
        since,
        full_state: request.full_state,
        state_after: if request.use_state_after {
            StateAfter::Stable
        } else {
            quirk
        },
        ignored: api.store.read(|s| ignored_users::load(s, session.user))?,
        invites: api
            .store
            .read(|s| invite_permissions::load(s, session.user))?,
        lazy_loaded,
    };
    let timeout = request.timeout.unwrap_or_default().min(MAX_TIMEOUT);
    let handler = api.sync_handler();
    let response = handler.sync(sync_request, &request.set_presence, timeout);
    let response = response.await?.ok_or_else(|| Error::unknown_token(false))?;
    Ok(Streamed::new(response.map(|piece| Ok(piece?))))
}
