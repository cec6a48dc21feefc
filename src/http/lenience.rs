//! What clients and servers send slightly wrong, and what it is read as.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery};
use ruma::api::federation::authentication::XMatrix;

/// Optional arguments that some clients send without a value where they mean to leave them out.
const OPTIONAL_ARGUMENTS: &[&str] = &[
    "allow_redirect",
    "allow_remote",
    "animated",
    "at",
    "dir",
    "filter",
    "from",
    "full_state",
    "include",
    "kind",
    "limit",
    "max_depth",
    "membership",
    "next_batch",
    "not_membership",
    "only",
    "org.matrix.msc3981.recurse",
    "org.matrix.msc4222.use_state_after",
    "pos",
    "recurse",
    "server",
    "server_name",
    "set_presence",
    "since",
    "suggested_only",
    "timeout",
    "timeout_ms",
    "to",
    "use_state_after",
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

/// The scheme in `Authorization` may be followed by several spaces (RFC 9110, 11.4). Parameters of `X-Matrix`
/// get quotes: "recipients should allow colons to be included in values without requiring the value to be
/// enclosed in quotes" (server-server API, "Request authentication").
pub(super) fn normalize_authorization(headers: &mut HeaderMap) {
    let Some(value) = headers.get_mut(header::AUTHORIZATION) else {
        return;
    };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return;
    };
    let mut rest = Cow::Borrowed(rest.trim_start_matches(' '));
    if scheme.eq_ignore_ascii_case(XMatrix::AUTH_SCHEME) {
        rest = quote_parameters(&rest).into();
    }
    if let Ok(mut normalized) = HeaderValue::try_from(format!("{scheme} {rest}")) {
        normalized.set_sensitive(value.is_sensitive());
        *value = normalized;
    }
}

/// Puts the values of comma-separated parameters in quotes, where they have none.
fn quote_parameters(parameters: &str) -> String {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parameters = parameters.split(|c| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_quoted,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        c == ',' && !is_quoted
    });
    let quoted = parameters.map(|parameter| match parameter.split_once('=') {
        Some((name, value)) if !value.contains(['"', '\\']) => {
            format!("{}=\"{}\"", name.trim(), value.trim())
        }
        _ => parameter.to_owned(),
    });
    quoted.collect::<Vec<_>>().join(",")
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
            (
                "/a?use_state_after=&org.matrix.msc4222.use_state_after=",
                "/a?",
            ),
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
    fn authorization_may_have_several_spaces_and_colons_without_quotes() {
        for (value, expected) in [
            ("Bearer   token", "Bearer token"),
            (
                "X-Matrix  origin=a,key=\"b  c\"",
                "X-Matrix origin=\"a\",key=\"b  c\"",
            ),
            (
                r#"x-matrix origin=a:1, destination = b:2,key="a,\"=b" ,sig=c+/=="#,
                r#"x-matrix origin="a:1",destination="b:2",key="a,\"=b" ,sig="c+/==""#,
            ),
            ("X-Matrix", "X-Matrix"),
            ("X-Matrix origin", "X-Matrix origin"),
            ("Bearer a=b:c", "Bearer a=b:c"),
            ("Bearer token", "Bearer token"),
            ("Bearer", "Bearer"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            normalize_authorization(&mut headers);
            assert_eq!(headers[header::AUTHORIZATION], expected);
        }
    }
}
