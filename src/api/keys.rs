//! Keys of local users, for clients and for other servers.

use ruma::{CanonicalJsonObject, OwnedDeviceId, serde::Raw};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Error;
use crate::{
    store::{PIECE_BYTES, Pieces, Snapshot, UserNum},
    users::keys::cross_signing::{self, Usage},
};

/// The most users, devices or keys of one request.
pub(super) const MAX_KEYS: usize = 10_000;

pub(super) fn raw<T>(key: &CanonicalJsonObject) -> Result<Raw<T>, Error> {
    to_raw_value(key)
        .map(Raw::from_json)
        .map_err(|_| Error::Internal("a key that does not serialize"))
}

/// JSON that is written as it is.
pub(super) fn raw_value(value: &impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(value).map_err(|_| Error::Internal("a key that does not serialize"))
}

pub(super) fn is_wanted(wanted: &[OwnedDeviceId], device_id: &OwnedDeviceId) -> bool {
    wanted.is_empty() || wanted.contains(device_id)
}

/// A field of the response to `keys/query`: an object with an entry for each user, or server, that has some. NOTSPEC:
/// an empty one is sent too, as by Synapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryField {
    DeviceKeys,
    MasterKeys,
    SelfSigningKeys,
    UserSigningKeys,
    Failures,
}

impl QueryField {
    fn name(self) -> &'static str {
        match self {
            Self::DeviceKeys => "device_keys",
            Self::MasterKeys => "master_keys",
            Self::SelfSigningKeys => "self_signing_keys",
            Self::UserSigningKeys => "user_signing_keys",
            Self::Failures => "failures",
        }
    }
}

/// Where the entries of the response to `keys/query` come from.
pub(super) trait QuerySource: Send + 'static {
    const FIELDS: &'static [QueryField];

    /// How many users or servers may have an entry.
    fn count(&self, field: QueryField) -> usize;

    /// The entry of one of them, whose name is its key.
    fn entry(
        &mut self,
        s: &Snapshot,
        field: QueryField,
        index: usize,
    ) -> Result<Option<(String, Box<RawValue>)>, Error>;
}

/// What has not been written yet of a response to `keys/query`. A user has many kilobytes of keys, and a request
/// names thousands, so they are read one by one.
pub(super) struct UnwrittenKeys<S> {
    source: S,
    field: usize,
    index: usize,
    /// Whether the field has an entry already.
    has_entry: bool,
}

impl<S: QuerySource> UnwrittenKeys<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            source,
            field: 0,
            index: 0,
            has_entry: false,
        }
    }

    fn write_entry(
        &mut self,
        s: &Snapshot,
        field: QueryField,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.index == 0 {
            let separator = if self.field == 0 { '{' } else { ',' };
            out.extend(format!(r#"{separator}"{}":{{"#, field.name()).bytes());
        }
        if self.index < self.source.count(field) {
            if let Some((name, json)) = self.source.entry(s, field, self.index)? {
                if self.has_entry {
                    out.push(b',');
                }
                self.has_entry = true;
                // Names may hold characters that JSON escapes.
                out.extend(format!("{}:", raw_value(&name)?).bytes());
                out.extend(json.get().bytes());
            }
            self.index += 1;
            return Ok(());
        }
        out.push(b'}');
        (self.field, self.index, self.has_entry) = (self.field + 1, 0, false);
        if self.is_complete() {
            out.push(b'}');
        }
        Ok(())
    }
}

impl<S: QuerySource> Pieces for UnwrittenKeys<S> {
    type Error = Error;
    const NAME: &'static str = "keys";

    fn is_complete(&self) -> bool {
        self.field == S::FIELDS.len()
    }

    fn next_piece(&mut self, s: &Snapshot) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        while out.len() < PIECE_BYTES
            && let Some(field) = S::FIELDS.get(self.field)
        {
            self.write_entry(s, *field, &mut out)?;
        }
        Ok(out)
    }
}

/// The cross-signing key of a local user for `usage`.
pub(super) fn signing_key(
    s: &Snapshot,
    user: UserNum,
    usage: Usage,
) -> Result<Option<Box<RawValue>>, Error> {
    let key = cross_signing::load(s, user, usage)?;
    key.map(|key| raw_value(&key)).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::RawValue};

    use super::{QueryField, QuerySource, UnwrittenKeys, raw_value};
    use crate::{
        api::Error,
        rooms::tests::with_store,
        store::{PIECE_BYTES, Pieces, Snapshot},
    };

    const USERS: usize = 100;
    const KEYS_BYTES: usize = 30_000;

    /// Every second user has devices, two have a master key, and nobody has another key.
    struct Users;

    impl QuerySource for Users {
        const FIELDS: &'static [QueryField] = &[
            QueryField::DeviceKeys,
            QueryField::MasterKeys,
            QueryField::SelfSigningKeys,
        ];

        fn count(&self, _field: QueryField) -> usize {
            USERS
        }

        fn entry(
            &mut self,
            _: &Snapshot,
            field: QueryField,
            index: usize,
        ) -> Result<Option<(String, Box<RawValue>)>, Error> {
            let json = match field {
                QueryField::DeviceKeys if index % 2 == 1 => keys(),
                QueryField::MasterKeys if index > USERS - 3 => json!(index),
                _ => return Ok(None),
            };
            Ok(Some((name(index), raw_value(&json)?)))
        }
    }

    fn name(index: usize) -> String {
        format!("@\"{index}:localhost")
    }

    fn keys() -> Value {
        json!({ "DEVICE": "k".repeat(KEYS_BYTES) })
    }

    #[test]
    fn keys_of_many_users_are_written_in_pieces_and_fields_without_keys_are_empty() {
        let (pieces, largest, response) = with_store(async |store| {
            let (mut unwritten, mut pieces) = (UnwrittenKeys::new(Users), Vec::new());
            while !unwritten.is_complete() {
                let piece = store.read(|s| unwritten.next_piece(s));
                pieces.push(piece.expect("the keys serialize"));
            }
            let largest = pieces.iter().map(Vec::len).max();
            (pieces.len(), largest.unwrap_or_default(), pieces.concat())
        });
        assert!(
            pieces >= USERS / 2 * KEYS_BYTES / (PIECE_BYTES + KEYS_BYTES),
            "{pieces}"
        );
        assert!(largest < PIECE_BYTES + KEYS_BYTES + 100, "{largest}");
        let devices = (1..USERS).step_by(2).map(|index| (name(index), keys()));
        let masters = (USERS - 2..USERS).map(|index| (name(index), json!(index)));
        let expected = json!({
            "device_keys": devices.collect::<Value>(),
            "master_keys": masters.collect::<Value>(),
            "self_signing_keys": {},
        });
        let response: Value = serde_json::from_slice(&response).expect("JSON");
        assert_eq!(response, expected);
    }
}
