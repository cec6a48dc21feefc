//! Which relations a local user may send.

use ruma::{OwnedEventId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rows::{Kind, Parent};
use crate::{
    protocol::{build::EventDraft, relation::Relation},
    rooms::{Error, event},
    store::{Reader, RoomNum},
    users,
};

/// How many annotations of an event, the newest first, are compared with a new one. NOTSPEC: a
/// duplicate of an older one is not noticed.
const MAX_COMPARED_ANNOTATIONS: usize = 500;
/// NOTSPEC: as in Synapse.
const MAX_KEY_CHARS: usize = 500;

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: TimelineEventType,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: Keyed,
}

#[derive(Deserialize)]
struct Keyed {
    key: String,
}

/// Checks the relation of an event that a local user sends.
///
/// # Errors
/// [`Error::DuplicateAnnotation`] of a second annotation by the same user with the same type and key;
/// [`Error::NestedThread`] of a thread on an event that has a relation itself; [`Error::Invalid`] of an
/// annotation without a key, and if the parent is in another room or unknown. Source: client-server
/// API, "Avoiding duplicate annotations", "Validation of `m.thread` relationships"; NOTSPEC: the last
/// as in Synapse.
pub fn check(r: &impl Reader, room: RoomNum, draft: &EventDraft) -> Result<(), Error> {
    let content = serde_json::value::to_raw_value(&draft.content)
        .map_err(|_| Error::not_serializable("a content"))?;
    let Some(relation) = Relation::of(&content) else {
        return Ok(());
    };
    check_parent(r, room, &relation.event_id)?;
    match Kind::of(&relation.rel_type) {
        Kind::Annotation => check_annotation(r, room, draft, &relation.event_id, &content),
        Kind::Thread => check_thread(r, room, &relation.event_id),
        Kind::Reference | Kind::Replacement | Kind::Other => Ok(()),
    }
}

/// An event that is not here may be known to the client by its other children.
fn check_parent(r: &impl Reader, room: RoomNum, id: &OwnedEventId) -> Result<(), Error> {
    if event::num_in(r, room, id)?.is_some() {
        return Ok(());
    }
    let parent = Parent {
        room,
        id: id.as_str(),
    };
    // The error does not tell whether it is here, in another room.
    match event::num_of(r, id)?.is_none() && parent.has_children(r)? {
        true => Ok(()),
        false => Err(Error::invalid(
            "the related event is not known in this room",
        )),
    }
}

fn check_annotation(
    r: &impl Reader,
    room: RoomNum,
    draft: &EventDraft,
    parent: &OwnedEventId,
    content: &RawValue,
) -> Result<(), Error> {
    let Ok(Content { relates_to }) = serde_json::from_str::<Content>(content.get()) else {
        return Err(Error::invalid("an annotation needs a key"));
    };
    if relates_to.key.chars().count() > MAX_KEY_CHARS {
        return Err(Error::invalid("the key of an annotation is too long"));
    }
    let Some(sender) = users::num_of(r, &draft.sender)? else {
        return Ok(());
    };
    let parent = Parent {
        room,
        id: parent.as_str(),
    };
    let others = parent.newest(r, Kind::Annotation, .., MAX_COMPARED_ANNOTATIONS)?;
    for other in others.iter().filter(|other| other.sender == sender) {
        let Ok(other) = event::load(r, other.event)?.parse::<Event>() else {
            continue;
        };
        if other.kind == draft.event_type && other.content.relates_to.key == relates_to.key {
            return Err(Error::DuplicateAnnotation);
        }
    }
    Ok(())
}

fn check_thread(r: &impl Reader, room: RoomNum, root: &OwnedEventId) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Root {
        content: Box<RawValue>,
    }
    let Some(root) = event::num_in(r, room, root)? else {
        return Ok(());
    };
    let root = event::load(r, root)?.parse::<Root>()?;
    match Relation::of(&root.content) {
        Some(_) => Err(Error::NestedThread),
        None => Ok(()),
    }
}
