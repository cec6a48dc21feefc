//! An event in the federation format, as text: its numbers are those that were signed.
//!
//! Until room version 5, events may have numbers that canonical JSON forbids, such as `0.5` or 2^53. ruma's
//! canonical JSON cannot hold them, so in all room versions events are hashed, signed and redacted as text.
//! What a redaction keeps, who must sign and what the format is remain ruma's rules: it gets an object of
//! the fields that it looks at.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ID_MAX_BYTES, OwnedEventId, OwnedServerName,
    ServerName, UInt, canonical_json,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    serde::{
        Base64,
        base64::{Standard, UrlSafe},
    },
    signatures::{KeyPair, PublicKeyMap, PublicKeySet, required_server_signatures_to_verify_event},
    state_res::check_pdu_format,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::{
    canonical_text::{finite_text, strict_text},
    format_error::{FormatError, not_canonical},
    server_key::ServerKey,
    signed_object::is_signature,
};

/// Fields that ruma's checks read.
const CHECKED_FIELDS: [&str; 8] = [
    "auth_events",
    "depth",
    "event_id",
    "prev_events",
    "room_id",
    "sender",
    "state_key",
    "type",
];
/// Fields of the content that ruma's checks read.
const CHECKED_CONTENT: [&str; 3] = [
    "join_authorised_via_users_server",
    "membership",
    "third_party_invite",
];
/// The greatest depth of an event in room versions that allow integers beyond canonical JSON.
pub(super) const MAX_DEPTH: u64 = (1 << 63) - 1;
/// The largest integer of canonical JSON.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;
/// How deep the objects are nested whose fields a redaction tells apart: `third_party_invite` in `content`.
const REDACTION_DEPTH: usize = 3;

type Signatures = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;

/// An event without `unsigned`. Each field is canonical JSON.
#[derive(Clone, Debug)]
pub(super) struct EventObject(BTreeMap<String, Box<RawValue>>);

impl EventObject {
    /// Parses an event; `unsigned` is left out and need not be canonical.
    pub(super) fn parse(json: &[u8], rules: &RoomVersionRules) -> Result<Self, FormatError> {
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_slice(json).map_err(not_canonical)?;
        Self::from_fields(fields, rules)
    }

    pub(super) fn from_fields(
        mut fields: BTreeMap<String, &RawValue>,
        rules: &RoomVersionRules,
    ) -> Result<Self, FormatError> {
        fields.remove("unsigned");
        let text = if rules.authorization.strict_canonical_json {
            strict_text
        } else {
            finite_text
        };
        let fields = fields.into_iter().map(|(name, value)| {
            let text = text(value.get().as_bytes()).map_err(not_canonical)?;
            Ok((name, RawValue::from_string(text).map_err(not_canonical)?))
        });
        fields.collect::<Result<_, FormatError>>().map(Self)
    }

    /// An event of this server, from fields that are canonical.
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn set(
        &mut self,
        field: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), FormatError> {
        let value = to_raw_value(value).map_err(not_canonical)?;
        self.0.insert(field.to_owned(), value);
        Ok(())
    }

    pub(super) fn remove(&mut self, field: &str) {
        self.0.remove(field);
    }

    /// One field; `None` if it is absent or of another type.
    pub(super) fn get<'a, T: Deserialize<'a>>(&'a self, field: &str) -> Option<T> {
        serde_json::from_str(self.0.get(field)?.get()).ok()
    }

    /// Canonical JSON.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, FormatError> {
        serde_json::to_vec(&self.0).map_err(not_canonical)
    }

    /// Canonical JSON without some of the fields.
    fn text_without(&self, left_out: &[&str]) -> Result<String, FormatError> {
        let fields = self.0.iter();
        let fields: BTreeMap<_, _> = fields
            .filter(|(name, _)| !left_out.contains(&name.as_str()))
            .collect();
        serde_json::to_string(&fields).map_err(not_canonical)
    }

    /// Checks the format by ruma's rules, but for the sizes of the event and of its fields, of which some are
    /// not ruma's.
    ///
    /// Source: room versions, "Event format".
    pub(super) fn check_format(&self, rules: &RoomVersionRules) -> Result<(), FormatError> {
        let mut fields = self.checked_fields()?;
        for field in ["state_key", "type"] {
            if let Some(CanonicalJsonValue::String(value)) = fields.get_mut(field)
                && value.len() > ID_MAX_BYTES
            {
                value.clear();
            }
        }
        check_pdu_format(&fields, &rules.event_format).map_err(FormatError::Malformed)
    }

    /// The servers that must sign the event.
    ///
    /// Source: server-server API, "Validating hashes and signatures on received events".
    pub(super) fn signers(
        &self,
        rules: &RoomVersionRules,
    ) -> Result<impl Iterator<Item = OwnedServerName> + use<>, FormatError> {
        let mut object = self.checked_fields()?;
        let content: BTreeMap<String, &RawValue> = self.get("content").unwrap_or_default();
        let content = content.into_iter();
        let content = content.filter(|(name, _)| CHECKED_CONTENT.contains(&name.as_str()));
        let content = content.map(|(name, value)| Ok((name, shallow(value)?)));
        let content = content.collect::<Result<CanonicalJsonObject, FormatError>>()?;
        object.insert("content".to_owned(), content.into());
        let signers = required_server_signatures_to_verify_event(&object, &rules.signatures);
        let signers = signers.map_err(|error| FormatError::Malformed(error.to_string()))?;
        Ok(signers.into_iter())
    }

    /// For ruma the largest number is the largest of canonical JSON. Only `depth` may be larger.
    fn checked_fields(&self) -> Result<CanonicalJsonObject, FormatError> {
        let fields = CHECKED_FIELDS.iter();
        let fields = fields.filter_map(|name| Some((name, self.0.get(*name)?)));
        let fields = fields.map(|(name, value)| {
            let value = match serde_json::from_str::<u64>(value.get()) {
                Ok(number) if number <= MAX_DEPTH => {
                    UInt::new_saturating(number.min(MAX_INTEGER)).into()
                }
                _ => serde_json::from_str(value.get()).map_err(not_canonical)?,
            };
            Ok(((*name).to_owned(), value))
        });
        fields.collect()
    }

    /// The signatures by `server`, by the ids of the keys.
    pub(super) fn signatures(&self, server: &str) -> BTreeMap<String, Box<RawValue>> {
        let signatures: BTreeMap<String, &RawValue> = self.get("signatures").unwrap_or_default();
        let of_server = signatures.get(server);
        let of_server = of_server.and_then(|json| serde_json::from_str(json.get()).ok());
        of_server.unwrap_or_default()
    }

    /// The id of the event. Where it is a hash, the content hash must be in place.
    ///
    /// Source: room versions 1, 3 and 4, "Event IDs"; server-server API, "Calculating the reference hash".
    pub(super) fn event_id(&self, rules: &RoomVersionRules) -> Result<OwnedEventId, FormatError> {
        let id = match rules.event_id_format {
            EventIdFormatVersion::V1 => {
                let id: Option<OwnedEventId> = self.get("event_id");
                return id
                    .filter(|id| id.server_name().is_some())
                    .ok_or_else(|| FormatError::Malformed("no valid `event_id`".to_owned()));
            }
            EventIdFormatVersion::V2 => self.reference_hash::<Standard>(rules)?,
            _ => self.reference_hash::<UrlSafe>(rules)?,
        };
        OwnedEventId::try_from(format!("${id}"))
            .map_err(|error| FormatError::Malformed(error.to_string()))
    }

    /// Gives an event of `server` its id, in room versions in which it is a field. The id is made of a hash
    /// of the event, so the same event has the same id.
    ///
    /// Source: room version 1, "Event IDs".
    pub(super) fn set_event_id(
        &mut self,
        server: &ServerName,
        rules: &RoomVersionRules,
    ) -> Result<(), FormatError> {
        if rules.event_id_format != EventIdFormatVersion::V1 {
            return Ok(());
        }
        let hash = sha256::<UrlSafe>(&self.text_without(&[])?);
        self.set("event_id", &format!("${hash}:{server}"))
    }

    /// Source: server-server API, "Calculating the reference hash for an event".
    pub(super) fn reference_hash<C: ruma::serde::base64::Base64Config>(
        &self,
        rules: &RoomVersionRules,
    ) -> Result<String, FormatError> {
        Ok(sha256::<C>(&self.signed_text(rules)?))
    }

    /// What is signed, and what the reference hash is made of: the redacted event without its signatures.
    ///
    /// Source: server-server API, "Signing Events".
    fn signed_text(&self, rules: &RoomVersionRules) -> Result<String, FormatError> {
        let mut redacted = self.clone();
        redacted.redact(rules)?;
        redacted.text_without(&["signatures"])
    }

    /// Source: server-server API, "Calculating the content hash for an event".
    fn content_hash(&self) -> Result<String, FormatError> {
        Ok(sha256::<Standard>(
            &self.text_without(&["hashes", "signatures"])?,
        ))
    }

    /// Source: server-server API, "Adding hashes and signatures to outgoing events".
    pub(super) fn hash_and_sign(
        &mut self,
        server: &ServerName,
        key: &ServerKey,
        rules: &RoomVersionRules,
    ) -> Result<(), FormatError> {
        let hashes = BTreeMap::from([("sha256", self.content_hash()?)]);
        self.set("hashes", &hashes)?;
        self.sign(server, key, rules)
    }

    /// Adds the signature of `server`.
    pub(super) fn sign(
        &mut self,
        server: &ServerName,
        key: &ServerKey,
        rules: &RoomVersionRules,
    ) -> Result<(), FormatError> {
        let (id, signature) = key.sign(self.signed_text(rules)?.as_bytes()).into_parts();
        let signature = to_raw_value(&Base64::<Standard, _>::new(signature));
        let signature = signature.map_err(not_canonical)?;
        let mut signatures: Signatures = self.get("signatures").unwrap_or_default();
        let of_server = signatures.entry(server.to_string()).or_default();
        of_server.insert(id.to_string(), signature);
        self.set("signatures", &signatures)
    }

    /// Whether the content matches its hash, if the event is signed by all servers that must. Signatures by
    /// keys that `keys` does not have are ignored; of the others all must be valid.
    ///
    /// # Errors
    /// What is missing or invalid.
    ///
    /// Source: server-server API, "Validating hashes and signatures on received events".
    pub(super) fn verify(
        &self,
        keys: &PublicKeyMap,
        rules: &RoomVersionRules,
    ) -> Result<bool, String> {
        #[derive(Deserialize)]
        struct Hashes {
            sha256: String,
        }
        let text = |error: FormatError| error.to_string();
        let hashes: Hashes = self.get("hashes").ok_or("there is no content hash")?;
        let signed = self.signed_text(rules).map_err(text)?;
        for server in self.signers(rules).map_err(text)? {
            let keys = keys.get(server.as_str());
            let keys = keys.ok_or_else(|| format!("there are no keys of {server}"))?;
            self.check_signatures(&server, keys, &signed)?;
        }
        let hash = Base64::<Standard>::parse(hashes.sha256).ok();
        Ok(hash.is_some_and(|hash| self.content_hash().is_ok_and(|own| hash.encode() == own)))
    }

    /// Whether one of `keys` of `server` has signed the event.
    pub(super) fn is_signed_by(
        &self,
        server: &ServerName,
        keys: &PublicKeySet,
        rules: &RoomVersionRules,
    ) -> Result<bool, FormatError> {
        let signed = self.signed_text(rules)?;
        Ok(self.check_signatures(server, keys, &signed).is_ok())
    }

    fn check_signatures(
        &self,
        server: &ServerName,
        keys: &PublicKeySet,
        signed: &str,
    ) -> Result<(), String> {
        let mut is_signed = false;
        for (id, signature) in self.signatures(server.as_str()) {
            let Some(key) = keys.get(&id).filter(|_| id.starts_with("ed25519:")) else {
                continue;
            };
            let signature = serde_json::from_str::<Base64>(signature.get());
            if !signature.is_ok_and(|signature| is_signature(&signature, key, signed)) {
                return Err(format!("the signature by key {id} of {server} is invalid"));
            }
            is_signed = true;
        }
        if is_signed {
            Ok(())
        } else {
            Err(format!("there is no signature by a known key of {server}"))
        }
    }

    /// Removes what a redaction removes.
    ///
    /// Source: room versions, "Redactions".
    pub(super) fn redact(&mut self, rules: &RoomVersionRules) -> Result<(), FormatError> {
        let malformed = |error: String| FormatError::Malformed(error);
        let event_type = self.0.get("type").cloned();
        let event_type = event_type.ok_or_else(|| malformed("no `type`".to_owned()))?;
        let kind: String = serde_json::from_str(event_type.get()).map_err(not_canonical)?;
        let mut outline = CanonicalJsonObject::new();
        for (name, value) in &self.0 {
            outline.insert(name.clone(), outline_of(value, REDACTION_DEPTH - 1)?);
        }
        outline.insert("type".to_owned(), kind.into());
        canonical_json::redact_in_place(&mut outline, &rules.redaction, None)
            .map_err(|error| malformed(error.to_string()))?;
        outline.insert("type".to_owned(), event_type.get().into());
        self.0.clear();
        for (name, value) in outline {
            let mut text = String::new();
            write_outline(&mut text, value)?;
            let value = RawValue::from_string(text).map_err(not_canonical)?;
            self.0.insert(name, value);
        }
        Ok(())
    }
}

/// A value for ruma's redaction, which looks at the names of fields only: an object whose values, below
/// `depth` objects, are texts of JSON.
fn outline_of(value: &RawValue, depth: usize) -> Result<CanonicalJsonValue, FormatError> {
    if depth == 0 || !value.get().starts_with('{') {
        return Ok(value.get().into());
    }
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(value.get()).map_err(not_canonical)?;
    let fields = fields.into_iter();
    let fields = fields.map(|(name, value)| Ok((name, outline_of(value, depth - 1)?)));
    Ok(CanonicalJsonValue::Object(
        fields.collect::<Result<_, FormatError>>()?,
    ))
}

/// The reverse of [`outline_of`].
fn write_outline(text: &mut String, value: CanonicalJsonValue) -> Result<(), FormatError> {
    match value {
        CanonicalJsonValue::Object(fields) => {
            text.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                *text += &serde_json::to_string(&name).map_err(not_canonical)?;
                text.push(':');
                write_outline(text, value)?;
            }
            text.push('}');
        }
        CanonicalJsonValue::String(json) => *text += &json,
        _ => return Err(not_canonical("not an outline")),
    }
    Ok(())
}

/// A value of which ruma reads whether it is an object, or what it is if it is a string.
fn shallow(value: &RawValue) -> Result<CanonicalJsonValue, FormatError> {
    match value.get().as_bytes()[0] {
        b'{' => Ok(CanonicalJsonObject::new().into()),
        b'"' => serde_json::from_str(value.get()).map_err(not_canonical),
        b'n' => Ok(CanonicalJsonValue::Null),
        _ => Ok(CanonicalJsonValue::Bool(false)),
    }
}

fn sha256<C: ruma::serde::base64::Base64Config>(text: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    Base64::<C, _>::new(hash).encode()
}
