//! Syncing (client-server API, "Syncing").

use std::{borrow::Cow, time::Duration};

use ruma::{
    api::{client::sync::sync_events::v3, error::DeserializationError},
    exports::serde_html_form,
};
use serde::Deserialize;
use smol::stream::StreamExt;

use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Streamed, adapted::drop_argument},
    rooms::{self, timeline::filter::SyncFilter},
    sync::{Request, StateAfter, SyncToken},
    users::{
        self,
        account_data::{ignored_users, invite_permissions},
    },
};

const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// What ruma's type does not read.
#[derive(Debug)]
pub struct Arguments {
    state_after: StateAfter,
    /// A filter as JSON, or the id of one.
    filter: Option<String>,
}

impl Quirk for Arguments {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Query {
            #[serde(default)]
            use_state_after: bool,
            /// matrix-js-sdk knows only the unstable name of MSC4222.
            #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
            use_unstable_state_after: bool,
            filter: Option<String>,
        }
        let query = request.uri().query().unwrap_or_default();
        let query: Query = serde_html_form::from_str(query)?;
        drop_argument(request, "filter")?;
        let state_after = if query.use_state_after {
            StateAfter::Stable
        } else if query.use_unstable_state_after {
            StateAfter::Unstable
        } else {
            StateAfter::No
        };
        Ok(Self {
            state_after,
            filter: query.filter,
        })
    }
}

/// `GET /_matrix/client/v3/sync`
pub async fn sync(
    api: Api,
    session: Session,
    Adapted { request, quirk }: Adapted<v3::Request, Arguments>,
) -> Result<Streamed, Error> {
    let filter = match &quirk.filter {
        None => SyncFilter::default(),
        Some(json) if json.starts_with('{') => {
            let filter: SyncFilter = serde_json::from_str(json)
                .map_err(|error| Error::invalid_param(format!("filter: {error}")))?;
            filter.check_size()?;
            filter
        }
        // NOTSPEC: an unknown id is an invalid argument, as with Synapse.
        Some(id) => match api.users.filter(session.user, id) {
            Err(users::Error::NotFound(reason)) => return Err(Error::invalid_param(reason)),
            filter => filter?,
        },
    };
    let since = request.since.as_deref().map(str::parse::<SyncToken>);
    let since = since.transpose().map_err(rooms::Error::from)?;
    let since = since.filter(|since| !api.notifier.is_before_restore(since.position));
    let received = since.map(|since| (0, since.position));
    let lazy_loaded = (api.lazy_loaded_members).begin((session.device, None), received);
    let sync_request = Request {
        user: session.user,
        user_id: session.user_id,
        device: session.device,
        filter,
        since,
        full_state: request.full_state,
        state_after: quirk.state_after,
        ignored: api.store.read(|s| ignored_users::load(s, session.user))?,
        invites: api
            .store
            .read(|s| invite_permissions::load(s, session.user))?,
        lazy_loaded,
    };
    let timeout = request.timeout.unwrap_or_default().min(MAX_TIMEOUT);
    let handler = api.sync_handler();
    let response = handler.sync(sync_request, &request.set_presence, timeout);
    let response = response.await??;
    Ok(Streamed::new(response.map(|piece| Ok(piece?))))
}
