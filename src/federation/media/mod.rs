//! Media of other servers: fetched when somebody here wants to see them, once for all who want to,
//! and kept as long as there is room ([server-server API, "Content Repository"]).
//!
//! [server-server API, "Content Repository"]: https://spec.matrix.org/v1.19/server-server-api/#content-repository

mod multipart;
pub mod previews;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, StatusCode, header};
use ruma::{
    OwnedServerName, ServerName,
    api::{error::ErrorKind, federation::authenticated_media::get_content::v1},
};
use smol::lock::{OnceCell, Semaphore};

use self::multipart::{AROUND, Parts, Told};
use super::{
    Client, Error as PeerError,
    remembered::Remembered,
    transport::{
        connect::{Answer, in_time},
        web::Place,
    },
};
use crate::{
    clock::Clock,
    executor::Executor,
    media::{self, FileWriter, Media, MediaInfo, is_media_id},
};

/// How many are fetched at once, of all servers and of one: none keeps the others waiting.
const AT_ONCE: usize = 32;
const AT_ONCE_OF_ONE: usize = 8;
/// How many are fetched or wait for that.
const WAITING: usize = 500;
const WAITING_OF_ONE: usize = 150;
/// How long fetching one may take.
const PATIENCE: Duration = Duration::from_mins(10);
/// For how long one that could not be had is not asked for again, and how many of those are known.
const FAILED: Duration = Duration::from_mins(1);
const REMEMBERED: usize = 1000;
const BYTES_EACH: usize = 256;

/// Why media of another server cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Because of their server, or of the way there.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Because of this one.
    #[error(transparent)]
    Media(#[from] media::Error),
}

/// Which media.
type Name = (OwnedServerName, String);
type Outcome = Result<(), Error>;
type Fetch = Arc<OnceCell<Outcome>>;

/// What is fetched from one server, or waits for that.
struct Queue {
    fetches: HashMap<String, Fetch>,
    slots: Arc<Semaphore>,
}

/// The media of other servers. Clones are the same.
#[derive(Clone)]
pub struct RemoteMedia(Arc<Shared>);

struct Shared {
    client: Client,
    media: Media,
    executor: Executor,
    queues: Mutex<HashMap<OwnedServerName, Queue>>,
    failed: Remembered<Name, Error>,
    slots: Semaphore,
}

impl fmt::Debug for RemoteMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteMedia").finish_non_exhaustive()
    }
}

impl RemoteMedia {
    /// Fetches with `client` into `media`.
    pub fn new(client: &Client, media: &Media, clock: &Clock, executor: &Executor) -> Self {
        Self(Arc::new(Shared {
            client: client.clone(),
            media: media.clone(),
            executor: executor.clone(),
            queues: Mutex::default(),
            failed: Remembered::new(clock, REMEMBERED, REMEMBERED * BYTES_EACH),
            slots: Semaphore::new(AT_ONCE),
        }))
    }

    /// Fetches the media `id` of `server`, if they are not here. It goes on if the one who asked has
    /// gone.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn fetch(&self, server: &ServerName, id: &str) -> Result<(), Error> {
        if !is_media_id(id) {
            return Err(media::Error::NotFound.into());
        }
        let name = (server.to_owned(), id.to_owned());
        if let Some(error) = self.0.failed.get(&name) {
            return Err(error);
        }
        self.start(name)?.wait().await.clone()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Queue>> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts fetching, unless that is under way.
    fn start(&self, name: Name) -> Result<Fetch, Error> {
        let mut queues = self.queues();
        let of_one = queues.get(&name.0).map(|queue| &queue.fetches);
        if let Some(fetch) = of_one.and_then(|fetches| fetches.get(&name.1)) {
            return Ok(fetch.clone());
        }
        let waiting_of_one = of_one.map_or(0, HashMap::len);
        let waiting: usize = queues.values().map(|queue| queue.fetches.len()).sum();
        if waiting >= WAITING || waiting_of_one >= WAITING_OF_ONE {
            return Err(PeerError::TimedOut.into());
        }
        let queue = queues.entry(name.0.clone()).or_insert_with(|| Queue {
            fetches: HashMap::new(),
            slots: Arc::new(Semaphore::new(AT_ONCE_OF_ONE)),
        });
        let fetch = Arc::new(OnceCell::new());
        queue.fetches.insert(name.1.clone(), fetch.clone());
        let of_one = queue.slots.clone();
        let (this, outcome) = (self.clone(), fetch.clone());
        let task = self.0.executor.spawn(async move {
            // Whoever waits is told also if it panics.
            let mut end = End {
                of: &this,
                name,
                outcome,
                result: Err(PeerError::TimedOut.into()),
            };
            let _slot_of_one = of_one.acquire().await;
            let _slot = this.0.slots.acquire().await;
            end.result = this.bring(&end.name.0, &end.name.1).await;
        });
        task.detach();
        Ok(fetch)
    }

    /// Forgets what is under way no more.
    fn ended(&self, (server, id): &Name) {
        let mut queues = self.queues();
        if let Some(queue) = queues.get_mut(server) {
            queue.fetches.remove(id);
            if queue.fetches.is_empty() {
                queues.remove(server);
            }
        }
    }

    async fn bring(&self, server: &ServerName, id: &str) -> Outcome {
        let fetched = in_time(PATIENCE, Box::pin(self.download(server, id))).await;
        let (draft, told) = fetched??;
        let about = MediaInfo::from_remote(told.content_type, told.name);
        let content = draft.finish().await?;
        let (server, id) = (server.to_owned(), id.to_owned());
        Ok(self
            .0
            .media
            .store_remote(server, id, about, content)
            .await?)
    }

    async fn download(&self, server: &ServerName, id: &str) -> Result<(FileWriter, Told), Error> {
        let draft = self.0.media.begin_download().await?;
        let request = v1::Request::new(id.to_owned());
        match self.0.client.open(server, request).await {
            Ok(answer) => {
                let (draft, told) = parts(answer, draft).await?;
                match &told.location {
                    None => Ok((draft, told)),
                    Some(url) => self.redirected(url, draft).await,
                }
            }
            Err(error) if is_unrecognized(&error) => self.by_the_old_way(server, id, draft).await,
            Err(error) => Err(absence(error)),
        }
    }

    /// From where the server says that they are.
    async fn redirected(&self, url: &str, draft: FileWriter) -> Result<(FileWriter, Told), Error> {
        let place = Place::of(url);
        let place = place.ok_or_else(|| PeerError::Nonsense("a redirect to nowhere".into()))?;
        let (_, answer) = self.0.client.open_on_the_web(place).await?;
        whole(answer, draft).await
    }

    /// From a server that does not know the endpoint for servers: by the one for clients, as the
    /// specification says.
    async fn by_the_old_way(
        &self,
        server: &ServerName,
        id: &str,
        draft: FileWriter,
    ) -> Result<(FileWriter, Told), Error> {
        let path = format!("/_matrix/media/v3/download/{server}/{id}?allow_remote=false");
        let request = Request::get(path).body(hyper::body::Bytes::new());
        let request = request.map_err(|error| PeerError::Nonsense(error.to_string().into()))?;
        let answer = self.0.client.open_as_it_is(server, request).await;
        whole(answer.map_err(absence)?, draft).await
    }
}

/// Says how a fetch ended, when it is dropped.
struct End<'a> {
    of: &'a RemoteMedia,
    name: Name,
    outcome: Arc<OnceCell<Outcome>>,
    result: Outcome,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.of.ended(&self.name);
        if let Err(error) = &self.result {
            log::debug!("mxc://{}/{}: {error}", self.name.0, self.name.1);
            // What is announced may come any moment.
            if !matches!(error, Error::Media(media::Error::NotYetUploaded)) {
                let failed = &self.of.0.failed;
                failed.put(self.name.clone(), error.clone(), BYTES_EACH, FAILED);
            }
        }
        let result = std::mem::replace(&mut self.result, Ok(()));
        // Nobody else sets it.
        let _ = self.outcome.set_blocking(result);
    }
}

/// Whether a server does not know the endpoint.
fn is_unrecognized(error: &PeerError) -> bool {
    matches!(error, PeerError::Status(StatusCode::NOT_FOUND, _))
        && matches!(error.kind(), Some(ErrorKind::Unrecognized))
}

/// What a server says of media that it does not give.
fn absence(error: PeerError) -> Error {
    match (&error, error.kind()) {
        (_, Some(ErrorKind::NotYetUploaded)) => media::Error::NotYetUploaded.into(),
        (PeerError::NotAllowed | PeerError::Status(StatusCode::NOT_FOUND, _), _) => {
            media::Error::NotFound.into()
        }
        _ => error.into(),
    }
}

/// Takes the media out of an answer in several parts.
async fn parts(mut answer: Answer, mut draft: FileWriter) -> Result<(FileWriter, Told), Error> {
    let mut parts = Parts::new(&answer.head.headers)?;
    check(&draft, announced(&answer).saturating_sub(AROUND))?;
    while let Some(piece) = answer.next().await? {
        write(&mut draft, &parts.push(&piece)?).await?;
        if parts.is_whole() {
            return Ok((draft, parts.told().clone()));
        }
    }
    Err(PeerError::Nonsense("media that break off".into()).into())
}

/// Takes an answer that is the media.
async fn whole(mut answer: Answer, mut draft: FileWriter) -> Result<(FileWriter, Told), Error> {
    let told = Told::of(&answer.head.headers);
    check(&draft, announced(&answer))?;
    while let Some(piece) = answer.next().await? {
        write(&mut draft, &piece).await?;
    }
    Ok((draft, told))
}

/// How many bytes an answer has, as far as it says so.
fn announced(answer: &Answer) -> u64 {
    let length = answer.head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

/// Refuses before anything has come what would be too large in the end.
fn check(draft: &FileWriter, length: u64) -> Result<(), Error> {
    draft.check(length).map_err(of_remote)
}

async fn write(draft: &mut FileWriter, piece: &[u8]) -> Result<(), Error> {
    draft.write(piece).await.map_err(of_remote)
}

fn of_remote(error: media::Error) -> Error {
    match error {
        media::Error::TooLarge(most) => media::Error::RemoteTooLarge(most).into(),
        error => error.into(),
    }
}
