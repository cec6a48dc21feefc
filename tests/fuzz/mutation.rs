//! Changes that make a valid request an unusual or an invalid one.

use serde_json::{Map, Value};

use super::random::Random;

/// The server waits for as long as these say, which is no hang.
const TIMEOUTS: &[&str] = &["timeout", "timeout_ms"];
const INVALID_TIMEOUTS: &[&str] = &["", "-1", "0", "1.5", "x", "18446744073709551616", "%00"];

const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "X",
];

pub fn method(random: &mut Random) -> String {
    (*random.pick(METHODS)).to_owned()
}

/// Replaces a segment of a path, or adds or removes one.
pub fn path(random: &mut Random, path: &str) -> String {
    let mut segments: Vec<_> = path.split('/').map(str::to_owned).collect();
    // The first is empty, and the next say whose path it is.
    let first = segments.len().min(4) - 1;
    let chosen = first + random.number(segments.len() - first);
    match random.number(8) {
        0 => segments.insert(chosen, random.argument()),
        1 => drop(segments.remove(chosen)),
        _ => segments[chosen] = random.argument(),
    }
    let path = segments.join("/");
    match path.starts_with('/') {
        true => path,
        false => format!("/{path}"),
    }
}

/// Changes, repeats, adds or removes an argument of a query.
pub fn query(random: &mut Random, query: &str, keys: &[String]) -> String {
    let mut pairs: Vec<_> = query.split('&').map(str::to_owned).collect();
    pairs.retain(|pair| !pair.is_empty());
    let key = match pairs.is_empty() || random.one_in(3) {
        true => random.pick(keys).clone(),
        false => {
            let pair = pairs.swap_remove(random.number(pairs.len()));
            if random.one_in(4) {
                pairs.push(pair.clone());
            }
            pair.split('=').next().unwrap_or_default().to_owned()
        }
    };
    let value = match TIMEOUTS.contains(&&*key) {
        true => (*random.pick(INVALID_TIMEOUTS)).to_owned(),
        false => random.argument(),
    };
    match random.number(10) {
        0 => {}
        1 => pairs.push(key),
        _ => pairs.push(format!("{key}={value}")),
    }
    pairs.join("&")
}

/// Changes something within `value`.
pub fn json(random: &mut Random, value: &mut Value) {
    let chosen = random.number(count(value));
    if let Some(chosen) = nth(value, &mut { chosen }) {
        change(random, chosen);
    }
}

fn change(random: &mut Random, value: &mut Value) {
    match value {
        Value::Object(fields) if !random.one_in(4) => change_object(random, fields),
        Value::Array(items) if !random.one_in(4) => {
            let item = items.first().cloned();
            match (random.number(5), item) {
                (0, Some(item)) => *items = vec![item; 1 + random.number(1000)],
                (1, _) => items.clear(),
                (2, _) => items.insert(0, random.value()),
                _ => items.push(random.value()),
            }
        }
        Value::String(text) if random.one_in(3) => match random.number(4) {
            0 => text.clear(),
            1 => drop(text.pop()),
            2 => text.push('\0'),
            _ => *text = text.repeat(1 + random.number(100)),
        },
        value if random.one_in(10) => *value = Value::from(vec![value.take()]),
        value => *value = random.value(),
    }
}

fn change_object(random: &mut Random, fields: &mut Map<String, Value>) {
    let keys: Vec<_> = fields.keys().cloned().collect();
    let key = match keys.is_empty() {
        true => "x".to_owned(),
        false => random.pick(&keys).clone(),
    };
    match random.number(6) {
        0 | 1 => drop(fields.remove(&key)),
        2 => drop(fields.insert(key, random.value())),
        3 => {
            let value = fields.remove(&key).unwrap_or_default();
            let name = random.value();
            let name = name
                .as_str()
                .map_or_else(|| name.to_string(), str::to_owned);
            fields.insert(name, value);
        }
        4 => {
            let value = fields.get(&key).cloned().unwrap_or_default();
            let names = (0..random.number(500)).map(|number| similar_name(&key, number));
            fields.extend(names.map(|name| (name, value.clone())));
        }
        _ => drop(fields.insert("x".to_owned(), random.value())),
    }
}

/// Another id of the same kind. A server's name stays one that needs no DNS.
fn similar_name(name: &str, number: usize) -> String {
    match name.get(..1) {
        Some(sigil @ ("@" | "!" | "#" | "$")) => format!("{sigil}{number}{}", &name[1..]),
        _ if name.starts_with("localhost") => format!("127.0.0.1:{}", 1 + number),
        _ => format!("{name}{number}"),
    }
}

fn count(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    };
    1 + below
}

fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, left)),
        _ => None,
    }
}

/// Changes the text of a body.
pub fn text(random: &mut Random, body: &mut Vec<u8>) {
    let place = random.number(body.len() + 1);
    match random.number(6) {
        0 => body.clear(),
        1 => body.truncate(place),
        2 => body.insert(place, 0),
        3 => body.insert(place, 0xff),
        4 => drop(body.splice(place..place, b"\xef\xbb\xbf".iter().copied())),
        _ => body.extend(b" []"),
    }
}
