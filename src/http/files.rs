//! Files on the wire: taken as they come, given whole, in part, or not again to those who have them.

use std::{ops::Range, sync::PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::body::Body;
use smol::stream;

use super::{
    body::{Answer, Unread},
    edge::Slot,
    error::{Refusal, no_such_part},
    limits::Times,
};
use crate::api::{Download, Error, Upload};

/// What the specification recommends: nothing in a file is run, whatever a browser takes it for.
const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
/// What is under a media id never changes. It can be taken away, so it is not kept for ever.
const KEPT: &str = "private, max-age=86400, immutable";

/// The body of a request, for a handler that takes it as it comes. What it does not take goes back
/// to `slot`.
pub(super) fn upload(slot: &Slot, times: Times) -> Result<Upload, Refusal> {
    let unread = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let taken = Taken {
        unread: unread.ok_or(Refusal::BrokenOff)?,
        slot: slot.clone(),
    };
    let length = match &taken.unread {
        Unread::Whole(bytes) => Some(bytes.len() as u64),
        Unread::Incoming(body) => body.size_hint().exact(),
    };
    let start = std::time::Instant::now();
    let times = Times {
        body: times.upload,
        ..times
    };
    let pieces = stream::unfold(taken, move |mut taken| async move {
        let piece = taken.unread.next_piece(start, &times).await;
        let piece = piece.map_err(|refusal| Error::unknown(refusal.interruption()));
        piece.transpose().map(|piece| (piece, taken))
    });
    Ok(Upload::new(length, pieces))
}

struct Taken {
    unread: Unread,
    slot: Slot,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut self.unread, Unread::Whole(Vec::new()));
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }
}

/// What a request says about how much of a file it wants.
#[derive(Debug, Default)]
pub(super) struct Wants {
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    if_none_match: Option<HeaderValue>,
}

impl Wants {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let get = |name: HeaderName| headers.get(name).cloned();
        Self {
            range: get(header::RANGE),
            if_range: get(header::IF_RANGE),
            if_none_match: get(header::IF_NONE_MATCH),
        }
    }

    /// The part that is wanted of `size` bytes; none for all of it. [RFC 9110, 14.2]: what makes no
    /// sense, or is more than one range, is as if nobody had asked.
    ///
    /// # Errors
    /// If nothing there is in the range.
    ///
    /// [RFC 9110, 14.2]: https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    fn part(&self, size: u64, tag: &str) -> Result<Option<Range<u64>>, OutOfRange> {
        let same = |asked: &HeaderValue| asked.as_bytes() == tag.as_bytes();
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

    fn has(&self, tag: &str) -> bool {
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

/// The answer with a file, or with what of it is wanted.
pub(super) fn file(download: Download, wants: &Wants) -> Response<Answer> {
    let size = download.file.size();
    let tag = format!("\"{}\"", download.tag);
    if wants.has(&tag) {
        return with_headers(
            Answer::from(Vec::new()),
            StatusCode::NOT_MODIFIED,
            &download,
            &tag,
        );
    }
    let (status, part) = match wants.part(size, &tag) {
        Ok(None) => (StatusCode::OK, 0..size),
        Ok(Some(part)) => (StatusCode::PARTIAL_CONTENT, part),
        Err(OutOfRange) => return no_such_part(size),
    };
    let body = Answer::file(download.file.clone(), part.clone());
    let mut response = with_headers(body, status, &download, &tag);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        put(&mut response, header::CONTENT_RANGE, &range);
    }
    response
}

/// The answer with a file for another server: what is known of it, which nobody has a use for yet, and
/// the file ([content repository]).
///
/// [content repository]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
pub(super) fn multipart(download: Download) -> Response<Answer> {
    let boundary = format!("{:032x}", rand::random::<u128>());
    let before = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n\
         --{boundary}\r\nContent-Type: {}\r\nContent-Disposition: {}\r\n\r\n",
        download.content_type, download.disposition
    );
    let behind = format!("\r\n--{boundary}--\r\n");
    let mut response = Response::new(Answer::framed(before, download.file, behind));
    let kind = format!("multipart/mixed; boundary={boundary}");
    put(&mut response, header::CONTENT_TYPE, &kind);
    response
}

fn with_headers(
    body: Answer,
    status: StatusCode,
    download: &Download,
    tag: &str,
) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let disposition = download.disposition.to_string();
    for (name, value) in [
        (header::CONTENT_TYPE, &*download.content_type),
        (header::CONTENT_DISPOSITION, &*disposition),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, KEPT),
        (header::ETAG, tag),
        (header::ACCEPT_RANGES, "bytes"),
    ] {
        put(&mut response, name, value);
    }
    response
}

/// A value that is none, which nobody could send here, is left out.
fn put(response: &mut Response<Answer>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::Wants;

    fn part(range: &'static str) -> Result<Option<(u64, u64)>, ()> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(range));
        let part = Wants::of(&headers).part(100, "\"tag\"").map_err(|_| ())?;
        Ok(part.map(|part| (part.start, part.end)))
    }

    #[test]
    fn a_range_is_a_first_and_a_last_byte_or_so_many_at_the_end() {
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
    fn a_range_behind_the_end_cannot_be_had() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(part(range), Err(()), "{range}");
        }
    }

    #[test]
    fn what_is_no_range_or_more_than_one_is_as_if_nobody_had_asked() {
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
    fn a_part_of_something_else_is_not_given() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"other\""));
        let wants = Wants::of(&headers);
        assert!(matches!(wants.part(100, "\"tag\""), Ok(None)));
        assert!(matches!(wants.part(100, "\"other\""), Ok(Some(_))));
    }
}
