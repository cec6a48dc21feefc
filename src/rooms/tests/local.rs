use ruma::server_name;

use super::with_store;
use crate::rooms::{Error, Local};

#[test]
fn a_server_keeps_its_key_and_no_other_server_takes_its_database() {
    with_store(async |store| {
        let here = server_name!("here").to_owned();
        let first = Local::load(store, here.clone(), 1)
            .await
            .expect("a key is made");
        let again = Local::load(store, here, 2).await.expect("the key is found");
        assert_eq!(first.key().id(), again.key().id());
        assert_eq!(first.key().public_key(), again.key().public_key());
        let other = Local::load(store, server_name!("there").to_owned(), 3).await;
        assert!(matches!(other, Err(Error::OtherServer(name)) if name == "here"));
    });
}
