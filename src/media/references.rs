//! What refers to the uploads of this server: the contents of events that are not redacted, profiles and account
//! data. So a redaction removes only media that nothing else refers to.
//!
//! Who stores such a content calls [`add`], who redacts, replaces or removes it calls [`remove`] with the same
//! content. An encrypted content hides what it refers to.

use std::{borrow::Cow, collections::BTreeSet};

use super::rows;
use crate::store::{self, Reader, Records, Rows, Tx};

const SCHEME: &str = "mxc://";

/// Counts the uploads that a content refers to. `json` is that content.
pub fn add(tx: &Tx, json: &str) -> Result<(), store::Error> {
    for id in own_media_ids(tx, json)? {
        if is_upload(tx, &id)? {
            let count = count(tx, &id)?;
            tx.media_references()?.insert(&*id, count + 1)?;
        }
    }
    Ok(())
}

/// Undoes [`add`] of the same content.
pub fn remove(tx: &Tx, json: &str) -> Result<(), store::Error> {
    for id in own_media_ids(tx, json)? {
        match count(tx, &id)? {
            0 => {}
            1 => drop(tx.media_references()?.remove(&*id)?),
            count => tx.media_references()?.insert(&*id, count - 1)?,
        }
    }
    Ok(())
}

/// How many contents refer to the upload `id`.
pub(super) fn count(r: &impl Reader, id: &str) -> Result<u64, store::Error> {
    Ok(r.media_references()?.get(id)?.map_or(0, |row| row.value()))
}

/// Whether `id` is that of an upload, or was created for one. Ids are random: no content refers to one before.
fn is_upload(r: &impl Reader, id: &str) -> Result<bool, store::Error> {
    let media = r.media()?.load((rows::OWN, id))?;
    Ok(media.is_some_and(|media| media.uploader.is_some()) || r.pending_media()?.has(id)?)
}

fn own_media_ids(r: &impl Reader, json: &str) -> Result<BTreeSet<String>, store::Error> {
    // Account data are stored as the client wrote them, and some escape slashes.
    let json = if json.contains(r"\/") {
        Cow::Owned(json.replace(r"\/", "/"))
    } else {
        Cow::Borrowed(json)
    };
    if !json.contains(SCHEME) {
        return Ok(BTreeSet::new());
    }
    let facts = r.facts()?;
    let own = facts.get("server_name")?;
    Ok(own.map_or_else(BTreeSet::new, |own| media_ids(&json, own.value())))
}

/// The media ids in all `mxc://` URIs of `server` that are anywhere in `text`.
fn media_ids(text: &str, server: &str) -> BTreeSet<String> {
    let prefix = format!("{SCHEME}{server}/");
    let is_of_id = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let id_at = |(at, _): (usize, &str)| {
        let rest = &text[at + prefix.len()..];
        let id = rest.split(|c| !is_of_id(c)).next()?;
        (!id.is_empty()).then(|| id.to_owned())
    };
    text.match_indices(&prefix).filter_map(id_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_found_in_fields_and_within_texts() {
        let json = r#"{"url":"mxc://a.example/one","b":["mxc://b.example/no","mxc://a.example/one"],
            "formatted_body":"<img src=\"mxc://a.example/two_2-\"> mxc://a.example/","
            mxc://a.example.org/no":"mxc://a.example:80/no mxc://a.example/three/four"}"#;
        let ids = media_ids(json, "a.example");
        assert_eq!(ids.iter().collect::<Vec<_>>(), ["one", "three", "two_2-"]);
    }
}
