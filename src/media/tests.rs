use ruma::server_name;
use tempfile::TempDir;

use super::{
    Error, FileWriter, FinishedFile, Media, MediaInfo, MediaSelector, quarantine,
    rows::{self, DiskUsage},
};
use crate::{
    clock::Clock,
    config::{Config, Settings},
    executor::Executor,
    pool::Pool,
    store::{Options, Reader, Rows, ServerNum, Store, Tx, UserNum, records},
};

fn with_store(work: impl AsyncFnOnce(&Store)) {
    let directory = TempDir::new().unwrap();
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 1 << 20,
    };
    let store = Store::open(&options, Pool::default()).unwrap();
    let executor = Executor::default();
    let publishing = executor.spawn(store.clone().publish(|_| {}));
    smol::block_on(executor.run(async {
        work(&store).await;
        store.close().await;
        publishing.await;
    }));
}

/// Media in a directory of their own.
fn with_media(work: impl AsyncFnOnce(&Media, &Store)) {
    let directory = TempDir::new().unwrap();
    let mut config = Config::try_from(Settings::local()).unwrap();
    config.data_dir = directory.path().to_owned();
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 1 << 20,
    };
    let (clock, pool) = (Clock::manual(1), Pool::default());
    let store = Store::open(&options, pool.clone()).unwrap();
    let executor = Executor::default();
    let publishing = executor.spawn(store.clone().publish(|_| {}));
    smol::block_on(executor.run(async {
        let media = Media::start(&config, &store, &clock, &pool, &executor);
        work(&media.await.unwrap(), &store).await;
        store.close().await;
        publishing.await;
    }));
}

async fn written(mut writer: FileWriter) -> FinishedFile {
    writer.write(b"content").await.unwrap();
    writer.finish().await.unwrap()
}

#[test]
fn an_upload_that_ends_after_deactivation_is_not_stored() {
    with_media(async |media, store| {
        let user = UserNum(7);
        let content = written(media.begin_upload(user, None).await.unwrap()).await;
        let account = records::Account {
            password_hash: None,
            created_ts: 1,
            deactivated: true,
            erased: false,
            admin: false,
        };
        let end = move |tx: &Tx| tx.accounts()?.put(user, &account);
        store.write(end).await.unwrap();
        let stored = media.store(user, MediaInfo::default(), content).await;
        assert!(matches!(stored, Err(Error::Deactivated)), "{stored:?}");
        assert!(store.read(|s| s.media_files()?.is_empty()).unwrap());
    });
}

#[test]
fn quarantined_media_are_not_found_and_so_not_fetched_again() {
    with_media(async |media, store| {
        let elsewhere = server_name!("elsewhere.example");
        assert!(media.find_remote(elsewhere, "id").unwrap().is_none());
        let content = written(media.begin_download().await.unwrap()).await;
        let hash = content.hash;
        let kept = media.store_remote(
            elsewhere.to_owned(),
            "id".into(),
            MediaInfo::default(),
            content,
        );
        kept.await.unwrap();
        assert!(media.find_remote(elsewhere, "id").unwrap().is_some());
        quarantine(store, MediaSelector::File(hash), true)
            .await
            .unwrap();
        let refused = media.find_remote(elsewhere, "id");
        assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
        quarantine(store, MediaSelector::File(hash), false)
            .await
            .unwrap();
        assert!(media.find_remote(elsewhere, "id").unwrap().is_some());
    });
}

fn media(file: u8, uploader: Option<UserNum>, now: u64) -> records::Media {
    records::Media {
        file: [file; 32],
        content_type: String::new(),
        name: None,
        uploader,
        created_ts: now,
    }
}

/// Stores media of another server, of 100 bytes, at this time.
async fn fetch(store: &Store, id: &'static str, file: u8, now: u64) {
    let job = move |tx: &Tx| {
        let key = (ServerNum(1), id);
        rows::put_remote(tx, key, &media(file, None, now), 100)
    };
    store.write(job).await.unwrap();
}

async fn upload(store: &Store, id: &'static str, file: u8) {
    let job = move |tx: &Tx| {
        let media = media(file, Some(UserNum(7)), 1);
        rows::put(tx, (rows::OWN, id), &media, 100, None)
    };
    store.write(job).await.unwrap();
}

async fn evict(store: &Store, excess: u64) -> Vec<u8> {
    let job = move |tx: &Tx| rows::evict(tx, excess, 10, None);
    store.write(job).await.unwrap();
    let pending = store.read(|s| rows::pending_deletion(s, 100)).unwrap();
    pending.iter().map(|file| file.id[0]).collect()
}

fn disk_usage(store: &Store) -> (u64, u64) {
    let DiskUsage { uploads, cached } = store.read(rows::disk_usage).unwrap();
    (uploads, cached)
}

#[test]
fn the_least_recently_used_file_is_evicted_first() {
    with_store(async |store| {
        for (place, id) in ["a", "b", "c"].into_iter().enumerate() {
            fetch(store, id, place as u8 + 1, place as u64).await;
        }
        assert_eq!(disk_usage(store), (0, 300));
        store
            .write(|tx| rows::touch(tx, [1; 32], 10))
            .await
            .unwrap();
        assert_eq!(evict(store, 101).await, [2, 3]);
        assert_eq!(disk_usage(store), (0, 100));
    });
}

#[test]
fn a_protected_file_is_not_evicted_also_if_it_is_fetched_again() {
    with_store(async |store| {
        fetch(store, "a", 1, 1).await;
        let protect = |tx: &Tx| rows::protect(tx, [1; 32]);
        store.write(protect).await.unwrap();
        fetch(store, "b", 1, 2).await;
        assert!(evict(store, 1000).await.is_empty());
        let unprotect = |tx: &Tx| rows::unprotect(tx, [1; 32], 3);
        store.write(unprotect).await.unwrap();
        assert_eq!(disk_usage(store), (0, 100));
        assert_eq!(evict(store, 1000).await, [1]);
    });
}

#[test]
fn a_file_that_a_local_user_uploaded_too_is_not_evicted() {
    with_store(async |store| {
        fetch(store, "a", 1, 1).await;
        upload(store, "mine", 1).await;
        assert_eq!(disk_usage(store), (100, 0));
        fetch(store, "b", 1, 2).await;
        assert!(evict(store, 1000).await.is_empty());
        // When the upload is removed, the file is cached.
        let remove = |tx: &Tx| rows::remove(tx, (rows::OWN, "mine"));
        assert!(store.write(remove).await.unwrap());
        assert_eq!(disk_usage(store), (0, 100));
        assert_eq!(evict(store, 1000).await, [1]);
        assert!(store.read(|s| s.media()?.is_empty()).unwrap());
    });
}
