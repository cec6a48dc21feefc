//! The notification of an event, as a gateway gets it.
//!
//! Source: push gateway API, `POST /_matrix/push/v1/notify`.

use ruma::{
    SecondsSinceUnixEpoch, UInt, UserId,
    api::push_gateway::send_event_notification::v1::{
        Device, Notification, NotificationPriority, PusherData,
    },
    events::TimelineEventType,
    push::{Action, HighlightTweakValue, HttpPusherData, PushFormat, Tweak},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{pending::Pending, room_name};
use crate::{
    protocol::build::EventDraft,
    rooms::{
        Error,
        event::{self, StoredEvent},
        membership::out_of_band,
        room,
        state::{content, current},
        timeline::history_visibility::UserVisibility,
        unread::{notifications::Notifications, notify},
    },
    store::{
        self, Reader, Records, RoomNum, UserNum,
        records::{AccountModeration, MemberRow, Membership, Pusher},
    },
    users::{
        account_data::{ignored_users, invite_permissions},
        accounts, id_of,
        pushers::PusherKey,
    },
};

/// [MSC4076]: the client counts itself, from what it decrypts.
///
/// [MSC4076]: https://github.com/matrix-org/matrix-spec-proposals/pull/4076
const DISABLE_BADGE_COUNT: [&str; 2] = [
    "disable_badge_count",
    "org.matrix.msc4076.disable_badge_count",
];

/// The `data` of a pusher.
pub fn data(key: &PusherKey, pusher: &Pusher) -> Result<HttpPusherData, store::Error> {
    serde_json::from_str(&pusher.data)
        .map_err(|_| store::Error::corrupt("pushers", (key.user, &key.app_id), "not pusher data"))
}

/// Whether notifications of the pusher have no badge.
pub fn has_no_badge(data: &HttpPusherData) -> bool {
    DISABLE_BADGE_COUNT
        .iter()
        .any(|field| data.data.get(*field) == Some(&Value::Bool(true)))
}

/// The body that has the badge alone.
pub fn of_badge(key: &PusherKey, pusher: &Pusher, badge: u32) -> Result<Vec<u8>, Error> {
    let device = device(key, pusher, data(key, pusher)?, Vec::new());
    let mut notification = Notification::new(vec![device]);
    notification.prio = NotificationPriority::Low;
    body(&notification, |notification| {
        // Gateways remove the badge of a phone only if it is here; ruma omits zero.
        notification["counts"] = json!({ "unread": badge });
    })
}

/// The body for `pending`; `None` if the user needs not be notified any more.
pub fn of_event(
    r: &impl Reader,
    key: &PusherKey,
    pusher: &Pusher,
    pending: &Pending,
    badge: Option<u32>,
) -> Result<Option<Vec<u8>>, Error> {
    let user_id = id_of(r, key.user)?;
    let Some((stored, draft, actions)) = evaluated(r, key.user, &user_id, pending)? else {
        return Ok(None);
    };
    let tweaks = tweaks(actions);
    let data = data(key, pusher)?;
    let is_id_only = data.format == Some(PushFormat::EventIdOnly);
    let is_high = draft.event_type == TimelineEventType::RoomEncrypted
        || tweaks.iter().any(is_sound_or_highlight);
    // NOTSPEC: as in Synapse, the short format has no tweaks.
    let sent_tweaks = if is_id_only { Vec::new() } else { tweaks };
    let mut notification = Notification::new(vec![device(key, pusher, data, sent_tweaks)]);
    notification.event_id = Some(stored.id()?);
    notification.room_id = Some(room::id(r, pending.room)?);
    // Source: as in Synapse.
    notification.prio = if is_high {
        NotificationPriority::High
    } else {
        NotificationPriority::Low
    };
    if let Some(badge) = badge {
        notification.counts.unread = badge.into();
    }
    if is_id_only {
        return body(&notification, |_| {}).map(Some);
    }
    notification.event_type = Some(draft.event_type.clone());
    notification.sender_display_name = content::display_name(r, pending.room, &draft.sender)?;
    notification.room_alias = room_name::alias(r, pending.room)?;
    notification.room_name = Some(room_name::of(r, (key.user, &user_id), pending.room)?);
    let is_member = draft.event_type == TimelineEventType::RoomMember;
    notification.user_is_target = is_member && draft.state_key.as_deref() == Some(user_id.as_str());
    notification.sender = Some(draft.sender);
    notification.content = Some(stored.parse::<Content>()?.content);
    let membership = draft.content.get("membership").cloned();
    body(&notification, |notification| {
        // NOTSPEC: Synapse sends it too.
        if let Some(membership) = membership.filter(|_| is_member && draft.state_key.is_some()) {
            notification["membership"] = membership.into();
        }
    })
    .map(Some)
}

#[derive(Deserialize)]
struct Content {
    content: Box<RawValue>,
}

/// The invite `member` and what push rules do with it, if the user is to be notified of it.
pub fn of_invite(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    member: &MemberRow,
) -> Result<Option<(StoredEvent, Vec<Action>)>, Error> {
    let invite = Pending::invite(room, member);
    let evaluated = evaluated(r, user, &id_of(r, user)?, &invite)?;
    Ok(evaluated.map(|(event, _, actions)| (event, actions)))
}

/// The event of `pending` with what push rules see of it and what they do; `None` if the user needs not be
/// notified of it.
fn evaluated(
    r: &impl Reader,
    user: UserNum,
    user_id: &UserId,
    pending: &Pending,
) -> Result<Option<(StoredEvent, EventDraft, Vec<Action>)>, Error> {
    let Some(stored) = unread_event(r, user, user_id, pending)? else {
        return Ok(None);
    };
    let draft = draft(r, user, pending, &stored)?;
    let actions = notify::actions(r, pending.room, &draft, user, user_id)?;
    let actions = match pending.place {
        // Nothing is stored of whether an invite notifies.
        None if !actions.iter().any(Action::should_notify) => return Ok(None),
        None => actions,
        Some(_) => as_stored(actions, pending.highlight),
    };
    Ok(Some((stored, draft, actions)))
}

/// The event of `pending`, if the user is still to be notified of it: not if it was read or redacted, or if the
/// user has left or ignores its sender or the invite.
fn unread_event(
    r: &impl Reader,
    user: UserNum,
    user_id: &UserId,
    pending: &Pending,
) -> Result<Option<StoredEvent>, Error> {
    let Pending { room, place, .. } = *pending;
    let Some(member) = current::local_membership(r, user, room)? else {
        return Ok(None);
    };
    let is_unread = match (member.membership, place) {
        (Membership::Join, Some(place)) => {
            let row = r.timeline()?.load((room, place))?;
            match row.filter(|row| row.event == pending.event) {
                Some(row) => {
                    let notifications = Notifications::new(r, room, user, &member)?;
                    place > member.since && !notifications.is_read(r, place, row.thread)?
                }
                None => false,
            }
        }
        (Membership::Invite, None) => member.event == pending.event,
        _ => false,
    };
    if !is_unread {
        return Ok(None);
    }
    let event = event::load(r, pending.event)?;
    let sender = event.sender()?;
    if event.header.redacted_by.is_some()
        || sender == user_id
        || ignored_users::load(r, user)?.contains(&sender)
        || place.is_none() && invite_permissions::load(r, user)?.ignores(&sender)
    {
        return Ok(None);
    }
    match place {
        Some(_) => UserVisibility::new(r, room, user_id)?.visible(r, event),
        None => Ok(Some(event)),
    }
}

/// What push rules see of the event.
fn draft(
    r: &impl Reader,
    user: UserNum,
    pending: &Pending,
    stored: &StoredEvent,
) -> Result<EventDraft, Error> {
    let outside = match pending.place {
        Some(_) => None,
        None => out_of_band::load(r, user, pending.room)?,
    };
    let pdu = match outside {
        Some(row) => out_of_band::load_event(r, user, pending.room, &row)?.0,
        None => stored.pdu(room::rules(r, pending.room)?)?,
    };
    Ok(EventDraft::from_pdu(&pdu)?)
}

/// `actions`, unless what was stored of an event says otherwise. The rules, or what they see of the room, may
/// have changed since it was stored; that it notifies stays.
pub fn as_stored(actions: Vec<Action>, highlight: bool) -> Vec<Action> {
    let notifies = actions.iter().any(Action::should_notify);
    let highlights = actions.iter().any(Action::is_highlight);
    if notifies && highlights == highlight {
        return actions;
    }
    let highlight =
        highlight.then_some(Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)));
    [Action::Notify].into_iter().chain(highlight).collect()
}

fn tweaks(actions: Vec<Action>) -> Vec<Tweak> {
    let tweaks = actions.into_iter().filter_map(|action| match action {
        Action::SetTweak(tweak) => Some(tweak),
        _ => None,
    });
    tweaks.collect()
}

fn is_sound_or_highlight(tweak: &Tweak) -> bool {
    matches!(
        tweak,
        Tweak::Sound(_) | Tweak::Highlight(HighlightTweakValue::Yes)
    )
}

fn device(key: &PusherKey, pusher: &Pusher, data: HttpPusherData, tweaks: Vec<Tweak>) -> Device {
    let mut device = Device::new(key.app_id.clone(), key.pushkey.clone());
    let seconds = UInt::new_saturating(pusher.set_ts / 1000);
    device.pushkey_ts = Some(SecondsSinceUnixEpoch(seconds));
    device.data = PusherData::from(data);
    device.tweaks = tweaks;
    device
}

fn body(notification: &Notification, edit: impl FnOnce(&mut Value)) -> Result<Vec<u8>, Error> {
    let unserializable = |_| Error::not_serializable("a notification");
    let mut notification = serde_json::to_value(notification).map_err(unserializable)?;
    edit(&mut notification);
    serde_json::to_vec(&json!({ "notification": notification })).map_err(unserializable)
}

/// Whether the account of `user` is notified of anything: not while an administrator has restricted it.
pub fn is_notified(r: &impl Reader, user: UserNum) -> Result<bool, Error> {
    let is_restricted = accounts::moderation(r, user)? != AccountModeration::default();
    Ok(!is_restricted && !accounts::is_deactivated(r, user)?)
}
