//! Previews of web pages ([`GET /preview_url`]). They must be enabled by the owner, as any user can make
//! this server request any page.
//!
//! [`GET /preview_url`]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header};
use serde_json::{Map, Value};

use super::Error;
use crate::{
    cache::Cache,
    clock::Clock,
    config::Size,
    executor::Executor,
    fair_semaphore::FairSemaphore,
    federation::{
        Client, Error as PeerError,
        transport::{
            connect::{StreamedResponse, with_timeout},
            web_url::{Scheme, WebUrl},
        },
    },
    media::{self, Media, PageMetadata},
    pool::{self, Kind, Pool},
    shares::Shares,
    single_flight::SingleFlight,
    store::UserNum,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// How much of a page is read.
const MAX_PAGE_BYTES: usize = 512 * 1024;
const MAX_PICTURE: Size = Size::mebi(10);
/// How many previews are made at once, and for one user.
const MAX_CONCURRENT: usize = 4;
const MAX_CONCURRENT_PER_USER: usize = 2;
/// How many previews are made or queued.
const MAX_QUEUED: usize = 200;
const MAX_QUEUED_PER_USER: usize = 50;
/// For how long a preview is cached, and for how long a failure.
const TTL: Duration = Duration::from_hours(1);
const FAILURE_TTL: Duration = Duration::from_mins(5);
const MAX_CACHED: usize = 500;
const MAX_CACHED_BYTES: usize = 512 * 1024;
const MAX_URL_BYTES: usize = 2000;

/// The Open Graph fields of a page.
pub type Preview = Arc<Map<String, Value>>;

/// Makes previews. Clones are the same.
#[derive(Clone)]
pub struct Previews(Arc<PreviewsInner>);

struct PreviewsInner {
    client: Client,
    media: Media,
    pool: Pool,
    executor: Executor,
    cached: Cache<String, Result<Preview, Error>>,
    requests: SingleFlight<String, Result<Preview, Error>>,
    permits: FairSemaphore<UserNum>,
    user_shares: Shares<UserNum>,
}

impl std::fmt::Debug for Previews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Previews").finish_non_exhaustive()
    }
}

impl Previews {
    pub fn new(
        client: &Client,
        media: &Media,
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Self {
        Self(Arc::new(PreviewsInner {
            client: client.clone(),
            media: media.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            cached: Cache::with_max_bytes(clock, MAX_CACHED, MAX_CACHED_BYTES),
            requests: SingleFlight::new(MAX_QUEUED),
            permits: FairSemaphore::new(MAX_CONCURRENT, MAX_CONCURRENT_PER_USER),
            user_shares: Shares::new(MAX_QUEUED_PER_USER),
        }))
    }

    /// The preview of the page at `url`, empty if it is neither a page nor a picture.
    pub async fn preview(&self, user: UserNum, url: &str) -> Result<Preview, Error> {
        let url = parse_url(url).ok_or(media::Error::Invalid("this is no link to the web"))?;
        let key = format!("{url:?}");
        if let Some(cached) = self.0.cached.get(&key) {
            return cached;
        }
        let (this, name) = (self.clone(), key.clone());
        let work = move || async move { this.run(user, name, url).await };
        let (requests, shares) = (&self.0.requests, (&self.0.user_shares, user));
        let request = requests.start_for(shares, &self.0.executor, key, work);
        let made = request.ok_or(PeerError::TimedOut)?.wait().await;
        made.unwrap_or(Err(PeerError::TimedOut.into()))
    }

    async fn run(&self, user: UserNum, key: String, url: WebUrl) -> Result<Preview, Error> {
        let _permit = self.0.permits.acquire(user).await;
        let made = with_timeout(TIMEOUT, Box::pin(self.make(url))).await;
        let made = made.map_err(Error::from).flatten().map(Arc::new);
        let bytes = made.as_ref().map_or(0, |made| size(made));
        let bytes = key.len() + bytes + 256;
        let ttl = if made.is_ok() { TTL } else { FAILURE_TTL };
        self.0.cached.insert_sized(key, made.clone(), bytes, ttl);
        made
    }

    async fn make(&self, url: WebUrl) -> Result<Map<String, Value>, Error> {
        let (url, response) = self.0.client.get_web(url, true).await?;
        let kind = media_type(&response.head.headers);
        if kind.starts_with("image/") {
            return Ok(self.keep_picture(response).await?.unwrap_or_default());
        }
        if kind != "text/html" && kind != "application/xhtml+xml" {
            return Ok(Map::new());
        }
        let page = self.read_page(response).await?;
        let mut preview: Map<String, Value> = page
            .fields
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let link = page.image.and_then(|link| resolve(&url, &link));
        if let Some(link) = link {
            match self.fetch_picture(link).await {
                Ok(picture) => preview.extend(picture.unwrap_or_default()),
                Err(error) => log::debug!("the preview of {} has no picture: {error}", url.host),
            }
        }
        Ok(preview)
    }

    async fn read_page(&self, mut response: StreamedResponse) -> Result<PageMetadata, Error> {
        let mut html = Vec::new();
        while let Some(chunk) = response.next().await? {
            let left = MAX_PAGE_BYTES - html.len();
            html.extend_from_slice(&chunk[..chunk.len().min(left)]);
            // The fields are at the beginning of a page.
            if html.len() == MAX_PAGE_BYTES {
                break;
            }
        }
        let read = move || media::parse_html_metadata(&String::from_utf8_lossy(&html));
        let page = self.0.pool.run(Kind::Picture, read).await;
        Ok(page.map_err(|error: pool::Error| media::Error::from(error))?)
    }

    async fn fetch_picture(&self, url: WebUrl) -> Result<Option<Map<String, Value>>, Error> {
        let (_, response) = self.0.client.get_web(url, true).await?;
        self.keep_picture(response).await
    }

    /// Stores the picture of a response. None if it is not a picture.
    async fn keep_picture(
        &self,
        mut response: StreamedResponse,
    ) -> Result<Option<Map<String, Value>>, Error> {
        let mut file = self.0.media.begin_download().await?;
        let mut left = MAX_PICTURE.bytes();
        while let Some(chunk) = response.next().await? {
            let Some(less) = left.checked_sub(chunk.len() as u64) else {
                return Err(media::Error::RemoteTooLarge(MAX_PICTURE).into());
            };
            left = less;
            file.write(&chunk).await?;
        }
        let content = file.finish().await?;
        let size = content.size;
        let Some((uri, seen)) = self.0.media.store_preview_image(content).await? else {
            return Ok(None);
        };
        Ok(Some(Map::from_iter([
            ("og:image".to_owned(), uri.as_str().into()),
            ("og:image:type".to_owned(), seen.content_type.into()),
            ("og:image:width".to_owned(), seen.width.into()),
            ("og:image:height".to_owned(), seen.height.into()),
            ("matrix:image:size".to_owned(), size.into()),
        ])))
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

fn size(preview: &Map<String, Value>) -> usize {
    let texts = preview.values().filter_map(Value::as_str);
    texts.map(str::len).sum::<usize>() + 64 * preview.len()
}

fn parse_url(url: &str) -> Option<WebUrl> {
    if url.len() > MAX_URL_BYTES {
        return None;
    }
    WebUrl::parse(url.split('#').next()?)
}

/// The URL of a link on the page at `url`.
fn resolve(url: &WebUrl, link: &str) -> Option<WebUrl> {
    if link.starts_with("//") {
        let scheme = match url.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        return parse_url(&format!("{scheme}:{link}"));
    }
    if link.contains("://") {
        return parse_url(link);
    }
    if link.starts_with('/') {
        return url.redirected(link);
    }
    let path = url.path.split('?').next()?;
    let (directory, _) = path.rsplit_once('/')?;
    url.redirected(&format!("{directory}/{link}"))
}

#[cfg(test)]
mod tests {
    use super::{WebUrl, parse_url, resolve};

    fn shown(url: Option<WebUrl>) -> Option<String> {
        url.map(|url| {
            let port = url.port.map_or(String::new(), |port| format!(":{port}"));
            format!("{:?} {}{port}{}", url.scheme, url.host, url.path)
        })
    }

    #[test]
    fn only_http_and_https_urls_are_previewed() {
        for (link, place) in [
            ("https://a.example/b?c#d", Some("Https a.example/b?c")),
            ("http://a.example/b", Some("Http a.example/b")),
            ("https://a.example:8443/", Some("Https a.example:8443/")),
            ("http://a.example:8080/", Some("Http a.example:8080/")),
            ("ftp://a.example/", None),
            ("file:///etc/passwd", None),
            ("/etc/passwd", None),
            ("javascript:alert(1)", None),
            ("", None),
        ] {
            assert_eq!(shown(parse_url(link)).as_deref(), place, "{link}");
        }
    }

    #[test]
    fn links_on_a_page_are_resolved_against_its_url() {
        let page = parse_url("https://a.example/b/c?d=/e").unwrap();
        for (link, place) in [
            ("/x.png", Some("Https a.example/x.png")),
            ("x.png", Some("Https a.example/b/x.png")),
            ("//c.example/x.png", Some("Https c.example/x.png")),
            ("http://c.example/x.png", Some("Http c.example/x.png")),
            (
                "data:image/png;base64,AAAA",
                Some("Https a.example/b/data:image/png;base64,AAAA"),
            ),
            ("file:///x", None),
        ] {
            assert_eq!(shown(resolve(&page, link)).as_deref(), place, "{link}");
        }
    }
}
