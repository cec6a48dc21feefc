use ruma::server_name;
use smol::future::poll_once;

use super::with_store;
use crate::{
    rooms::{Error, Local},
    store::{Reader, Records},
};

#[test]
fn the_signing_key_persists_and_another_server_name_is_refused() {
    with_store(async |store| {
        let here = server_name!("here").to_owned();
        let first = Local::load(store, here.clone(), 1)
            .await
            .expect("a key is made");
        let again = Local::load(store, here, 2).await.expect("the key is found");
        assert_eq!(first.key().id(), again.key().id());
        assert_eq!(first.key().public_key(), again.key().public_key());
        let other = Local::load(store, server_name!("there").to_owned(), 3).await;
        assert!(matches!(other, Err(Error::OtherServer(name)) if *name == *"here"));
    });
}

#[test]
fn a_later_load_writes_nothing() {
    with_store(async |store| {
        let here = server_name!("here").to_owned();
        let first = Local::load(store, here.clone(), 1).await;
        let first = first.expect("a key is made");
        // A write would be refused on a disk that is almost full. Nothing is waited for, so there is none.
        let again = poll_once(Box::pin(Local::load(store, here, 2))).await;
        let again = again.expect("at once").expect("the key is found");
        assert_eq!(first.key().id(), again.key().id());
    });
}

#[test]
fn a_rotated_key_signs_after_a_restart_and_the_old_one_expires() {
    with_store(async |store| {
        let here = server_name!("here").to_owned();
        let first = Local::load(store, here.clone(), 1)
            .await
            .expect("a key is made");
        let rotated = Local::rotate_key(store, here.clone(), 5).await;
        let (before, now) = rotated.expect("a new key is made");
        assert_eq!(before.as_deref(), Some(first.key().id().as_str()));
        let again = Local::load(store, here, 6).await.expect("the key is found");
        assert_eq!(again.key().id().as_str(), now);
        let old = store.read(|s| s.signing_keys()?.load(first.key().id().as_str()));
        let old = old.expect("a read").expect("the key is kept");
        assert_eq!((old.seed, old.expired_ts), (first.key().seed(), Some(5)));
        let other = server_name!("there").to_owned();
        let refused = Local::rotate_key(store, other, 8).await;
        assert!(matches!(refused, Err(Error::OtherServer(name)) if *name == *"here"));
    });
}
