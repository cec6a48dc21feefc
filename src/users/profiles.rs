//! Profiles (client-server API, "Profiles").

use ruma::{
    OwnedMxcUri,
    profile::{ProfileFieldName, ProfileFieldValue, UserProfile},
};

use super::{Error, Users};
use crate::{
    media::references,
    store::{self, Reader, Rows, Tx, UserNum},
};

const DISPLAY_NAME: &str = "displayname";
const AVATAR_URL: &str = "avatar_url";

/// Of a profile as one JSON object.
const MAX_PROFILE_BYTES: usize = 64 * 1024;
const MAX_FIELD_NAME_BYTES: usize = 255;
/// Every membership event has it.
const MAX_DISPLAY_NAME_CHARS: usize = 256;
const MAX_AVATAR_URL_BYTES: usize = 1000;

/// A checked change of one field.
#[derive(Clone, Debug)]
pub struct Change {
    field: String,
    /// JSON; `None` removes the field.
    value: Option<String>,
}

impl Change {
    /// NOTSPEC: an empty display name or avatar removes it, as in other servers: older clients know no other
    /// way.
    ///
    /// # Errors
    /// [`Error::KeyTooLarge`], [`Error::InvalidParam`] or [`Error::ProfileTooLarge`].
    pub fn set(value: &ProfileFieldValue) -> Result<Self, Error> {
        let field = value.field_name();
        check_field(&field)?;
        let empty = match value {
            ProfileFieldValue::DisplayName(name) => {
                if name.chars().count() > MAX_DISPLAY_NAME_CHARS {
                    return Err(Error::InvalidParam(
                        "a display name has at most 256 characters",
                    ));
                }
                name.is_empty()
            }
            ProfileFieldValue::AvatarUrl(uri) => {
                check_avatar(uri)?;
                uri.as_str().is_empty()
            }
            _ => false,
        };
        let json = value.value().to_string();
        if json.len() > MAX_PROFILE_BYTES {
            return Err(Error::ProfileTooLarge);
        }
        Ok(Self {
            field: field.as_str().to_owned(),
            value: (!empty).then_some(json),
        })
    }

    /// # Errors
    /// [`Error::KeyTooLarge`] or [`Error::InvalidParam`].
    pub fn remove(field: &ProfileFieldName) -> Result<Self, Error> {
        check_field(field)?;
        Ok(Self {
            field: field.as_str().to_owned(),
            value: None,
        })
    }
}

/// The pattern of `PUT /profile/{userId}/{keyName}`: a field of the specification, or lowercase words joined
/// by dots.
fn check_field(field: &ProfileFieldName) -> Result<(), Error> {
    let name = field.as_str();
    if name.len() > MAX_FIELD_NAME_BYTES {
        return Err(Error::KeyTooLarge);
    }
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if [DISPLAY_NAME, AVATAR_URL].contains(&name)
        || (name.contains('.') && name.split('.').all(is_word))
    {
        return Ok(());
    }
    Err(Error::InvalidParam(
        "the name of a profile field is `displayname`, `avatar_url`, or lowercase words joined by dots",
    ))
}

fn check_avatar(uri: &OwnedMxcUri) -> Result<(), Error> {
    if uri.as_str().len() > MAX_AVATAR_URL_BYTES || !(uri.as_str().is_empty() || uri.is_valid()) {
        return Err(Error::InvalidParam(
            "`avatar_url` is an mxc:// URI of at most 1000 bytes",
        ));
    }
    Ok(())
}

/// Empty for a user without a profile.
pub fn load(reader: &impl Reader, user: UserNum) -> Result<UserProfile, store::Error> {
    let mut profile = UserProfile::new();
    for row in reader.profiles()?.prefix(user)? {
        let (key, value) = row?;
        let field = key.value().1;
        let value = serde_json::from_str(value.value()).map_err(|_| not_json(user, field))?;
        profile.set(field.to_owned(), value);
    }
    Ok(profile)
}

/// The part of the profile that membership events have.
pub fn member_profile(reader: &impl Reader, user: UserNum) -> Result<MemberProfile, store::Error> {
    let profiles = reader.profiles()?;
    let text = |field: &str| -> Result<Option<String>, store::Error> {
        let row = profiles.get((user, field))?;
        let text = row.map(|row| serde_json::from_str(row.value()));
        text.transpose().map_err(|_| not_json(user, field))
    };
    Ok(MemberProfile {
        display_name: text(DISPLAY_NAME)?,
        avatar_url: text(AVATAR_URL)?.map(OwnedMxcUri::from),
    })
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberProfile {
    pub display_name: Option<String>,
    pub avatar_url: Option<OwnedMxcUri>,
}

fn not_json(user: UserNum, field: &str) -> store::Error {
    store::Error::corrupt("profiles", (user, field), "not JSON")
}

/// Applies `change`. Returns whether the [`MemberProfile`] has changed: then the caller updates the user's
/// membership events.
///
/// # Errors
/// [`Error::ProfileTooLarge`].
pub fn apply(tx: &Tx, user: UserNum, change: &Change) -> Result<bool, Error> {
    let key = (user, change.field.as_str());
    let before = tx.profiles()?.get(key)?.map(|row| row.value().to_owned());
    if before == change.value {
        return Ok(false);
    }
    match &change.value {
        Some(value) => {
            let others = size_without(tx, user, &change.field)?;
            if others + field_size(&change.field, value) > MAX_PROFILE_BYTES {
                return Err(Error::ProfileTooLarge);
            }
            references::add(tx, value)?;
            tx.profiles()?.insert(key, value.as_str())?;
        }
        None => {
            tx.profiles()?.remove(key)?;
        }
    }
    if let Some(before) = before {
        references::remove(tx, &before)?;
    }
    Ok([DISPLAY_NAME, AVATAR_URL].contains(&&*change.field))
}

/// The size of the profile as a JSON object, without the field `without`.
fn size_without(tx: &Tx, user: UserNum, without: &str) -> Result<usize, store::Error> {
    let mut size = "{}".len();
    for row in tx.profiles()?.prefix(user)? {
        let (key, value) = row?;
        let (_, field) = key.value();
        if field != without {
            size += field_size(field, value.value()) + ",".len();
        }
    }
    Ok(size)
}

/// The name of a field needs no escapes.
fn field_size(field: &str, value: &str) -> usize {
    "\"\":".len() + field.len() + value.len()
}

pub(super) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    for row in tx.profiles()?.prefix(user)? {
        references::remove(tx, row?.1.value())?;
    }
    tx.profiles()?.remove_prefix(user)
}

impl Users {
    /// # Errors
    /// [`Error::NotFound`] if there is no such account on this server.
    pub fn profile(&self, user_id: &ruma::UserId) -> Result<UserProfile, Error> {
        let (user, _) = self
            .account(user_id)?
            .ok_or(Error::NotFound("there is no such user"))?;
        Ok(self.store.read(|s| load(s, user))?)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        profile::ProfileFieldValue::{AvatarUrl, DisplayName},
        user_id,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::users::testing::{Server, with_server};

    fn set(field: &str, value: Value) -> Result<Change, Error> {
        Change::set(&ProfileFieldValue::new(field, value).unwrap())
    }

    async fn alice(server: &Server) -> UserNum {
        let login = server.register("alice").await;
        server.session(&login).await.user
    }

    #[test]
    fn a_profile_is_what_was_set_and_not_removed() {
        with_server(async |server| {
            let user = alice(&server).await;
            for change in [
                set("displayname", json!("Alice")),
                set("avatar_url", json!("mxc://example.org/abc")),
                set("m.tz", json!("Europe/Berlin")),
                set("org.example.job", json!({"title": null, "since": 3})),
                set("org.example.gone", json!(1)),
                Change::remove(&"org.example.gone".into()),
                Change::remove(&"org.example.never".into()),
            ] {
                server.change_profile(user, change.unwrap()).await.unwrap();
            }
            let profile = server
                .users
                .profile(user_id!("@alice:example.org"))
                .unwrap();
            assert_eq!(
                serde_json::to_value(profile).unwrap(),
                json!({
                    "displayname": "Alice",
                    "avatar_url": "mxc://example.org/abc",
                    "m.tz": "Europe/Berlin",
                    "org.example.job": {"title": null, "since": 3},
                })
            );
            assert_eq!(
                server.store.read(|s| member_profile(s, user)).unwrap(),
                MemberProfile {
                    display_name: Some("Alice".into()),
                    avatar_url: Some("mxc://example.org/abc".into()),
                }
            );
        });
    }

    #[test]
    fn an_empty_display_name_or_avatar_removes_it() {
        with_server(async |server| {
            let user = alice(&server).await;
            for (field, value) in [("displayname", "Alice"), ("avatar_url", "mxc://a.b/c")] {
                for value in [value, ""] {
                    let change = set(field, json!(value)).unwrap();
                    server.change_profile(user, change).await.unwrap();
                }
            }
            assert_eq!(
                server.store.read(|s| member_profile(s, user)).unwrap(),
                MemberProfile::default()
            );
        });
    }

    #[test]
    fn only_display_name_and_avatar_change_the_member_profile() {
        with_server(async |server| {
            let user = alice(&server).await;
            for (change, is_changed) in [
                (set("displayname", json!("Alice")), true),
                (set("displayname", json!("Alice")), false),
                (set("avatar_url", json!("mxc://a.b/c")), true),
                (set("m.tz", json!("Europe/Berlin")), false),
                (Change::remove(&"displayname".into()), true),
                (Change::remove(&"displayname".into()), false),
            ] {
                let change = server.change_profile(user, change.unwrap());
                assert_eq!(change.await.unwrap(), is_changed);
            }
        });
    }

    #[test]
    fn a_profile_has_at_most_64_kib() {
        with_server(async |server| {
            let user = alice(&server).await;
            let overhead = r#"{"displayname":"alice","org.example.a":"","org.example.b":""}"#.len();
            let half = 30 * 1024;
            let rest = 64 * 1024 - overhead - half;
            let a = set("org.example.a", json!("x".repeat(half))).unwrap();
            server.change_profile(user, a).await.unwrap();
            let b = set("org.example.b", json!("x".repeat(rest + 1))).unwrap();
            assert!(matches!(
                server.change_profile(user, b).await,
                Err(Error::ProfileTooLarge)
            ));
            // Replacing a field counts it once.
            for length in [rest - 1, rest] {
                let b = set("org.example.b", json!("x".repeat(length))).unwrap();
                server.change_profile(user, b).await.unwrap();
            }
        });
    }

    #[test]
    fn field_names_are_checked_against_the_grammar() {
        for good in ["displayname", "m.tz", "org.example.a_1", "a.b"] {
            assert!(Change::remove(&good.into()).is_ok(), "{good}");
        }
        let long = format!("a.{}", "b".repeat(254));
        assert!(matches!(
            Change::remove(&long.as_str().into()),
            Err(Error::KeyTooLarge)
        ));
        assert!(Change::remove(&long[..255].into()).is_ok());
        for bad in [
            "", "tz", "a..b", ".a.b", "a.b.", "A.b", "a.1b", "a.b-c", "a.ä",
        ] {
            assert!(
                matches!(Change::remove(&bad.into()), Err(Error::InvalidParam(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn display_names_and_avatars_have_their_own_limits() {
        assert!(Change::set(&DisplayName("ä".repeat(256))).is_ok());
        assert!(Change::set(&DisplayName("ä".repeat(257))).is_err());
        assert!(Change::set(&AvatarUrl("https://example.org/a".into())).is_err());
        let long = format!("mxc://example.org/{}", "a".repeat(1000));
        assert!(Change::set(&AvatarUrl(long.into())).is_err());
    }
}
