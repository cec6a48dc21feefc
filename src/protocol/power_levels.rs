//! Power levels that are no integers of canonical JSON.

use ruma::{Int, events::TimelineEventType, room_version_rules::RoomVersionRules};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

/// The content of power levels with integers that ruma reads, if it has other numbers: a float is cut at the
/// decimal point, and an integer beyond canonical JSON is the nearest in it. ruma itself reads strings with
/// integers. `None` if the content is as good as it is.
///
/// Source: room version 1, "`m.room.power_levels` events accept values as floats". NOTSPEC: it says nothing
/// of large integers, which Synapse compares as they are.
pub(super) fn as_integers(
    event_type: &TimelineEventType,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Option<Box<RawValue>> {
    if *event_type != TimelineEventType::RoomPowerLevels
        || rules.authorization.strict_canonical_json
    {
        return None;
    }
    let mut content: Value = serde_json::from_str(content.get()).ok()?;
    let mut is_changed = false;
    for value in content.as_object_mut()?.values_mut() {
        is_changed |= make_integer(value);
        for value in value
            .as_object_mut()
            .into_iter()
            .flat_map(|map| map.values_mut())
        {
            is_changed |= make_integer(value);
        }
    }
    is_changed.then(|| to_raw_value(&content).ok())?
}

/// Whether `value` was a number, or text of one, that is now another.
fn make_integer(value: &mut Value) -> bool {
    let integer = match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map(|float| float as i128),
        Value::Number(number) => number.as_i128(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(integer) = integer else {
        return false;
    };
    let level = match i64::try_from(integer) {
        Ok(integer) => Int::new_saturating(integer),
        Err(_) if integer < 0 => Int::MIN,
        Err(_) => Int::MAX,
    };
    let level = Value::from(i64::from(level));
    let is_other = *value != level
        && (!value.is_string() || i128::from(level.as_i64().unwrap_or(0)) != integer);
    if is_other {
        *value = level;
    }
    is_other
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId::{self, *};
    use serde_json::{Value, json, value::RawValue};

    use super::as_integers;
    use crate::protocol::versions;

    fn read(version: &RoomVersionId, content: &str) -> Option<Value> {
        let rules = versions::rules(version).unwrap();
        let content: &RawValue = serde_json::from_str(content).unwrap();
        let read = as_integers(&"m.room.power_levels".into(), content, rules)?;
        Some(serde_json::from_str(read.get()).unwrap())
    }

    #[test]
    fn floats_are_cut_at_the_decimal_point_and_large_integers_are_the_largest() {
        let content = r#"{"ban":50.99,"kick":-1.5,"redact":5.114698E4,"invite":1e3,
            "users":{"@a:b":99999999999999999999,"@b:b":-9007199254740993,"@c:d":" 007 ","@d:e":5},
            "events":{"m.x":"36893488147419103232"},"name":"text"}"#;
        let expected = json!({
            "ban": 50, "kick": -1, "redact": 51146, "invite": 1000,
            "users": {
                "@a:b": 9_007_199_254_740_991_i64, "@b:b": -9_007_199_254_740_991_i64,
                "@c:d": " 007 ", "@d:e": 5,
            },
            "events": { "m.x": 9_007_199_254_740_991_i64 }, "name": "text",
        });
        for version in [V1, V5] {
            assert_eq!(read(&version, content), Some(expected.clone()));
        }
    }

    #[test]
    fn ordinary_levels_are_left_alone() {
        let content = r#"{"ban":50,"users":{"@a:b":"100"},"notifications":{"room":50}}"#;
        assert_eq!(read(&V1, content), None);
        assert_eq!(read(&V6, r#"{"ban":50.5}"#), None);
    }
}
