//! What answers requests and does the background work, whether the server listens or not.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::{Arc, OnceLock},
};

use smol::{Task, Timer};

use super::error::Error;
use crate::{
    acme::Acme,
    api::{Api, Context, RefusedJoins},
    backup::{BackupParts, Backups},
    clock::Clock,
    config::Config,
    doctor::{
        Doctor, DoctorParts,
        nightly::{self, Night},
    },
    executor::Executor,
    federation::{Federation, JobSigner, Previews, RemoteMedia, probe::Probe},
    gauges::{Gauges, Kind, Usage},
    media::Media,
    pool::Pool,
    push::PushSender,
    rates::Rates,
    request_counts::RequestCounts,
    rooms::{
        Local,
        background::jobs::BackgroundJobs,
        deletion::run::{OutgoingQueue, Paused, RoomDeletions},
        search::Indexer,
    },
    stop::Stopping,
    store::{self, Store},
    sync::{
        Notifier,
        sliding::{ReadStates, RoomLists},
    },
    users::{self, Users},
};

/// What a rate limit bucket takes.
const BUCKET_BYTES: usize = 64;

/// The directory in the data directory with the new database while one is restored.
pub(super) const RESTORING: &str = "restoring";

/// What works behind the listeners.
pub(super) struct Services {
    pub(super) api: Api,
    pub(super) publishing: Task<()>,
    background_jobs: Arc<BackgroundJobs>,
    running_jobs: Option<Task<()>>,
    room_deletions: Arc<RoomDeletions>,
    deleting: Option<Task<()>>,
    checking: Option<Task<()>>,
    indexing: Task<()>,
}

impl Services {
    pub(super) async fn start(
        executor: &Executor,
        config: Config,
        (acme, gauges): (Option<Acme>, Arc<Gauges>),
        clock: Clock,
        pool: Pool,
        stopping: Stopping,
    ) -> Result<Self, Error> {
        let store = open_store(&config, pool.clone()).await?;
        let background_jobs = Arc::new(BackgroundJobs::default());
        let room_deletions = Arc::new(RoomDeletions::default());
        let indexer = config.search.then(|| Arc::new(Indexer::default()));
        let notifier = Arc::new(Notifier::new(store.clone(), rand::random())?);
        // These are created after publishing has started. Each reads from the store what happened before.
        let federation_cell: Arc<OnceLock<Arc<Federation>>> = Arc::default();
        let media_cell: Arc<OnceLock<Media>> = Arc::default();
        let push_cell: Arc<OnceLock<PushSender>> = Arc::default();
        let publishing = executor.spawn(store.clone().publish({
            let (background_jobs, notifier) = (background_jobs.clone(), notifier.clone());
            let room_deletions = room_deletions.clone();
            let indexer = indexer.clone();
            let (federation_cell, media_cell) = (federation_cell.clone(), media_cell.clone());
            let push_cell = push_cell.clone();
            move |effects| {
                notifier.apply(effects);
                for effect in effects {
                    background_jobs.apply(effect);
                    room_deletions.apply(effect);
                }
                if let Some(indexer) = &indexer {
                    effects.iter().for_each(|effect| indexer.apply(effect));
                }
                if let Some(media) = media_cell.get() {
                    effects.iter().for_each(|effect| media.apply(effect));
                }
                if let Some(federation) = federation_cell.get() {
                    effects.iter().for_each(|effect| federation.apply(effect));
                }
                if let Some(push) = push_cell.get() {
                    effects.iter().for_each(|effect| push.apply(effect));
                }
            }
        }));
        let local = Local::load(&store, config.server_name.clone(), clock.now_ms()).await?;
        let indexing = executor.spawn({
            let store = store.clone();
            async move {
                match indexer {
                    Some(indexer) => indexer.run(&store).await,
                    None => Indexer::delete(&store).await,
                }
            }
        });
        let media = Media::start(&config, &store, &clock, &pool, executor).await?;
        // It is set once.
        let _ = media_cell.set(media.clone());
        let max_buckets = if config.rate_limits {
            config.memory.rates()
        } else {
            0
        };
        let federation = Federation::new(&config, &store, &local, &clock, &pool, executor)?;
        let federation = Arc::new(federation);
        // It is set once.
        let _ = federation_cell.set(federation.clone());
        let push = PushSender::new(
            &config.push_gateways,
            notifier.position().stored,
            &store,
            federation.client(),
            &clock,
            executor,
        )?;
        // It is set once.
        let _ = push_cell.set(push.clone());
        let parts = DoctorParts {
            acme: acme.clone(),
            local: local.clone(),
            probe: Probe::new(&config, &clock, &pool, executor)?,
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            store: store.clone(),
        };
        let of_backups = BackupParts {
            store: store.clone(),
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            stopping: stopping.clone(),
        };
        let api = Context {
            acme,
            backups: Arc::new(Backups::new(&config, of_backups)),
            doctor: Arc::new(Doctor::new(&config, parts)),
            gauges,
            local,
            federation: federation.clone(),
            notifier,
            previews: Previews::new(federation.client(), &media, &clock, &pool, executor),
            remote_media: RemoteMedia::new(federation.client(), &media, &clock, executor),
            media,
            push: push.clone(),
            typing: Arc::default(),
            lazy_loaded_members: Arc::default(),
            room_lists: RoomLists::default(),
            read_states: ReadStates::new(&clock),
            presence: Arc::default(),
            users: users(&config, &store, &pool, &clock),
            rates: Rates::new(max_buckets, clock.clone()),
            refused_joins: RefusedJoins::new(&clock),
            requests: RequestCounts::default(),
            config,
            clock,
            pool,
            store: store.clone(),
            stopping,
        };
        let changed = |room| match room {
            Some(room) => api.notifier.ephemeral_changed_in(room),
            // Nobody waits for a sync yet.
            None => api.notifier.ephemeral_changed_for([]),
        };
        api.typing.end_stored(&store, changed).await?;
        let api = Arc::new(api);
        add_gauges(&api);
        Ok(Self {
            api,
            publishing,
            background_jobs,
            running_jobs: None,
            room_deletions,
            deleting: None,
            checking: None,
            indexing,
        })
    }

    /// Goes on with what is pending: background jobs, and what is to be sent to other servers and push gateways.
    pub(super) fn resume(&mut self, executor: &Executor) -> Result<(), Error> {
        let api = &self.api;
        api.federation.resume()?;
        api.push.resume();
        let (store, local, clock) = (api.store.clone(), api.local.clone(), api.clock.clone());
        let signer = JobSigner {
            policy_servers: api.federation.policy_servers().clone(),
            local: local.clone(),
        };
        let jobs = self.background_jobs.clone();
        let run = async move { jobs.run(&store, &local, &clock, &signer).await };
        self.running_jobs = Some(executor.spawn(run));
        let outgoing = api.federation.outgoing_queue();
        self.deleting = Some(delete_rooms(executor, api, &self.room_deletions, outgoing));
        let api = self.api.clone();
        self.checking = Some(executor.spawn(async move {
            let night = Night::default();
            loop {
                night.wait(&api.clock).await;
                let pause = async {
                    Timer::after(nightly::PAUSE).await;
                };
                check_as_at_night(&api, pause).await;
            }
        }));
        Ok(())
    }

    /// Goes on with what sends nothing to others.
    pub(super) fn resume_offline(&mut self, executor: &Executor) {
        let task = delete_rooms(executor, &self.api, &self.room_deletions, Paused);
        self.deleting = Some(task);
    }

    pub(super) async fn check_as_at_night(&self, pause: impl Future<Output = ()>) {
        check_as_at_night(&self.api, pause).await;
    }

    /// Commits what is queued and closes the store. No requests are running any more.
    pub(super) async fn stop(self) {
        drop((self.running_jobs, self.deleting));
        drop((self.checking, self.indexing));
        let api = self.api;
        api.push.stop().await;
        let typing = api.typing.clone();
        let stored = api.store.write(move |tx| typing.store_rooms(tx)).await;
        if let Err(error) = stored {
            log::debug!("the rooms in which somebody types are not stored: {error}");
        }
        api.store.close().await;
        self.publishing.await;
    }
}

fn delete_rooms(
    executor: &Executor,
    api: &Api,
    deletions: &Arc<RoomDeletions>,
    outgoing: impl OutgoingQueue + Send + 'static,
) -> Task<()> {
    let (store, local, clock) = (api.store.clone(), api.local.clone(), api.clock.clone());
    let deletions = deletions.clone();
    executor.spawn(async move { deletions.run(&store, &local, &clock, &outgoing).await })
}

/// What the parts of the server use; the edge and the listeners add their own.
fn add_gauges(api: &Api) {
    let gauges = &api.gauges;
    let federation = Arc::downgrade(&api.federation);
    let of_client = federation.clone();
    gauges.add(Kind::Memory, "responses of other servers", move || {
        let federation = of_client.upgrade();
        federation.map_or(Usage::unlimited(0), |it| it.client().response_usage())
    });
    gauges.add(Kind::Queue, "events for other servers", move || {
        let federation = federation.upgrade();
        Usage::unlimited(federation.map_or(0, |it| it.queued_events()))
    });
    let weak = Arc::downgrade(api);
    let max = api.config.memory.rates();
    gauges.add(Kind::Memory, "rate limits", move || {
        let buckets = weak.upgrade().map_or(0, |api| api.rates.buckets());
        Usage::of(buckets * BUCKET_BYTES, max * BUCKET_BYTES)
    });
    let (weak, max) = (Arc::downgrade(api), api.config.memory.database_cache());
    gauges.add(Kind::Memory, "cache of the database", move || {
        let cached = weak.upgrade().map_or(0, |api| api.store.cached_bytes());
        Usage::of(cached, max)
    });
    let push = api.push.clone();
    gauges.add(Kind::Queue, "push notifications", move || {
        Usage::unlimited(push.queued())
    });
}

async fn check_as_at_night(api: &Api, pause: impl Future<Output = ()>) {
    api.backups.make_nightly().await;
    let notices_user = &api.config.notices_user;
    nightly::check(
        &api.doctor,
        &api.store,
        &api.local,
        (&api.clock, notices_user),
        pause,
    )
    .await;
}

pub(super) async fn open_store(config: &Config, pool: Pool) -> Result<Store, Error> {
    let directory = &config.data_dir;
    // A new server of the same name would have other keys.
    if !Store::exists(directory) && Store::exists(&directory.join(RESTORING)) {
        return Err(Error::HalfRestored(directory.join(RESTORING)));
    }
    let created = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    created.map_err(|error| Error::Directory {
        path: directory.clone(),
        error,
    })?;
    if let Err(error) = take_write_permission(directory) {
        log::warn!(
            "other users can write to {}, and replace what is there: {error}",
            directory.display()
        );
    }
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

/// Who can write to the data directory can put a socket of their own in the place of the server's.
fn take_write_permission(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & 0o022 == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(mode & !0o022))?;
    log::warn!(
        "other users could write to {}; this permission was taken away",
        directory.display()
    );
    Ok(())
}

fn users(config: &Config, store: &Store, pool: &Pool, clock: &Clock) -> Users {
    let options = users::Options {
        server_name: config.server_name.clone(),
        registration: config.registration.clone(),
        notices_user: config.notices_user.clone(),
        registration_shared_secret: config.registration_shared_secret.clone(),
    };
    Users::new(options, store.clone(), pool.clone(), clock.clone())
}
