//! The limit of nesting of JSON that is made here or received.
//!
//! Parsers have limits of their own, of 128 levels and more: an event that one of them reads must still be
//! readable inside a transaction, a sync response or another event.

/// How deep arrays and objects may be nested in an event, in an EDU, or in the body of a request.
///
/// A PDU of another server that is deeper is redacted, since other servers accept it and send events
/// that follow on it. If it is too deep even then, it is refused, as one without a valid signature is:
/// the others of its transaction count, and the events that follow on it are received without it.
pub const MAX_DEPTH: usize = 100;

/// Whether `json` is nested deeper than [`MAX_DEPTH`]. It need not be valid.
pub fn is_too_deep(json: &[u8]) -> bool {
    is_deeper_than(MAX_DEPTH, json)
}

pub(super) fn is_deeper_than(max: usize, json: &[u8]) -> bool {
    let (mut depth, mut is_string) = (0_usize, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_string = !is_string,
            b'\\' if is_string => drop(bytes.next()),
            b'[' | b'{' if !is_string => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' if !is_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, is_too_deep};

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn json_is_too_deep_beyond_the_limit() {
        assert!(!is_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH + 1).as_bytes()));
        let objects = format!("{}1{}", "{\"a\":".repeat(101), "}".repeat(101));
        assert!(is_too_deep(objects.as_bytes()));
        let wide = format!("[{}1]", "[],{},".repeat(1000));
        assert!(!is_too_deep(wide.as_bytes()));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = format!(r#"{{"a":"{}","b":"\"{}"}}"#, nested(200), "[".repeat(200));
        assert!(!is_too_deep(text.as_bytes()));
        let after = format!(r#"["\\",{}]"#, nested(MAX_DEPTH));
        assert!(is_too_deep(after.as_bytes()));
    }
}
