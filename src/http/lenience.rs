//! What clients and servers send slightly wrong, and what it is read as.

use http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery};

/// Optional arguments that some clients send without a value where they mean to leave them out.
const OPTIONAL_ARGUMENTS: &[&str] = &[
    "at",
    "dir",
    "filter",
    "from",
    "full_state",
    "include",
    "limit",
    "max_depth",
    "membership",
    "next_batch",
    "not_membership",
    "only",
    "recurse",
    "server",
    "server_name",
    "set_presence",
    "since",
    "suggested_only",
    "timeout",
    "to",
    "via",
];

/// Drops [`OPTIONAL_ARGUMENTS`] of the query that have no value.
pub(super) fn drop_empty_arguments(uri: &mut Uri) {
    let Some(query) = uri.query() else {
        return;
    };
    let is_empty = |argument: &str| {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        value.is_empty() && OPTIONAL_ARGUMENTS.contains(&name)
    };
    if !query.split('&').any(is_empty) {
        return;
    }
    let kept: Vec<_> = query
        .split('&')
        .filter(|argument| !is_empty(argument))
        .collect();
    let path = format!("{}?{}", uri.path(), kept.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    if let Ok(without) = Uri::from_parts(parts) {
        *uri = without;
    }
}

/// The scheme in `Authorization` may be followed by several spaces (RFC 9110, 11.4).
pub(super) fn single_space_in_authorization(headers: &mut HeaderMap) {
    let Some(value) = headers.get_mut(header::AUTHORIZATION) else {
        return;
    };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return;
    };
    if rest.starts_with(' ')
        && let Ok(mut single) = HeaderValue::try_from(format!("{scheme} {}", rest.trim_start()))
    {
        single.set_sensitive(value.is_sensitive());
        *value = single;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_arguments_without_a_value_count_as_absent() {
        for (uri, expected) in [
            ("/a?from=1&to=2", "/a?from=1&to=2"),
            ("/a?from=&to=2", "/a?to=2"),
            ("/a?from&to=2", "/a?to=2"),
            ("/a?from=&to=", "/a?"),
            ("/a?username=", "/a?username="),
            ("/a", "/a"),
            ("http://here/a?since=", "http://here/a?"),
        ] {
            let mut uri: Uri = uri.parse().unwrap();
            drop_empty_arguments(&mut uri);
            assert_eq!(uri.to_string(), expected);
        }
    }

    #[test]
    fn several_spaces_after_the_scheme_count_as_one() {
        for (value, expected) in [
            ("Bearer   token", "Bearer token"),
            (
                "X-Matrix  origin=a,key=\"b  c\"",
                "X-Matrix origin=a,key=\"b  c\"",
            ),
            ("Bearer token", "Bearer token"),
            ("Bearer", "Bearer"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            single_space_in_authorization(&mut headers);
            assert_eq!(headers[header::AUTHORIZATION], expected);
        }
    }
}
