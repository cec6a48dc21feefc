//! Paths: ruma's templates, the path by which tide routes, and the arguments.
//!
//! tide uses a path only to choose the route. Its `Url` rewrites `..`, `%2E` and `\`. So tide gets a
//! routing path that no `Url` rewrites, and the arguments are cut from the original path and decoded
//! once.

use percent_encoding::percent_decode_str;
use ruma::EventId;

use crate::api::Error;

/// In a routing path: any segment that is not literal in a template.
const ARGUMENT: &str = "~";

/// One path of an endpoint, as ruma writes it: `/_matrix/client/v3/rooms/{room_id}/leave`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Template {
    path: &'static str,
    /// Whether the last argument may be empty, with or without the slash before it.
    open_end: bool,
}

impl Template {
    pub(super) fn new(path: &'static str, open_end: bool) -> Self {
        debug_assert!(path.starts_with('/'));
        Self { path, open_end }
    }

    /// As in the specification, with the names of its arguments in braces.
    pub(super) fn path(self) -> &'static str {
        self.path
    }

    /// The patterns by which tide finds this template.
    pub(super) fn patterns(self) -> Vec<String> {
        let segments = self.path.split('/');
        let pattern: Vec<_> = segments
            .map(|segment| if is_argument(segment) { ":" } else { segment })
            .collect();
        let whole = pattern.join("/");
        if !self.open_end {
            return vec![whole];
        }
        let without = pattern[..pattern.len() - 1].join("/");
        vec![format!("{without}/"), without, whole]
    }

    /// The arguments in a path that matches, decoded.
    ///
    /// # Errors
    /// If one is not percent-encoded UTF-8.
    pub(super) fn arguments(self, path: &str) -> Result<Vec<String>, Error> {
        let mut given = path.split('/');
        let mut arguments = Vec::new();
        for segment in self.path.split('/') {
            let value = given.next().unwrap_or_default();
            if is_argument(segment) {
                let bad = || Error::invalid_param("the path is not percent-encoded UTF-8");
                arguments.push(decode(value).ok_or_else(bad)?);
            }
        }
        Ok(arguments)
    }

    /// Checks that an argument that should be an event id is one.
    ///
    /// # Errors
    /// [`Error::not_found`]: of what is no id, there is no event.
    pub(super) fn check_event_id(self, arguments: &[String]) -> Result<(), Error> {
        let names = self.path.split('/').filter(|segment| is_argument(segment));
        for (name, value) in names.zip(arguments) {
            if name == "{event_id}" && EventId::parse(value.as_str()).is_err() {
                return Err(Error::not_found("the event does not exist"));
            }
        }
        Ok(())
    }
}

fn is_argument(segment: &str) -> bool {
    segment.starts_with('{')
}

/// The path by which tide routes `path`: segments that may be literal in a template, decoded;
/// [`ARGUMENT`] for the others.
pub(super) fn routing_path(path: &str) -> String {
    let segments = path.split('/').map(|segment| match decode(segment) {
        Some(text) if is_plain(&text) => text,
        _ => ARGUMENT.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Whether a `Url` keeps the segment as it is. Every literal segment of ruma's templates is plain.
fn is_plain(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    segment.bytes().all(plain) && segment != "." && segment != ".."
}

/// Decodes once. `None` if a `%` is not followed by two hexadecimal digits, or the bytes are not
/// UTF-8.
fn decode(segment: &str) -> Option<String> {
    let mut after_percent = segment.split('%').skip(1);
    let is_hex = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !after_percent.all(is_hex) {
        return None;
    }
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Template, decode, routing_path};

    const STATE: &str = "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}";

    #[test]
    fn a_routing_path_has_nothing_that_a_url_rewrites() {
        for (path, shown) in [
            ("/_matrix/client/versions", "/_matrix/client/versions"),
            ("/_matrix/client/%76ersions", "/_matrix/client/versions"),
            ("/a/!room:hs.org/b", "/a/~/b"),
            ("/a/%2E%2E/b", "/a/~/b"),
            ("/a/../b", "/a/~/b"),
            ("/a/./b", "/a/~/b"),
            ("/a/%2e/b", "/a/~/b"),
            ("/a\\b/c", "/~/c"),
            ("/a%2Fb/c", "/~/c"),
            ("/a%zz/c", "/~/c"),
            ("/a%ff/c", "/~/c"),
            ("/ä/c", "/~/c"),
            ("//a/", "//a/"),
            ("*", "~"),
        ] {
            assert_eq!(routing_path(path), shown, "{path}");
        }
    }

    #[test]
    fn arguments_are_decoded_once() {
        let template = Template::new("/a/{x}/b/{y}", false);
        assert_eq!(template.patterns(), ["/a/:/b/:"]);
        let arguments = template.arguments("/a/%2521%2F/b/..").unwrap();
        assert_eq!(arguments, ["%21/", ".."]);
        for path in ["/a/%ff/b/c", "/a/%/b/c", "/a/b/b/%2"] {
            template.arguments(path).expect_err(path);
        }
    }

    #[test]
    fn an_open_end_may_be_empty_or_missing() {
        let template = Template::new(STATE, true);
        let patterns = template.patterns();
        let state = "/_matrix/client/v3/rooms/:/state/:";
        let expected = [format!("{state}/"), state.to_owned(), format!("{state}/:")];
        assert_eq!(patterns, expected);
        let room = "/_matrix/client/v3/rooms/!r/state/m.room.name";
        for (end, key) in [("", ""), ("/", ""), ("/k", "k")] {
            let arguments = template.arguments(&format!("{room}{end}")).unwrap();
            assert_eq!(arguments, ["!r", "m.room.name", key]);
        }
    }

    #[test]
    fn invalid_percent_encoding_is_rejected() {
        assert_eq!(decode("%C3%a4%25").unwrap(), "ä%");
        for bad in ["%", "%4", "%4g", "a%", "%%41", "%C3"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
