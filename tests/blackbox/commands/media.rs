//! `hearth media` while the server runs. What it does is tested in `blackbox/media.rs`.

use super::Owner;
use crate::{
    common::{client_api::register, large_files::Session},
    media::wait_until,
};

#[test]
fn deleted_and_quarantined_media_are_gone_at_once_while_the_server_runs() {
    let owner = Owner::new();
    let server = owner.start();
    let token = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    let [one, other] = [3, 5].map(|chunks| session.upload(chunks).unwrap());
    let is_served = |media: &str| {
        let (head, _) = session.download(media).unwrap();
        head.starts_with("HTTP/1.1 200 ")
    };
    assert_eq!(owner.json(&["media", "usage"])["users"][0]["files"], 2);
    let [one_uri, other_uri] = [&one, &other].map(|media| format!("mxc://{media}"));
    owner.run(&["media", "quarantine", &one_uri]);
    assert!(!is_served(&one) && is_served(&other));
    assert_eq!(owner.json(&["media", "usage"])["quarantined_files"], 1);
    owner.run(&["media", "quarantine", "--release", &one_uri]);
    assert!(is_served(&one));
    owner.run(&["media", "delete", &other_uri]);
    assert!(is_served(&one) && !is_served(&other));
    let files = owner.path().join("data/media/files");
    let count = || {
        let directories = std::fs::read_dir(&files).unwrap();
        let files = directories.flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap());
        files.count()
    };
    wait_until(|| count() == 1);
}
