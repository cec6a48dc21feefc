//! Reading single fields out of JSON text.

use std::{borrow::Cow, fmt, marker::PhantomData};

use ruma::Int;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// The value with null for each number that canonical JSON forbids.
pub(super) fn canonical_or_null(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let integer = number
                .as_i64()
                .filter(|integer| Int::try_from(*integer).is_ok());
            integer.map_or(Value::Null, Value::from)
        }
        Value::Array(items) => items.into_iter().map(canonical_or_null).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, value)| (name, canonical_or_null(value)))
                .collect()
        }
        other => other,
    }
}

/// One field of an object; the others are skipped. `None` if it is absent; an error if it has another
/// type, or the text is not an object.
pub(super) fn field<'a, T: Deserialize<'a>>(
    object: &'a RawValue,
    name: &str,
) -> serde_json::Result<Option<T>> {
    serde_json::Deserializer::from_str(object.get()).deserialize_map(FieldVisitor {
        name,
        value: PhantomData,
    })
}

struct FieldVisitor<'n, T> {
    name: &'n str,
    value: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Key<'_>>()? {
            if key.0 == self.name {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A key, borrowed from the text unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::field;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_field_is_found_among_others() {
        let object = raw(r#"{"a":{"b":1},"b":2,"c":[3]}"#);
        assert_eq!(field::<u8>(object, "b").unwrap(), Some(2));
        assert_eq!(field::<u8>(object, "d").unwrap(), None);
        assert_eq!(
            field::<&RawValue>(object, "a").unwrap().unwrap().get(),
            r#"{"b":1}"#
        );
    }

    #[test]
    fn a_key_written_with_escapes_is_found() {
        assert_eq!(field::<u8>(raw(r#"{"\u0061":1}"#), "a").unwrap(), Some(1));
    }

    #[test]
    fn a_value_of_another_type_is_an_error() {
        field::<u8>(raw(r#"{"a":"1"}"#), "a").unwrap_err();
        field::<u8>(raw("[1]"), "a").unwrap_err();
    }
}
