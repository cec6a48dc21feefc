//! Arguments of the query that change what a request means, of features that hearth does not have. A request
//! with one is refused: without it, it would do something else than its client wants.

use http::Uri;
use ruma::exports::serde_html_form;

/// The names, or how they begin.
const REFUSED: &[&str] = &[
    // Delayed events: they would be sent at once (matrix-js-sdk, ruma).
    "org.matrix.msc4140.",
    // Sticky events: they would not be delivered to who joins later (matrix-js-sdk, ruma).
    "org.matrix.msc4354.sticky_duration_ms",
    // Changes of a profile that are not to be shown in all rooms (ruma).
    "computer.gingershaped.msc4466.propagate_to",
];

/// The first argument of `uri` that is refused. Every request comes here, so only names with escapes are decoded.
pub(super) fn find(uri: &Uri) -> Option<&'static str> {
    let arguments = uri.query()?.split('&');
    let names = arguments.map(|argument| argument.split('=').next().unwrap_or_default());
    names.filter_map(refused).next()
}

fn refused(name: &str) -> Option<&'static str> {
    if name.contains('%') {
        let decoded: Vec<(String, String)> = serde_html_form::from_str(name).ok()?;
        return decoded.iter().find_map(|(name, _)| refused_decoded(name));
    }
    refused_decoded(name)
}

fn refused_decoded(name: &str) -> Option<&'static str> {
    let refused = REFUSED.iter().find(|refused| name.starts_with(**refused));
    refused.copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_arguments_are_found_wherever_they_are_and_however_they_are_encoded() {
        for (uri, expected) in [
            ("/a", None),
            ("/a?", None),
            ("/a?ts=1&org.matrix.msc4140=1", None),
            ("/a?x=1&org.matrix.msc4140.delay=1", Some(REFUSED[0])),
            ("/a?org.matrix.msc4140.parent_delay_id", Some(REFUSED[0])),
            ("/a?org%2Ematrix.msc4140.delay=1", Some(REFUSED[0])),
            ("/a?%ff=1&org%2Ematrix.msc4140.delay=%26", Some(REFUSED[0])),
            ("/a?filter=org.matrix.msc4140.delay", None),
        ] {
            assert_eq!(find(&uri.parse().unwrap()), expected, "{uri}");
        }
    }
}
