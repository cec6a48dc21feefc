//! Uploads as streams; downloads whole, in part, or not at all to clients that have them cached.

use std::{ops::Range, sync::PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::body::Body;
use smol::stream;

use super::{
    error::{Rejection, range_not_satisfiable},
    limits::Timeouts,
    request_body::{BodySlot, Pace, RequestBody},
    response_body::ResponseBody,
};
use crate::api::{Download, Error, Upload};

/// As the specification recommends: a browser runs nothing in a file, whatever its type.
const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
/// The content of a media ID never changes, but it can be removed: clients keep it for a day.
const CACHE_CONTROL: &str = "private, max-age=86400, immutable";

/// The body of a request, for a handler that reads it as a stream. What the handler does not read
/// goes back to `slot`.
pub(super) fn upload(slot: &BodySlot, timeouts: Timeouts) -> Result<Upload, Rejection> {
    let unread = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let reader = BodyReader {
        unread: unread.ok_or(Rejection::BodyIncomplete)?,
        slot: slot.clone(),
    };
    let length = match &reader.unread {
        RequestBody::Whole(bytes) => Some(bytes.len() as u64),
        RequestBody::Incoming(body) => body.size_hint().exact(),
    };
    let pace = Pace::new(&Timeouts {
        body: timeouts.upload,
        ..timeouts
    });
    let pieces = stream::unfold((reader, pace), |(mut reader, mut pace)| async move {
        let chunk = reader.unread.next_chunk(&mut pace).await;
        let chunk = chunk.map_err(|rejection| Error::unknown(rejection.interruption()));
        chunk.transpose().map(|chunk| (chunk, (reader, pace)))
    });
    Ok(Upload::new(length, pieces))
}

/// Puts the unread rest of a body back when it is dropped.
struct BodyReader {
    unread: RequestBody,
    slot: BodySlot,
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut self.unread, RequestBody::Whole(Vec::new()));
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }
}

/// The headers of a request that say which part of a file is wanted, and unless what.
#[derive(Debug, Default)]
pub(super) struct ConditionalHeaders {
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    if_none_match: Option<HeaderValue>,
}

impl ConditionalHeaders {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let get = |name: HeaderName| headers.get(name).cloned();
        Self {
            range: get(header::RANGE),
            if_range: get(header::IF_RANGE),
            if_none_match: get(header::IF_NONE_MATCH),
        }
    }

    /// The range that is wanted of `size` bytes; `None` for all. An invalid range, or more than one, is
    /// ignored ([RFC 9110, 14.2]).
    ///
    /// # Errors
    /// If the range begins behind the end.
    ///
    /// [RFC 9110, 14.2]: https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    fn part(&self, size: u64, tag: &str) -> Result<Option<Range<u64>>, OutOfRange> {
        let same = |known: &HeaderValue| known.as_bytes() == tag.as_bytes();
        if !self.if_range.as_ref().is_none_or(same) {
            return Ok(None);
        }
        let range = self.range.as_ref().and_then(|range| range.to_str().ok());
        let Some((first, last)) = range.and_then(bounds) else {
            return Ok(None);
        };
        let part = match (first, last) {
            (Some(first), Some(last)) if first > last => return Ok(None),
            (Some(first), last) => {
                first..last.map_or(size, |last| size.min(last.saturating_add(1)))
            }
            (None, Some(length)) => size.saturating_sub(length)..size,
            (None, None) => return Ok(None),
        };
        if part.start < part.end {
            Ok(Some(part))
        } else {
            Err(OutOfRange)
        }
    }

    /// Whether the client has the version `tag` cached.
    fn has_cached(&self, tag: &str) -> bool {
        let tags = self.if_none_match.as_ref();
        let tags = tags.and_then(|tags| tags.to_str().ok()).unwrap_or_default();
        let same = |known: &str| known == "*" || known.trim_start_matches("W/") == tag;
        tags.split(',').any(|known| same(known.trim()))
    }
}

struct OutOfRange;

/// The two numbers of one range of bytes, of which one may be missing.
fn bounds(range: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |digits: &str| match digits {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(Some(digits.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    };
    Some((number(first)?, number(last)?))
}

/// The response with a file, or with the part of it that is wanted.
pub(super) fn file(download: Download, conditions: &ConditionalHeaders) -> Response<ResponseBody> {
    let size = download.file.size();
    let tag = format!("\"{}\"", download.tag);
    if conditions.has_cached(&tag) {
        return with_headers(
            ResponseBody::from(Vec::new()),
            StatusCode::NOT_MODIFIED,
            &download,
            &tag,
        );
    }
    let (status, part) = match conditions.part(size, &tag) {
        Ok(None) => (StatusCode::OK, 0..size),
        Ok(Some(part)) => (StatusCode::PARTIAL_CONTENT, part),
        Err(OutOfRange) => return range_not_satisfiable(size),
    };
    let body = ResponseBody::file(download.file.clone(), part.clone());
    let mut response = with_headers(body, status, &download, &tag);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        put(&mut response, header::CONTENT_RANGE, &range);
    }
    response
}

/// The response with a file for another server ([content repository]): metadata, which is empty for
/// now, and the file.
///
/// [content repository]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
pub(super) fn multipart(download: Download) -> Response<ResponseBody> {
    let boundary = format!("{:032x}", rand::random::<u128>());
    let before = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n\
         --{boundary}\r\nContent-Type: {}\r\nContent-Disposition: {}\r\n\r\n",
        download.content_type, download.disposition
    );
    let behind = format!("\r\n--{boundary}--\r\n");
    let mut response = Response::new(ResponseBody::framed(before, download.file, behind));
    let kind = format!("multipart/mixed; boundary={boundary}");
    put(&mut response, header::CONTENT_TYPE, &kind);
    response
}

fn with_headers(
    body: ResponseBody,
    status: StatusCode,
    download: &Download,
    tag: &str,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let disposition = download.disposition.to_string();
    for (name, value) in [
        (header::CONTENT_TYPE, &*download.content_type),
        (header::CONTENT_DISPOSITION, &*disposition),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, CACHE_CONTROL),
        (header::ETAG, tag),
        (header::ACCEPT_RANGES, "bytes"),
    ] {
        put(&mut response, name, value);
    }
    response
}

/// Adds a header, unless its value is not valid in a header.
fn put(response: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::ConditionalHeaders;

    fn part(range: &'static str) -> Result<Option<(u64, u64)>, ()> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(range));
        let part = ConditionalHeaders::of(&headers)
            .part(100, "\"tag\"")
            .map_err(|_| ())?;
        Ok(part.map(|part| (part.start, part.end)))
    }

    #[test]
    fn a_range_has_a_first_and_a_last_byte_or_a_suffix_length() {
        for (range, bytes) in [
            ("bytes=0-0", (0, 1)),
            ("bytes=10-19", (10, 20)),
            ("bytes=90-1000", (90, 100)),
            ("bytes=99-", (99, 100)),
            ("bytes=-1", (99, 100)),
            ("bytes=-1000", (0, 100)),
            ("bytes=5-99999999999999999999999", (5, 100)),
        ] {
            assert_eq!(part(range), Ok(Some(bytes)), "{range}");
        }
    }

    #[test]
    fn a_range_behind_the_end_is_not_satisfiable() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(part(range), Err(()), "{range}");
        }
    }

    #[test]
    fn an_invalid_range_or_more_than_one_is_ignored() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=1--2",
        ] {
            assert_eq!(part(range), Ok(None), "{range}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"other\""));
        let conditions = ConditionalHeaders::of(&headers);
        assert!(matches!(conditions.part(100, "\"tag\""), Ok(None)));
        assert!(matches!(conditions.part(100, "\"other\""), Ok(Some(_))));
    }
}
