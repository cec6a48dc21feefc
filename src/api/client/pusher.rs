//! Pushers, and what was or would have been pushed (client-server API, "Push Notifications").

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::push::{
        Pusher as ClientPusher, PusherIds, PusherInit, PusherKind, get_notifications, get_pushers,
        set_pusher::{
            self,
            v3::{PusherAction, PusherPostData},
        },
    },
    push::HttpPusherData,
    serde::Raw,
};

use crate::{
    api::{Adapted, Api, AsSent, Error, Session},
    push::{self, ListedNotification, ListingRequest},
    store::{Position, UserNum, records::Pusher},
    users::pushers::PusherKey,
};

/// How many notifications a response has.
const DEFAULT_NOTIFICATIONS: u32 = 20;
const MAX_NOTIFICATIONS: u32 = 100;

/// `GET /_matrix/client/v3/pushers`
pub async fn get_pushers(
    api: Api,
    session: Session,
    _request: get_pushers::v3::Request,
) -> Result<get_pushers::v3::Response, Error> {
    let pushers = api.users.pushers(session.user)?;
    // One that cannot be read must not hide the others.
    let pushers = pushers.into_iter().filter_map(|(key, pusher)| {
        let data: HttpPusherData = serde_json::from_str(&pusher.data).ok()?;
        let pusher = PusherInit {
            ids: PusherIds::new(key.pushkey, key.app_id),
            kind: PusherKind::Http(data),
            app_display_name: pusher.app_display_name,
            device_display_name: pusher.device_display_name,
            profile_tag: pusher.profile_tag,
            lang: pusher.lang,
        };
        Some(ClientPusher::from(pusher))
    });
    Ok(get_pushers::v3::Response::new(pushers.collect()))
}

/// `POST /_matrix/client/v3/pushers/set`
pub async fn set_pusher(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: AsSent(fields),
    }: Adapted<set_pusher::v3::Request, AsSent>,
) -> Result<set_pusher::v3::Response, Error> {
    // To ruma, it is null: that would delete a pusher.
    if !fields.contains_key("kind") {
        return Err(Error::missing_param("`kind` is missing"));
    }
    match request.action {
        PusherAction::Post(PusherPostData { pusher, append, .. }) => {
            set(&api, &session, pusher, append).await?;
        }
        PusherAction::Delete(ids) => {
            api.users.remove_pusher(key(session.user, ids)).await?;
        }
        _ => return Err(Error::unrecognized("`kind` is not known")),
    }
    Ok(set_pusher::v3::Response::new())
}

async fn set(
    api: &Api,
    session: &Session,
    pusher: ClientPusher,
    append: bool,
) -> Result<(), Error> {
    let data = match pusher.kind {
        PusherKind::Http(data) => data,
        PusherKind::Email(_) => {
            return Err(Error::invalid_param(
                "`kind`: this server sends no e-mail, so it has no pushers of this kind",
            ));
        }
        _ => return Err(Error::invalid_param("`kind`: expected \"http\" or null")),
    };
    let url = api.push.check_url(&data.url);
    url.map_err(|error| Error::invalid_param(error.to_string()))?;
    let data = serde_json::to_string(&data);
    let data = data.map_err(|_| Error::invalid_param("`data` is not an object of pusher data"))?;
    let stored = Pusher {
        device: session.device,
        app_display_name: pusher.app_display_name,
        device_display_name: pusher.device_display_name,
        profile_tag: pusher.profile_tag,
        lang: pusher.lang,
        data,
        set_ts: api.clock.now_ms(),
    };
    let key = key(session.user, pusher.ids);
    Ok(api.users.set_pusher(key, stored, append).await?)
}

fn key(user: UserNum, ids: PusherIds) -> PusherKey {
    PusherKey {
        user,
        app_id: ids.app_id,
        pushkey: ids.pushkey,
    }
}

/// `GET /_matrix/client/v3/notifications`
pub async fn get_notifications(
    api: Api,
    session: Session,
    request: get_notifications::v3::Request,
) -> Result<get_notifications::v3::Response, Error> {
    let before = match &request.from {
        None => Position::MAX,
        Some(from) => Position(from.parse().map_err(|_| {
            Error::invalid_param("`from` must be a `next_token` of an earlier response")
        })?),
    };
    let limit = request
        .limit
        .unwrap_or_else(|| UInt::from(DEFAULT_NOTIFICATIONS));
    let limit = limit.clamp(UInt::from(1u32), UInt::from(MAX_NOTIFICATIONS));
    let request = ListingRequest {
        user: session.user,
        user_id: session.user_id,
        device: session.device,
        before,
        limit: usize::try_from(limit).unwrap_or_default(),
        only_highlights: request.only.as_deref() == Some("highlight"),
        now_ms: api.clock.now_ms(),
    };
    let scan = api
        .store
        .scan("notifications", move |s| push::list(s, &request));
    let listing = scan.await?;
    let notifications = listing.notifications.into_iter().map(client_notification);
    let mut response = get_notifications::v3::Response::new(notifications.collect());
    response.next_token = listing.next.map(|next| next.0.to_string());
    Ok(response)
}

fn client_notification(listed: ListedNotification) -> get_notifications::v3::Notification {
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(listed.ts));
    let event = Raw::from_json(listed.event);
    get_notifications::v3::Notification::new(
        listed.actions,
        event,
        listed.is_read,
        listed.room_id,
        ts,
    )
}
