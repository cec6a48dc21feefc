//! The check that the parsed form of a response needs little more memory than its text.

/// The memory of a list of many tiny values is a multiple of their text. Event ids, keys and most server names
/// are longer than this; events and devices much more so.
const MIN_BYTES_PER_PART: usize = 12;
/// Lists of events are at the second level, those of devices of users at the third.
const MAX_LEVEL: usize = 3;
/// A small response may have any parts.
const MAX_UNCHECKED_BYTES: usize = 8 * 1024;

/// Whether a large JSON text consists of tiny values in its outer levels. It need not be valid.
pub fn has_tiny_parts(json: &[u8]) -> bool {
    let (mut parts, mut level, mut is_string) = (0_usize, 0_usize, false);
    if json.len() <= MAX_UNCHECKED_BYTES {
        return false;
    }
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_string = !is_string,
            b'\\' if is_string => drop(bytes.next()),
            _ if is_string => {}
            b'[' | b'{' => level += 1,
            b']' | b'}' => level = level.saturating_sub(1),
            b',' if level <= MAX_LEVEL => parts += 1,
            _ => {}
        }
    }
    parts.saturating_mul(MIN_BYTES_PER_PART) > json.len()
}

#[cfg(test)]
mod tests {
    use super::has_tiny_parts;

    #[test]
    fn many_tiny_values_are_found_and_ids_and_events_are_not() {
        let list = |part: &str| format!(r#"{{"pdus":[{}0]}}"#, format!("{part},").repeat(5000));
        assert!(has_tiny_parts(list("{}").as_bytes()));
        assert!(has_tiny_parts(list(r#""$a:b""#).as_bytes()));
        assert!(has_tiny_parts(list(r#"{"a":{"b":1},"c":2}"#).as_bytes()));
        assert!(!has_tiny_parts(list(r#""matrix.org""#).as_bytes()));
        let id = format!("\"${}\"", "x".repeat(43));
        assert!(!has_tiny_parts(list(&id).as_bytes()));
        let event = format!(
            r#"{{"a":1,"b":"{}","content":{{"x":[1,2,3,4,5]}}}}"#,
            ",".repeat(80)
        );
        assert!(!has_tiny_parts(list(&event).as_bytes()));
        let escaped = format!(r#"["\"{}"]"#, ",\\\"".repeat(5000));
        assert!(!has_tiny_parts(escaped.as_bytes()));
        assert!(
            !has_tiny_parts(format!("[{}1]", "1,".repeat(1000)).as_bytes()),
            "it is small"
        );
    }
}
