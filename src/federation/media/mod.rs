//! Media of other servers: downloaded once for all who request them, and kept while there is space
//! ([server-server API, "Content Repository"]).
//!
//! [server-server API, "Content Repository"]: https://spec.matrix.org/v1.19/server-server-api/#content-repository

mod multipart;
pub mod previews;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Request, StatusCode, header};
use ruma::{
    OwnedServerName, ServerName,
    api::{error::ErrorKind, federation::authenticated_media::get_content::v1},
};

use self::multipart::{MULTIPART_OVERHEAD, MediaHeaders, MultipartReader};
use super::{
    Client, Error as PeerError,
    transport::{
        connect::{StreamedResponse, with_timeout},
        web_url::WebUrl,
    },
};
use crate::{
    cache::Cache,
    clock::Clock,
    executor::Executor,
    fair_semaphore::FairSemaphore,
    media::{self, FileWriter, Media, MediaInfo, is_media_id},
    shares::Shares,
    single_flight::SingleFlight,
    store::UserNum,
};

/// How many downloads run at once, of all servers, of one, and for one user: slow servers must not delay the
/// others.
const MAX_CONCURRENT: usize = 32;
const MAX_CONCURRENT_PER_SERVER: usize = 8;
const MAX_CONCURRENT_PER_USER: usize = 12;
const MAX_CONCURRENT_PER_SERVER_AND_USER: usize = 4;
/// How many downloads run or are queued.
const MAX_QUEUED: usize = 500;
const MAX_QUEUED_PER_SERVER: usize = 150;
const MAX_QUEUED_PER_USER: usize = 150;
const DOWNLOAD_TIMEOUT: Duration = Duration::from_mins(10);
/// For how long a failed download is not tried again, and how many failures are remembered.
const FAILURE_TTL: Duration = Duration::from_mins(1);
const MAX_FAILURES: usize = 1000;

/// Why media of another server cannot be downloaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Media(#[from] media::Error),
}

/// Server and media id.
type MediaName = (OwnedServerName, String);
type Outcome = Result<(), Error>;

/// The media of other servers. Clones are the same.
#[derive(Clone)]
pub struct RemoteMedia(Arc<RemoteMediaInner>);

struct RemoteMediaInner {
    client: Client,
    media: Media,
    executor: Executor,
    downloads: SingleFlight<MediaName, Outcome>,
    failures: Cache<MediaName, Error>,
    permits: FairSemaphore<UserNum>,
    user_shares: Shares<UserNum>,
    server_permits: Mutex<HashMap<OwnedServerName, FairSemaphore<UserNum>>>,
}

impl fmt::Debug for RemoteMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteMedia").finish_non_exhaustive()
    }
}

impl RemoteMedia {
    pub fn new(client: &Client, media: &Media, clock: &Clock, executor: &Executor) -> Self {
        Self(Arc::new(RemoteMediaInner {
            client: client.clone(),
            media: media.clone(),
            executor: executor.clone(),
            downloads: SingleFlight::new(MAX_QUEUED),
            failures: Cache::new(clock, MAX_FAILURES),
            permits: FairSemaphore::new(MAX_CONCURRENT, MAX_CONCURRENT_PER_USER),
            user_shares: Shares::new(MAX_QUEUED_PER_USER),
            server_permits: Mutex::default(),
        }))
    }

    /// Downloads the media `id` of `server` into [`Media`], for `user` unless it is under way. The download
    /// goes on if the caller stops waiting.
    pub async fn fetch(&self, user: UserNum, server: &ServerName, id: &str) -> Result<(), Error> {
        if !is_media_id(id) {
            return Err(media::Error::NotFound.into());
        }
        let name = (server.to_owned(), id.to_owned());
        let downloads = &self.0.downloads;
        if let Some(error) = self.0.failures.get(&name) {
            return Err(error);
        }
        let of_server = downloads.count(|(other, _)| other == server);
        if of_server >= MAX_QUEUED_PER_SERVER && !downloads.is_under_way(&name) {
            return Err(PeerError::TimedOut.into());
        }
        let (this, key) = (self.clone(), name.clone());
        let work = move || async move { this.run(user, name).await };
        let shares = (&self.0.user_shares, user);
        let download = downloads.start_for(shares, &self.0.executor, key, work);
        let outcome = download.ok_or(PeerError::TimedOut)?.wait().await;
        outcome.unwrap_or(Err(PeerError::TimedOut.into()))
    }

    async fn run(&self, user: UserNum, name: MediaName) -> Outcome {
        let (server, id) = &name;
        let server_permits = self.permits_of(server);
        let _server_permit = server_permits.acquire(user).await;
        let _permit = self.0.permits.acquire(user).await;
        let outcome = self.download_and_keep(server, id).await;
        if let Err(error) = &outcome {
            log::debug!("mxc://{server}/{id} cannot be downloaded: {error}");
            // An upload that was announced may come at any moment.
            if !matches!(error, Error::Media(media::Error::NotYetUploaded)) {
                self.0.failures.insert(name, error.clone(), FAILURE_TTL);
            }
        }
        outcome
    }

    fn permits_of(&self, server: &ServerName) -> FairSemaphore<UserNum> {
        let permits = self.0.server_permits.lock();
        let mut permits = permits.unwrap_or_else(PoisonError::into_inner);
        permits.retain(|_, of_server| !of_server.is_idle());
        let of_server = permits.entry(server.to_owned()).or_insert_with(|| {
            FairSemaphore::new(
                MAX_CONCURRENT_PER_SERVER,
                MAX_CONCURRENT_PER_SERVER_AND_USER,
            )
        });
        of_server.clone()
    }

    async fn download_and_keep(&self, server: &ServerName, id: &str) -> Outcome {
        let download = Box::pin(self.download(server, id));
        let (file, headers) = with_timeout(DOWNLOAD_TIMEOUT, download).await??;
        let info = MediaInfo::from_remote(headers.content_type, headers.name);
        let content = file.finish().await?;
        let (server, id) = (server.to_owned(), id.to_owned());
        let media = &self.0.media;
        Ok(media.store_remote(server, id, info, content).await?)
    }

    async fn download(
        &self,
        server: &ServerName,
        id: &str,
    ) -> Result<(FileWriter, MediaHeaders), Error> {
        let file = self.0.media.begin_download().await?;
        let request = v1::Request::new(id.to_owned());
        match self.0.client.stream(server, request).await {
            Ok(response) => {
                let (file, headers) = read_multipart(response, file).await?;
                match &headers.location {
                    None => Ok((file, headers)),
                    Some(url) => self.download_redirected(url, file).await,
                }
            }
            Err(error) if error.is_unrecognized() => {
                self.download_unauthenticated(server, id, file).await
            }
            Err(error) => Err(download_error(error)),
        }
    }

    /// Downloads the media from the URL that the server answered.
    async fn download_redirected(
        &self,
        url: &str,
        file: FileWriter,
    ) -> Result<(FileWriter, MediaHeaders), Error> {
        let url = WebUrl::parse(url);
        let url =
            url.ok_or_else(|| PeerError::InvalidResponse("a redirect to no https URL".into()))?;
        let (_, response) = self.0.client.get_web(url, false).await?;
        read_plain(response, file).await
    }

    /// Downloads the media by the deprecated endpoint for clients, as the specification says for servers
    /// that do not know the one for servers.
    async fn download_unauthenticated(
        &self,
        server: &ServerName,
        id: &str,
        file: FileWriter,
    ) -> Result<(FileWriter, MediaHeaders), Error> {
        let path = format!("/_matrix/media/v3/download/{server}/{id}?allow_remote=false");
        let request = Request::get(path).body(hyper::body::Bytes::new());
        let request =
            request.map_err(|error| PeerError::InvalidResponse(error.to_string().into()))?;
        let response = self.0.client.stream_raw_request(server, request).await;
        read_plain(response.map_err(download_error)?, file).await
    }
}

fn download_error(error: PeerError) -> Error {
    match (&error, error.kind()) {
        (_, Some(ErrorKind::NotYetUploaded)) => media::Error::NotYetUploaded.into(),
        (PeerError::NotAllowed | PeerError::Status(StatusCode::NOT_FOUND, _), _) => {
            media::Error::NotFound.into()
        }
        _ => error.into(),
    }
}

/// Reads media from a multipart response.
async fn read_multipart(
    mut response: StreamedResponse,
    mut file: FileWriter,
) -> Result<(FileWriter, MediaHeaders), Error> {
    let mut reader = MultipartReader::new(&response.head.headers)?;
    check_size(
        &file,
        content_length(&response).saturating_sub(MULTIPART_OVERHEAD),
    )?;
    while let Some(chunk) = response.next().await? {
        write(&mut file, &reader.push(&chunk)?).await?;
        if reader.is_complete() {
            return Ok((file, reader.media_headers().clone()));
        }
    }
    Err(PeerError::InvalidResponse("incomplete media".into()).into())
}

/// Reads media from a response whose body they are.
async fn read_plain(
    mut response: StreamedResponse,
    mut file: FileWriter,
) -> Result<(FileWriter, MediaHeaders), Error> {
    let headers = MediaHeaders::of(&response.head.headers);
    check_size(&file, content_length(&response))?;
    while let Some(chunk) = response.next().await? {
        write(&mut file, &chunk).await?;
    }
    Ok((file, headers))
}

/// 0 if the response does not say it.
fn content_length(response: &StreamedResponse) -> u64 {
    let length = response.head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

/// Refuses media that will be too large before they are received.
fn check_size(file: &FileWriter, length: u64) -> Result<(), Error> {
    file.check(length).map_err(of_remote)
}

async fn write(file: &mut FileWriter, chunk: &[u8]) -> Result<(), Error> {
    file.write(chunk).await.map_err(of_remote)
}

fn of_remote(error: media::Error) -> Error {
    match error {
        media::Error::TooLarge(most) => media::Error::RemoteTooLarge(most).into(),
        error => error.into(),
    }
}
