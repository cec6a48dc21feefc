//! What an app would show, as JSON.

use matrix_sdk_ui::{
    notification_client::RawNotificationEvent,
    room_list_service::RoomListItem,
    timeline::{TimelineItem, TimelineItemContent},
};
use serde_json::{Value, json};

use crate::Result;

pub fn room(room: &RoomListItem) -> Value {
    let counts = room.unread_notification_counts();
    json!({
        "id": room.room_id(),
        "name": room.cached_display_name().map(|name| name.to_string()),
        "state": format!("{:?}", room.state()),
        "unread": counts.notification_count,
        "highlights": counts.highlight_count,
        "own_unread": room.num_unread_notifications(),
        "own_highlights": room.num_unread_mentions(),
        "is_favourite": room.is_favourite(),
        "is_dm": room.is_dm(),
        "is_encrypted": room.encryption_state().is_encrypted(),
    })
}

/// `None` for what is no event, such as a date.
pub fn item(item: &TimelineItem) -> Option<Value> {
    let event = item.as_event()?;
    let content = event.content();
    let reactions = content.reactions().map(|by_key| {
        let by_key = by_key.iter().map(|(key, by_sender)| {
            let senders = by_sender.keys().map(|sender| Value::from(sender.as_str()));
            (key.clone(), senders.collect::<Value>())
        });
        by_key.collect::<serde_json::Map<_, _>>()
    });
    let kind = match content {
        TimelineItemContent::MsgLike(_) if content.is_redacted() => "redacted",
        TimelineItemContent::MsgLike(_) if content.is_unable_to_decrypt() => "undecryptable",
        TimelineItemContent::MsgLike(_) => "message",
        _ => "other",
    };
    Some(json!({
        "id": event.event_id(),
        "kind": kind,
        "sender": event.sender(),
        "is_local": event.is_local_echo(),
        "body": content.as_message().map(|message| message.body().to_owned()),
        "is_edited": content.as_message().is_some_and(|message| message.is_edited()),
        "is_encrypted": event.encryption_info().is_some(),
        "reactions": reactions.unwrap_or_default(),
        "thread_root": content.thread_root(),
        "replies": content.thread_summary().map(|summary| summary.num_replies),
        "read_by": event.read_receipts().keys().collect::<Vec<_>>(),
    }))
}

pub fn raw(event: &RawNotificationEvent) -> Result {
    let json = match event {
        RawNotificationEvent::Timeline(event) => event.json(),
        RawNotificationEvent::Invite(event) => event.json(),
    };
    Ok(serde_json::from_str(json.get())?)
}
