//! What web pages say of themselves, for clients that show a link ([`GET /preview_url`]). Only if the
//! owner of the server wants that: it makes the server ask whomever a user names.
//!
//! Pages are asked for by `https` alone, whatever the link says.
//!
//! [`GET /preview_url`]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header};
use serde_json::{Map, Value};
use smol::lock::Semaphore;

use super::Error;
use crate::{
    clock::Clock,
    config::Size,
    federation::{
        Client,
        locks::Locks,
        remembered::Remembered,
        transport::{
            connect::{Answer, in_time},
            web::Place,
        },
    },
    media::{self, Media, PageMetadata},
    pool::{self, Kind, Pool},
};

/// How long making one may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of a page is read, and how large its picture may be.
const PAGE: usize = 512 * 1024;
const PICTURE: Size = Size::mebi(10);
/// How many are made at once, and among how many locks those that are wanted are divided.
const AT_ONCE: usize = 4;
const LOCKS: usize = 64;
/// How long one is shown, and nothing where there was none; how many are remembered, and the memory
/// that they take.
const SHOWN: Duration = Duration::from_hours(1);
const FAILED: Duration = Duration::from_mins(5);
const REMEMBERED: usize = 500;
const BYTES: usize = 512 * 1024;
/// How long a link may be.
const LONGEST: usize = 2000;

/// What is shown of a page.
pub type Preview = Arc<Map<String, Value>>;

/// Makes previews.
pub struct Previews {
    client: Client,
    media: Media,
    pool: Pool,
    known: Remembered<String, Result<Preview, Error>>,
    /// Each is made once for all who want it.
    turns: Locks<LOCKS>,
    slots: Semaphore,
}

impl std::fmt::Debug for Previews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Previews").finish_non_exhaustive()
    }
}

impl Previews {
    /// Asks with `client`, and puts pictures into `media`.
    pub fn new(client: &Client, media: &Media, (clock, pool): (&Clock, &Pool)) -> Self {
        Self {
            client: client.clone(),
            media: media.clone(),
            pool: pool.clone(),
            known: Remembered::new(clock, REMEMBERED, BYTES),
            turns: Locks::default(),
            slots: Semaphore::new(AT_ONCE),
        }
    }

    /// What the page at `url` says of itself; nothing if it is no page.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn preview(&self, url: &str) -> Result<Preview, Error> {
        let place = place_of(url).ok_or(media::Error::Invalid("this is no link to the web"))?;
        let key = format!("{place:?}");
        if let Some(known) = self.known.get(&key) {
            return known;
        }
        let _turn = self.turns.of(&key).await;
        if let Some(known) = self.known.get(&key) {
            return known;
        }
        let _slot = self.slots.acquire().await;
        let made = in_time(PATIENCE, Box::pin(self.make(place))).await;
        let made = made.map_err(Error::from).flatten().map(Arc::new);
        let bytes = made.as_ref().map_or(0, |made| size(made));
        let size = key.len() + bytes + 256;
        let holds = if made.is_ok() { SHOWN } else { FAILED };
        self.known.put(key, made.clone(), size, holds);
        made
    }

    async fn make(&self, place: Place) -> Result<Map<String, Value>, Error> {
        let (place, answer) = self.client.open_on_the_web(place).await?;
        let kind = kind(&answer.head.headers);
        if kind.starts_with("image/") {
            return Ok(self.picture(answer).await?.unwrap_or_default());
        }
        if kind != "text/html" && kind != "application/xhtml+xml" {
            return Ok(Map::new());
        }
        let page = self.page(answer).await?;
        let mut shown: Map<String, Value> = page
            .fields
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let link = page.image.and_then(|link| linked(&place, &link));
        if let Some(link) = link {
            match self.fetch_picture(link).await {
                Ok(picture) => shown.extend(picture.unwrap_or_default()),
                // The page is worth something without.
                Err(error) => log::debug!("no picture in a preview: {error}"),
            }
        }
        Ok(shown)
    }

    async fn page(&self, mut answer: Answer) -> Result<PageMetadata, Error> {
        let mut html = Vec::new();
        while let Some(piece) = answer.next().await? {
            let room = PAGE - html.len();
            html.extend_from_slice(&piece[..piece.len().min(room)]);
            // What a page says of itself stands at its beginning.
            if html.len() == PAGE {
                break;
            }
        }
        let read = move || media::parse_html_metadata(&String::from_utf8_lossy(&html));
        let page = self.pool.run(Kind::Picture, read).await;
        Ok(page.map_err(|error: pool::Error| media::Error::from(error))?)
    }

    async fn fetch_picture(&self, place: Place) -> Result<Option<Map<String, Value>>, Error> {
        let (_, answer) = self.client.open_on_the_web(place).await?;
        self.picture(answer).await
    }

    /// Keeps the picture in an answer, if it is one; what is shown of it.
    async fn picture(&self, mut answer: Answer) -> Result<Option<Map<String, Value>>, Error> {
        let mut draft = self.media.begin_download().await?;
        let mut left = PICTURE.bytes();
        while let Some(piece) = answer.next().await? {
            let Some(less) = left.checked_sub(piece.len() as u64) else {
                return Err(media::Error::RemoteTooLarge(PICTURE).into());
            };
            left = less;
            draft.write(&piece).await?;
        }
        let content = draft.finish().await?;
        let size = content.size;
        let Some((uri, seen)) = self.media.store_preview_image(content).await? else {
            return Ok(None);
        };
        Ok(Some(Map::from_iter([
            ("og:image".to_owned(), uri.as_str().into()),
            ("og:image:type".to_owned(), seen.kind.into()),
            ("og:image:width".to_owned(), seen.width.into()),
            ("og:image:height".to_owned(), seen.height.into()),
            ("matrix:image:size".to_owned(), size.into()),
        ])))
    }
}

/// What kind of thing an answer is.
fn kind(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

fn size(preview: &Map<String, Value>) -> usize {
    let texts = preview.values().filter_map(Value::as_str);
    texts.map(str::len).sum::<usize>() + 64 * preview.len()
}

/// Where a link leads to.
fn place_of(link: &str) -> Option<Place> {
    if link.len() > LONGEST {
        return None;
    }
    let link = link.split('#').next()?;
    match link.strip_prefix("http://") {
        // With another port it is another server.
        Some(rest) => Place::of(&format!("https://{rest}")).filter(|place| place.port.is_none()),
        None => Place::of(link),
    }
}

/// Where a link on the page at `place` leads to.
fn linked(place: &Place, link: &str) -> Option<Place> {
    if let Some(rest) = link.strip_prefix("//") {
        return place_of(&format!("https://{rest}"));
    }
    if link.contains("://") {
        return place_of(link);
    }
    if link.starts_with('/') {
        return place.redirected(link);
    }
    let path = place.path.split('?').next()?;
    let (directory, _) = path.rsplit_once('/')?;
    place.redirected(&format!("{directory}/{link}"))
}

#[cfg(test)]
mod tests {
    use super::{linked, place_of};

    fn shown(place: Option<super::Place>) -> Option<String> {
        place.map(|place| {
            let port = place.port.map_or(String::new(), |port| format!(":{port}"));
            format!("{}{port}{}", place.host, place.path)
        })
    }

    #[test]
    fn links_lead_to_the_web_by_https_and_nowhere_else() {
        for (link, place) in [
            ("https://a.example/b?c#d", Some("a.example/b?c")),
            ("http://a.example/b", Some("a.example/b")),
            ("https://a.example:8443/", Some("a.example:8443/")),
            ("http://a.example:8080/", None),
            ("ftp://a.example/", None),
            ("file:///etc/passwd", None),
            ("/etc/passwd", None),
            ("javascript:alert(1)", None),
            ("", None),
        ] {
            assert_eq!(shown(place_of(link)).as_deref(), place, "{link}");
        }
    }

    #[test]
    fn links_on_a_page_lead_from_where_it_is() {
        let page = place_of("https://a.example/b/c?d=/e").unwrap();
        for (link, place) in [
            ("/x.png", Some("a.example/x.png")),
            ("x.png", Some("a.example/b/x.png")),
            ("//c.example/x.png", Some("c.example/x.png")),
            ("http://c.example/x.png", Some("c.example/x.png")),
            (
                "data:image/png;base64,AAAA",
                Some("a.example/b/data:image/png;base64,AAAA"),
            ),
            ("file:///x", None),
        ] {
            assert_eq!(shown(linked(&page, link)).as_deref(), place, "{link}");
        }
    }
}
