//! What another server answers when it is asked for media: `multipart/mixed` with two parts, read as
//! it comes ([server-server API, "Content Repository"], RFC 2046).
//!
//! [server-server API, "Content Repository"]: https://spec.matrix.org/v1.19/server-server-api/#content-repository

use http::{HeaderMap, HeaderName, HeaderValue, header};
use memchr::{memchr, memmem};
use ruma::http_headers::ContentDisposition;

use crate::federation::Error;

/// How large the headers of a part can be, and everything before the media, in bytes.
const HEADERS: usize = 16 * 1024;
const BEFORE: usize = 128 * 1024;
/// What may be around the media, in bytes.
pub const AROUND: u64 = 2 * BEFORE as u64;
/// The longest that a boundary can be.
const BOUNDARY: usize = 70;

/// What media are, as their server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub content_type: String,
    pub name: Option<String>,
    /// Where they are, if they are not here.
    pub location: Option<String>,
}

impl Told {
    /// What the headers say.
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

/// Reads an answer.
pub struct Parts {
    /// What ends a part.
    delimiter: Vec<u8>,
    /// What has come and has not been read.
    buffer: Vec<u8>,
    state: State,
    /// How much may still come before the media.
    before: usize,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the parts, or in the one that says nothing of interest: so many are behind.
    Skipping(u8),
    /// Behind a delimiter.
    Headers(u8),
    Content,
    End,
}

impl Parts {
    /// For an answer with these headers.
    pub fn new(headers: &HeaderMap) -> Result<Self, Error> {
        let kind = headers.get(header::CONTENT_TYPE);
        let boundary = kind.and_then(|kind| boundary(kind.to_str().ok()?));
        let boundary = boundary.ok_or_else(|| nonsense("media that are not multipart/mixed"))?;
        Ok(Self {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            // The first delimiter may stand at the very beginning.
            buffer: b"\r\n".to_vec(),
            state: State::Skipping(0),
            before: BEFORE,
            told: Told::default(),
        })
    }

    /// Takes what comes; gives what of it are media.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<u8>, Error> {
        let mut media = Vec::new();
        if self.state == State::End {
            return Ok(media);
        }
        if self.state != State::Content {
            let left = self.before.checked_sub(piece.len());
            // The piece may be media already, of which it holds as much as it likes.
            self.before = left.unwrap_or(0);
        }
        self.buffer.extend_from_slice(piece);
        while self.step(&mut media)? {}
        if self.before == 0 && !matches!(self.state, State::Content | State::End) {
            return Err(nonsense("too much before the media"));
        }
        Ok(media)
    }

    /// What the server says of the media, once they begin.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.state == State::End
    }

    /// Goes one step forward, if enough has come for that.
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
                let Some(headers) = self.headers()? else {
                    return Ok(false);
                };
                self.state = if part == 0 {
                    State::Skipping(1)
                } else {
                    self.told = Told::of(&headers);
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

    /// What comes before the next delimiter, as far as it has come, and whether that has come too.
    fn until_delimiter(&mut self) -> (Vec<u8>, bool) {
        match memmem::find(&self.buffer, &self.delimiter) {
            Some(place) => {
                let rest = self.buffer.split_off(place + self.delimiter.len());
                let mut content = std::mem::replace(&mut self.buffer, rest);
                content.truncate(place);
                (content, true)
            }
            None => {
                // Its beginning may have come.
                let safe = (self.buffer.len() + 1).saturating_sub(self.delimiter.len());
                let rest = self.buffer.split_off(safe);
                (std::mem::replace(&mut self.buffer, rest), false)
            }
        }
    }

    /// The rest of the delimiter's line and the headers behind it, if all of them have come. Some
    /// servers end lines with a line feed alone.
    fn headers(&mut self) -> Result<Option<HeaderMap>, Error> {
        let mut headers = HeaderMap::new();
        let mut start = 0;
        let mut is_first = true;
        while let Some(length) = memchr(b'\n', &self.buffer[start..]) {
            let line = self.buffer[start..start + length].trim_ascii();
            start += length + 1;
            if start > HEADERS {
                break;
            }
            match line {
                line if std::mem::take(&mut is_first) => {
                    if !line.is_empty() {
                        return Err(nonsense("a part is missing"));
                    }
                }
                [] => {
                    self.buffer.drain(..start);
                    return Ok(Some(headers));
                }
                line => {
                    let (name, value) = header_of(line)?;
                    headers.append(name, value);
                }
            }
        }
        if self.buffer.len() > HEADERS {
            return Err(nonsense("too many headers"));
        }
        Ok(None)
    }
}

fn header_of(line: &[u8]) -> Result<(HeaderName, HeaderValue), Error> {
    let colon = memchr(b':', line).ok_or_else(|| nonsense("a header without a colon"))?;
    let name = HeaderName::from_bytes(line[..colon].trim_ascii());
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
    match (name, value) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(nonsense("a header that is none")),
    }
}

/// The boundary that a content type names, if it is that of several parts.
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
    (1..=BOUNDARY).contains(&boundary.len()).then_some(boundary)
}

fn nonsense(why: &str) -> Error {
    Error::Nonsense(why.into())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

    use super::{Parts, Told};
    use crate::federation::Error;

    const GOOD: &str = "\r\n--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n\
                        Content-Type: text/plain\r\nContent-Disposition: inline; filename=a.txt\r\n\r\n\
                        some\r\n--ab text\r\n--abc--\r\n";

    fn parts(content_type: &'static str) -> Result<Parts, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Parts::new(&headers)
    }

    /// Reads `body` in pieces of so many bytes.
    fn read(body: &[u8], piece: usize) -> Result<(Told, Vec<u8>, bool), Error> {
        let mut parts = parts("multipart/mixed; boundary=abc")?;
        let mut media = Vec::new();
        for piece in body.chunks(piece) {
            media.extend(parts.push(piece)?);
        }
        Ok((parts.told().clone(), media, parts.is_whole()))
    }

    #[test]
    fn media_are_read_whatever_the_pieces_are_that_they_come_in() {
        for piece in 1..GOOD.len() {
            let (told, media, whole) = read(GOOD.as_bytes(), piece).unwrap();
            assert_eq!(media, b"some\r\n--ab text", "{piece}");
            assert_eq!((&*told.content_type, whole), ("text/plain", true));
            assert_eq!(told.name.as_deref(), Some("a.txt"));
        }
    }

    #[test]
    fn what_other_servers_are_known_to_send_is_read() {
        for body in [
            // Without anything before the first delimiter, and with nothing behind the last.
            "--abc\r\n\r\n{}\r\n--abc\r\nContent-Type: a/b\r\n\r\nx\r\n--abc",
            // With blanks, and with line feeds alone.
            "  \r\n--abc \r\ncontent-type:  application/json \r\n\r\n {} \r\n--abc\ncontent-type: a/b\n\nx\r\n--abc--",
        ] {
            let (told, media, whole) = read(body.as_bytes(), 7).unwrap();
            assert_eq!(
                (&*media, &*told.content_type, whole),
                (&b"x"[..], "a/b", true)
            );
        }
    }

    #[test]
    fn media_may_be_elsewhere() {
        let body = "--abc\r\n\r\n{}\r\n--abc\r\nLocation: https://cdn.example/x\r\n\r\n\r\n--abc--";
        let (told, media, whole) = read(body.as_bytes(), 9).unwrap();
        assert_eq!(told.location.as_deref(), Some("https://cdn.example/x"));
        assert!(media.is_empty() && whole);
    }

    #[test]
    fn what_breaks_off_is_not_whole_and_what_is_cut_never_panics() {
        let end = GOOD.len() - "--\r\n".len();
        for length in 0..end {
            if let Ok((_, _, whole)) = read(&GOOD.as_bytes()[..length], 5) {
                assert!(!whole, "{length}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for kind in [
            "text/plain",
            "multipart/mixed",
            "multipart/mixed; boundary=\"\"",
        ] {
            assert!(parts(kind).is_err(), "{kind}");
        }
        let endless = "x".repeat(200_000);
        let headers = format!("--abc\r\n{}: y", "x".repeat(20_000));
        let many = format!("--abc\r\n{}", "a: b\r\n".repeat(50_000));
        let many_in_one = format!("--abc\n{}\n\n--abc\n\n\n--abc--", "a:\n".repeat(40_000));
        assert!(read(many_in_one.as_bytes(), many_in_one.len()).is_err());
        for body in [
            "--abc--\r\n\r\n",
            "--abc\r\nno colon\r\n\r\n",
            "--abc\r\n: empty\r\n\r\n",
            &endless,
            &headers,
            &many,
        ] {
            assert!(read(body.as_bytes(), 1000).is_err());
        }
    }
}
