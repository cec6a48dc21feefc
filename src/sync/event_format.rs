//! Events in the format and with the fields that the filter of the client wants.

use ruma::{api::client::filter::EventFormat, serde::Raw};
use serde_json::{Map, Value, value::RawValue};

use super::request::Request;
use crate::{
    rooms::{
        Error, event::StoredEvent, relations::aggregations::Aggregator,
        timeline::client_event::Formatter,
    },
    store::Reader,
};

/// Formats events of a timeline, with their bundled aggregations if there is an `aggregator`.
pub fn format_timeline<T>(
    r: &impl Reader,
    request: &Request,
    formatter: &mut Formatter,
    aggregator: Option<&Aggregator>,
    events: &[StoredEvent],
) -> Result<Vec<Raw<T>>, Error> {
    let format = |event| {
        let json = format_wanted(request, event, || match aggregator {
            Some(aggregator) => aggregator.format(r, formatter, event),
            None => formatter.format(r, event),
        });
        json.map(Raw::from_json)
    };
    events.iter().map(format).collect()
}

pub fn format_event(
    r: &impl Reader,
    request: &Request,
    formatter: &mut Formatter,
    event: &StoredEvent,
) -> Result<Box<RawValue>, Error> {
    format_wanted(request, event, || formatter.format(r, event))
}

/// The format and the fields of an event that the client wants; `format` makes the client format.
fn format_wanted(
    request: &Request,
    event: &StoredEvent,
    format: impl FnOnce() -> Result<Box<RawValue>, Error>,
) -> Result<Box<RawValue>, Error> {
    let json = match request.filter.event_format {
        EventFormat::Federation => serde_json::from_slice(&event.json)
            .map_err(|_| Error::corrupt("events", &event.header.id, "not JSON"))?,
        _ => format()?,
    };
    match &request.filter.event_fields {
        Some(fields) if !fields.is_empty() => select_fields(&json, fields),
        _ => Ok(json),
    }
}

/// The fields of `json` that `fields` names. A dot separates levels; a backslash escapes a dot
/// ([client-server API, `event_fields`]).
///
/// [client-server API, `event_fields`]: https://spec.matrix.org/v1.19/client-server-api/#filtering
fn select_fields(json: &RawValue, fields: &[String]) -> Result<Box<RawValue>, Error> {
    let corrupt = |_| Error::not_serializable("an event");
    let event: Value = serde_json::from_str(json.get()).map_err(corrupt)?;
    let mut selected = Value::Object(Map::new());
    for field in fields {
        copy_field(&event, &mut selected, &levels(field));
    }
    serde_json::value::to_raw_value(&selected).map_err(corrupt)
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

fn copy_field(from: &Value, to: &mut Value, levels: &[String]) {
    let [level, rest @ ..] = levels else { return };
    let (Some(value), Value::Object(to)) = (from.get(level), to) else {
        return;
    };
    if rest.is_empty() {
        to.insert(level.clone(), value.clone());
    } else if value.is_object() {
        let below = to
            .entry(level.clone())
            .or_insert_with(|| Value::Object(Map::new()));
        copy_field(value, below, rest);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::select_fields;

    fn selected(event: Value, fields: &[&str]) -> Value {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let event = to_raw_value(&event).expect("JSON");
        serde_json::from_str(select_fields(&event, &fields).expect("JSON").get()).expect("JSON")
    }

    #[test]
    fn event_fields_select_fields_by_escaped_paths() {
        let event = json!({ "type": "m", "content": { "body": "a", "m.b": { "c": 1 } }, "x": 1 });
        let fields = ["type", "content.body", "content.m\\.b.c", "x.y", "missing"];
        let expected = json!({ "type": "m", "content": { "body": "a", "m.b": { "c": 1 } } });
        assert_eq!(selected(event, &fields), expected);
    }
}
