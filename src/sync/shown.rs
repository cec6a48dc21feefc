//! Events as this client asked for them: its format, its fields.

use ruma::{api::client::filter::EventFormat, serde::Raw};
use serde_json::{Map, Value, value::RawValue};

use super::request::Request;
use crate::{
    rooms::{Error, event::StoredEvent, timeline::client_event::Formatter},
    store::Reader,
};

/// The events in the client's format, with the fields that it wants.
pub fn show<T>(
    r: &impl Reader,
    request: &Request,
    formatter: &mut Formatter,
    events: &[StoredEvent],
) -> Result<Vec<Raw<T>>, Error> {
    let show = |event: &StoredEvent| {
        let json = match request.filter.event_format {
            EventFormat::Federation => serde_json::from_slice(&event.json)
                .map_err(|_| Error::corrupt("events", &event.header.id, "not JSON"))?,
            _ => formatter.format(r, event)?,
        };
        match &request.filter.event_fields {
            Some(fields) if !fields.is_empty() => Ok(Raw::from_json(only(&json, fields)?)),
            _ => Ok(Raw::from_json(json)),
        }
    };
    events.iter().map(show).collect()
}

/// The fields of `json` that `fields` names, with dots between the levels; a backslash before a dot
/// takes it as part of the name ([client-server API, `event_fields`]).
///
/// [client-server API, `event_fields`]: https://spec.matrix.org/v1.19/client-server-api/#filtering
fn only(json: &RawValue, fields: &[String]) -> Result<Box<RawValue>, Error> {
    let corrupt = |_| Error::not_serializable("an event");
    let whole: Value = serde_json::from_str(json.get()).map_err(corrupt)?;
    let mut kept = Value::Object(Map::new());
    for field in fields {
        keep(&whole, &mut kept, &levels(field));
    }
    serde_json::value::to_raw_value(&kept).map_err(corrupt)
}

fn levels(field: &str) -> Vec<String> {
    let mut levels = vec![String::new()];
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        let last = levels.len() - 1;
        match character {
            '.' => levels.push(String::new()),
            '\\' => levels[last].extend(characters.next()),
            other => levels[last].push(other),
        }
    }
    levels
}

fn keep(whole: &Value, kept: &mut Value, levels: &[String]) {
    let [level, rest @ ..] = levels else { return };
    let (Some(value), Value::Object(kept)) = (whole.get(level), kept) else {
        return;
    };
    if rest.is_empty() {
        kept.insert(level.clone(), value.clone());
    } else if value.is_object() {
        let below = kept
            .entry(level.clone())
            .or_insert_with(|| Value::Object(Map::new()));
        keep(value, below, rest);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::only;

    fn kept(event: Value, fields: &[&str]) -> Value {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let event = to_raw_value(&event).expect("JSON");
        serde_json::from_str(only(&event, &fields).expect("JSON").get()).expect("JSON")
    }

    #[test]
    fn only_the_named_fields_stay() {
        let event = json!({ "type": "m", "content": { "body": "a", "m.b": { "c": 1 } }, "x": 1 });
        let fields = ["type", "content.body", "content.m\\.b.c", "x.y", "missing"];
        let expected = json!({ "type": "m", "content": { "body": "a", "m.b": { "c": 1 } } });
        assert_eq!(kept(event, &fields), expected);
    }
}
