//! The whole server: the one place where its parts are made, started and stopped.
//!
//! Made from the bottom up: listeners (so that a mistake in the settings shows at once, and
//! clients that come early are told to wait), store, handlers, edge. Stopped from the top down:
//! no new connections, running requests end, the last batch is committed, the store closes.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use async_signal::{Signal, Signals};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smol::{
    Task,
    future::{self, FutureExt},
    stream::StreamExt,
};

use crate::{
    api::Context,
    clock::Clock,
    config::Config,
    executor::Executor,
    federation::{self, Federation, Previews, RemoteMedia},
    http::{Certificate, Edge, Gate, ListenError, Listeners},
    media::{self, Media},
    pool::Pool,
    rates::Rates,
    rooms::{self, Local, background::jobs::BackgroundJobs},
    stop::{self, Stop},
    store::{self, Store},
    sync::Notifier,
    systemd::{Manager, Sockets},
    users::{self, Users, presence::Presence},
};

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody could connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The directory for the data cannot be made.
    #[error("cannot make the directory {}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The database cannot be opened.
    #[error("cannot open the data in {}: {error}", path.display())]
    Open {
        /// The directory with the data.
        path: PathBuf,
        /// Why not.
        error: store::Error,
    },
    /// There are no data to do something to.
    #[error("there are no data of a server in {}", .0.display())]
    NoData(PathBuf),
    /// The database failed, or its disk.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The database is not this server's.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// The media cannot be read.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// Other servers cannot be spoken with.
    #[error(transparent)]
    Federation(#[from] federation::StartError),
    /// A part without which nothing works has ended, in a panic most likely.
    #[error("{0} has ended; the log says why")]
    Ended(&'static str),
    /// The system does not tell when to stop.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// A running server.
pub struct Server {
    edge: Edge,
    federation: Arc<Federation>,
    gate: Arc<Gate>,
    addresses: Vec<SocketAddr>,
    certificate: Option<Certificate>,
    store: Store,
    stop: Stop,
    serving: Task<()>,
    publishing: Task<()>,
    background_jobs: Task<()>,
}

impl Server {
    /// Makes and starts everything on `executor`, which must be running. Returns when the server
    /// is open; clients can connect before and are told to wait. What is `handed` over need not be
    /// listened on again.
    ///
    /// # Errors
    /// If it cannot listen, or its data cannot be opened.
    pub async fn start(
        executor: &Executor,
        config: Config,
        handed: Sockets,
        clock: Clock,
    ) -> Result<Self, Error> {
        let pool = Pool::default();
        let listeners = Listeners::bind(&config, handed, &pool)?;
        let addresses = listeners.addresses();
        let certificate = listeners.certificate();
        let gate = Arc::new(Gate::default());
        let (stop, stopping) = stop::channel();
        let serving = executor.spawn({
            let (executor, gate, stopping) = (executor.clone(), gate.clone(), stopping.clone());
            async move { listeners.serve(&executor, gate, stopping).await }
        });

        let store = open_store(&config, pool.clone()).await?;
        let background_jobs = Arc::new(BackgroundJobs::default());
        let notifier = Arc::new(Notifier::new(store.clone(), rand::random())?);
        // Made when there is something to publish already; it looks for itself what came before it.
        let others: Arc<OnceLock<Arc<Federation>>> = Arc::default();
        let files: Arc<OnceLock<Media>> = Arc::default();
        let publishing = executor.spawn(store.clone().publish({
            let (background_jobs, notifier) = (background_jobs.clone(), notifier.clone());
            let (others, files) = (others.clone(), files.clone());
            move |effects| {
                notifier.apply(effects);
                effects
                    .iter()
                    .for_each(|effect| background_jobs.apply(effect));
                if let Some(media) = files.get() {
                    effects.iter().for_each(|effect| media.apply(effect));
                }
                if let Some(federation) = others.get() {
                    effects.iter().for_each(|effect| federation.apply(effect));
                }
            }
        }));
        let local = Local::load(&store, config.server_name.clone(), clock.now_ms()).await?;
        let running_jobs = executor.spawn({
            let (store, local, clock) = (store.clone(), local.clone(), clock.clone());
            async move { background_jobs.run(&store, &local, &clock).await }
        });

        let media = Media::start(&config, &store, &clock, &pool, executor).await?;
        // It is the only one.
        let _ = files.set(media.clone());
        let most = if config.rate_limits {
            config.memory.rates()
        } else {
            0
        };
        let federation = Federation::start(&config, (&store, &local), (&clock, &pool), executor)?;
        let federation = Arc::new(federation);
        // It is the only one.
        let _ = others.set(federation.clone());
        let api = Context {
            local,
            federation: federation.clone(),
            notifier,
            previews: Previews::new(federation.client(), &media, &clock, &pool, executor),
            remote_media: RemoteMedia::new(federation.client(), &media, &clock, executor),
            media,
            typing: Arc::default(),
            lazy_loaded_members: Arc::default(),
            presence: Presence::default(),
            users: users(&config, &store, &pool, &clock),
            rates: Rates::new(most, clock.clone()),
            config,
            clock,
            pool,
            store: store.clone(),
            stopping,
        };
        let edge = Edge::new(Arc::new(api));
        gate.open(edge.clone());

        Ok(Self {
            edge,
            federation,
            gate,
            addresses,
            certificate,
            store,
            stop,
            serving,
            publishing,
            background_jobs: running_jobs,
        })
    }

    /// Where clients connect: the plain listeners, then those with TLS.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers requests without a connection. For tests.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Asks other servers, in this one's name. For tests.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Waits until the server cannot go on, if ever, and tells why.
    pub async fn failed(&mut self) -> Error {
        let disk = async { self.store.failed().await.into() };
        let publishing = ended(&mut self.publishing, "the publisher of commits");
        let serving = ended(&mut self.serving, "the acceptor of connections");
        future::or(disk, future::or(publishing, serving)).await
    }

    /// Lets running requests end, commits what is queued and closes the store.
    pub async fn stop(self) {
        self.stop.now();
        self.serving.await;
        self.gate.shut();
        drop(self.background_jobs);
        self.store.close().await;
        self.publishing.await;
    }
}

/// What the end of a part means that should run as long as the server does.
async fn ended(part: &mut Task<()>, name: &'static str) -> Error {
    // The panic hook has logged why.
    let _ = AssertUnwindSafe(part).catch_unwind().await;
    Error::Ended(name)
}

async fn open_store(config: &Config, pool: Pool) -> Result<Store, Error> {
    let directory = &config.data_dir;
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    made.map_err(|error| Error::Directory {
        path: directory.clone(),
        error,
    })?;
    let options = store::Options {
        directory: directory.clone(),
        cache: config.memory.database_cache(),
    };
    let opened = Store::open_on_thread(&options, pool).await;
    opened.map_err(|error| Error::Open {
        path: directory.clone(),
        error,
    })
}

/// Does something to the data of a server that does not run.
///
/// # Errors
/// If there are none, or the server does run, or `work` fails.
pub fn with_data<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> Result<T, Error>,
) -> Result<T, Error> {
    if !Store::exists(&config.data_dir) {
        return Err(Error::NoData(config.data_dir.clone()));
    }
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let store = open_store(config, Pool::default()).await?;
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let result = work(&store).await;
        store.close().await;
        publishing.await;
        result
    }))
}

fn users(config: &Config, store: &Store, pool: &Pool, clock: &Clock) -> Users {
    let options = users::Options {
        server_name: config.server_name.clone(),
        registration: config.registration.clone(),
        registration_shared_secret: config.registration_shared_secret.clone(),
    };
    Users::new(options, store.clone(), pool.clone(), clock.clone())
}

/// Runs a server until the process is asked to stop (SIGTERM, SIGINT). Reads the certificate again
/// when it is asked to (SIGHUP). Calls `opened` once it serves; systemd is told itself.
///
/// # Errors
/// If it cannot start.
pub fn run(config: Config, handed: Sockets, opened: impl FnOnce()) -> Result<(), Error> {
    raise_file_limit();
    let manager = Manager::from_env();
    let serving = format!("serving {}", config.server_name);
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup]);
        let mut signals = signals.map_err(Error::Signals)?;
        let start = async {
            let start = Server::start(&executor, config, handed, Clock::default());
            Ok::<_, Error>(Some(manager.starting(start).await?))
        };
        let told = async {
            told_to_stop(&mut signals, None).await;
            Ok(None)
        };
        let Some(mut server) = future::or(start, told).await? else {
            return Ok(());
        };
        manager.ready(&serving);
        opened();
        let certificate = server.certificate.clone();
        let told = async {
            told_to_stop(&mut signals, certificate.as_ref()).await;
            None
        };
        let failed = async { Some(server.failed().await) };
        let failure = manager.watching(future::or(told, failed)).await;
        manager.stopping();
        if matches!(failure, Some(Error::Ended(_))) {
            return failure.map_or(Ok(()), Err);
        }
        log::info!("stopping");
        // Asked twice, it goes at once; nothing acknowledged is lost.
        future::or(server.stop(), told_to_stop(&mut signals, None)).await;
        failure.map_or(Ok(()), Err)
    }))
}

/// Waits until the process is asked to stop, and reads the certificate again whenever it is asked to.
async fn told_to_stop(signals: &mut Signals, certificate: Option<&Certificate>) {
    while let Some(Ok(Signal::Hup)) = signals.next().await {
        if let Some(certificate) = certificate {
            certificate.reload().await;
        }
    }
}

/// Connections are files; the system's default allows 1,024 and lets us ask for more.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If it is refused, `accept` waits when the files run out.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use super::{Error, Executor, ended};

    #[test]
    fn a_task_that_panics_has_ended() {
        let executor = Executor::default();
        let mut panics = executor.spawn(async { panic!("a part of a test panics") });
        let error = smol::block_on(executor.run(ended(&mut panics, "the part")));
        assert!(matches!(error, Error::Ended("the part")));
    }
}
