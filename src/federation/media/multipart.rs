//! Reader of the `multipart/mixed` response with media, of two parts ([server-server API, "Content Repository"], RFC 2046).
//!
//! [server-server API, "Content Repository"]: https://spec.matrix.org/v1.19/server-server-api/#content-repository

use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::{memchr, memmem};
use ruma::http_headers::ContentDisposition;

use crate::federation::Error;

/// The limits of the headers of a part, and of everything before the media.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_BYTES_BEFORE: usize = 128 * 1024;
/// How much longer than the media a response may be, in bytes.
pub const MULTIPART_OVERHEAD: u64 = 2 * MAX_BYTES_BEFORE as u64;
/// By RFC 2046.
const MAX_BOUNDARY_BYTES: usize = 70;

/// What the headers say of the media.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaHeaders {
    pub content_type: String,
    pub name: Option<String>,
    /// The URL of the media, if they are not in this response.
    pub location: Option<String>,
}

impl MediaHeaders {
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
        let disposition = headers.get(header::CONTENT_DISPOSITION);
        let disposition =
            disposition.and_then(|value| ContentDisposition::try_from(value.as_bytes()).ok());
        Self {
            content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
            name: disposition.and_then(|disposition| disposition.filename),
            location: text(header::LOCATION),
        }
    }
}

pub struct MultipartReader {
    delimiter: Vec<u8>,
    /// What was received and is not read yet.
    buffer: Vec<u8>,
    state: State,
    /// How many bytes may still come before the media.
    before: usize,
    headers: MediaHeaders,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the preamble, or in the first part, which is JSON. The number counts parts.
    Skipping(u8),
    /// After a delimiter.
    Headers(u8),
    Content,
    End,
}

impl MultipartReader {
    /// For a response with these headers.
    pub fn new(headers: &HeaderMap) -> Result<Self, Error> {
        let kind = headers.get(header::CONTENT_TYPE);
        let boundary = kind.and_then(|kind| boundary(kind.to_str().ok()?));
        let boundary = boundary.ok_or_else(|| invalid("media that are not multipart/mixed"))?;
        Ok(Self {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            // The first delimiter may stand at the very beginning.
            buffer: b"\r\n".to_vec(),
            state: State::Skipping(0),
            before: MAX_BYTES_BEFORE,
            headers: MediaHeaders::default(),
        })
    }

    /// Reads a chunk of the response. Returns what of it are media.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Error> {
        let mut media = Vec::new();
        if self.state == State::End {
            return Ok(media);
        }
        if self.state != State::Content {
            let left = self.before.checked_sub(chunk.len());
            // The rest of the chunk may be media, which have their own limit.
            self.before = left.unwrap_or(0);
        }
        self.buffer.extend_from_slice(chunk);
        while self.step(&mut media)? {}
        if self.before == 0 && !matches!(self.state, State::Content | State::End) {
            return Err(invalid("too much before the media"));
        }
        Ok(media)
    }

    /// Set when the media begin.
    pub fn media_headers(&self) -> &MediaHeaders {
        &self.headers
    }

    pub fn is_complete(&self) -> bool {
        self.state == State::End
    }

    /// Makes one step, if enough was received for that; whether it did.
    fn step(&mut self, media: &mut Vec<u8>) -> Result<bool, Error> {
        match self.state {
            State::Skipping(part) => {
                let (_, ended) = self.until_delimiter();
                if ended {
                    self.state = State::Headers(part);
                }
                Ok(ended)
            }
            State::Headers(part) => {
                let Some(headers) = self.read_headers()? else {
                    return Ok(false);
                };
                self.state = if part == 0 {
                    State::Skipping(1)
                } else {
                    self.headers = MediaHeaders::of(&headers);
                    State::Content
                };
                Ok(true)
            }
            State::Content => {
                let (content, ended) = self.until_delimiter();
                media.extend(content);
                if ended {
                    self.state = State::End;
                    self.buffer = Vec::new();
                }
                Ok(false)
            }
            State::End => Ok(false),
        }
    }

    /// What was received before the next delimiter, and whether the delimiter was received too.
    fn until_delimiter(&mut self) -> (Vec<u8>, bool) {
        match memmem::find(&self.buffer, &self.delimiter) {
            Some(place) => {
                let rest = self.buffer.split_off(place + self.delimiter.len());
                let mut content = std::mem::replace(&mut self.buffer, rest);
                content.truncate(place);
                (content, true)
            }
            None => {
                // The beginning of the delimiter may have been received.
                let safe = (self.buffer.len() + 1).saturating_sub(self.delimiter.len());
                let rest = self.buffer.split_off(safe);
                (std::mem::replace(&mut self.buffer, rest), false)
            }
        }
    }

    /// Reads the rest of the delimiter's line and the headers after it, if all of them were received. Some
    /// servers end lines with a line feed alone.
    fn read_headers(&mut self) -> Result<Option<HeaderMap>, Error> {
        let mut headers = HeaderMap::new();
        let mut start = 0;
        let mut is_first = true;
        while let Some(length) = memchr(b'\n', &self.buffer[start..]) {
            let line = self.buffer[start..start + length].trim_ascii();
            start += length + 1;
            if start > MAX_HEADER_BYTES {
                break;
            }
            match line {
                line if std::mem::take(&mut is_first) => {
                    if !line.is_empty() {
                        return Err(invalid("a part is missing"));
                    }
                }
                [] => {
                    self.buffer.drain(..start);
                    return Ok(Some(headers));
                }
                line => {
                    let (name, value) = parse_header(line)?;
                    headers.append(name, value);
                }
            }
        }
        if self.buffer.len() > MAX_HEADER_BYTES {
            return Err(invalid("too many headers"));
        }
        Ok(None)
    }
}

fn parse_header(line: &[u8]) -> Result<(HeaderName, HeaderValue), Error> {
    let colon = memchr(b':', line).ok_or_else(|| invalid("a header without a colon"))?;
    let name = HeaderName::from_bytes(line[..colon].trim_ascii());
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
    match (name, value) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(invalid("an invalid header")),
    }
}

/// The boundary of a content type `multipart/mixed`.
fn boundary(content_type: &str) -> Option<String> {
    let mut fields = content_type.split(';');
    let kind = fields.next()?.trim();
    if !kind.eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = fields.find_map(|field| {
        let (name, value) = field.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("boundary");
        is_it.then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (1..=MAX_BOUNDARY_BYTES)
        .contains(&boundary.len())
        .then_some(boundary)
}

fn invalid(why: &str) -> Error {
    Error::InvalidResponse(why.into())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

    use super::{MediaHeaders, MultipartReader};
    use crate::federation::Error;

    const GOOD: &str = "\r\n--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n\
                        Content-Type: text/plain\r\nContent-Disposition: inline; filename=a.txt\r\n\r\n\
                        some\r\n--ab text\r\n--abc--\r\n";

    fn reader(content_type: &'static str) -> Result<MultipartReader, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        MultipartReader::new(&headers)
    }

    /// Reads `body` in chunks of so many bytes.
    fn read(body: &[u8], piece: usize) -> Result<(MediaHeaders, Vec<u8>, bool), Error> {
        let mut reader = reader("multipart/mixed; boundary=abc")?;
        let mut media = Vec::new();
        for piece in body.chunks(piece) {
            media.extend(reader.push(piece)?);
        }
        Ok((reader.media_headers().clone(), media, reader.is_complete()))
    }

    #[test]
    fn media_are_read_whatever_the_size_of_the_chunks() {
        for piece in 1..GOOD.len() {
            let (headers, media, is_complete) = read(GOOD.as_bytes(), piece).unwrap();
            assert_eq!(media, b"some\r\n--ab text", "{piece}");
            assert_eq!((&*headers.content_type, is_complete), ("text/plain", true));
            assert_eq!(headers.name.as_deref(), Some("a.txt"));
        }
    }

    #[test]
    fn responses_of_known_servers_are_read() {
        for body in [
            // Without a preamble, and with nothing after the last delimiter.
            "--abc\r\n\r\n{}\r\n--abc\r\nContent-Type: a/b\r\n\r\nx\r\n--abc",
            // With blanks, and with line feeds alone.
            "  \r\n--abc \r\ncontent-type:  application/json \r\n\r\n {} \r\n--abc\ncontent-type: a/b\n\nx\r\n--abc--",
        ] {
            let (headers, media, is_complete) = read(body.as_bytes(), 7).unwrap();
            assert_eq!(
                (&*media, &*headers.content_type, is_complete),
                (&b"x"[..], "a/b", true)
            );
        }
    }

    #[test]
    fn the_location_of_media_is_read() {
        let body = "--abc\r\n\r\n{}\r\n--abc\r\nLocation: https://cdn.example/x\r\n\r\n\r\n--abc--";
        let (headers, media, is_complete) = read(body.as_bytes(), 9).unwrap();
        assert_eq!(headers.location.as_deref(), Some("https://cdn.example/x"));
        assert!(media.is_empty() && is_complete);
    }

    #[test]
    fn a_truncated_response_is_incomplete_and_does_not_panic() {
        let end = GOOD.len() - "--\r\n".len();
        for length in 0..end {
            if let Ok((_, _, is_complete)) = read(&GOOD.as_bytes()[..length], 5) {
                assert!(!is_complete, "{length}");
            }
        }
    }

    #[test]
    fn invalid_responses_are_rejected() {
        for kind in [
            "text/plain",
            "multipart/mixed",
            "multipart/mixed; boundary=\"\"",
        ] {
            assert!(reader(kind).is_err(), "{kind}");
        }
        let endless = "x".repeat(200_000);
        let long_header = format!("--abc\r\n{}: y", "x".repeat(20_000));
        let many = format!("--abc\r\n{}", "a: b\r\n".repeat(50_000));
        let many_in_one = format!("--abc\n{}\n\n--abc\n\n\n--abc--", "a:\n".repeat(40_000));
        assert!(read(many_in_one.as_bytes(), many_in_one.len()).is_err());
        for body in [
            "--abc--\r\n\r\n",
            "--abc\r\nno colon\r\n\r\n",
            "--abc\r\n: empty\r\n\r\n",
            &endless,
            &long_header,
            &many,
        ] {
            assert!(read(body.as_bytes(), 1000).is_err());
        }
    }
}
