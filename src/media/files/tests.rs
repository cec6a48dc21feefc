//! Writing, with room and without.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use tempfile::TempDir;

use super::{FileWriter, Files, PIECE, STRETCH, Temporary, Writing};
use crate::{config::Size, media::Error, pool::Pool};

fn files(directory: &Path) -> Files {
    Files::new(directory.to_owned(), Pool::default())
}

/// A draft that `file` takes, which says of its disk that there is room.
fn draft(files: &Files, file: File, path: &Path) -> FileWriter {
    let writing = Writing::new(file, files.directory.clone(), STRETCH);
    FileWriter {
        files: files.clone(),
        writing: Some(writing),
        buffer: Vec::new(),
        size: 0,
        most: Size::mebi(100),
        path: Temporary(path.to_owned()),
    }
}

/// What is in the directory, once that is so much.
fn wait_for(directory: &Path, count: usize) {
    while fs::read_dir(directory).unwrap().count() != count {
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_file_is_full_and_nothing_of_it_stays() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("some.part");
    // On it there is never room, whatever one is told before.
    let full = || File::options().write(true).open("/dev/full").unwrap();
    smol::block_on(async {
        for pieces in [0, 1, 3] {
            fs::write(&path, b"the beginning").unwrap();
            let files = files(directory.path());
            let mut draft = draft(&files, full(), &path);
            let mut result = Ok(());
            for _ in 0..pieces {
                result = result.and(draft.write(&[1; PIECE]).await);
            }
            match result {
                Ok(()) => {
                    draft.write(&[1]).await.unwrap();
                    result = draft.finish().await.map(|_| ());
                }
                Err(_) => drop(draft),
            }
            assert!(matches!(result, Err(Error::Full)), "{result:?}");
            wait_for(directory.path(), 0);
            // The next one finds everything as it was.
            let next = files.draft(Size::mebi(1)).await.unwrap();
            drop(next.finish().await.unwrap());
            wait_for(&directory.path().join("new"), 0);
            fs::remove_dir(directory.path().join("new")).unwrap();
        }
    });
}

#[test]
fn what_would_take_the_last_room_is_not_written() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("some.part");
    let file = File::create(&path).unwrap();
    // A disk that does not tell has room for a stretch.
    let nowhere: Arc<Path> = Path::new("/nowhere").into();
    let mut writing = Writing::new(file, nowhere, 0);
    writing.write(&[1; PIECE]).unwrap();
    assert_eq!(writing.room, STRETCH - PIECE as u64);
    let more = vec![1; STRETCH as usize + 1];
    assert!(matches!(writing.write(&more), Err(Error::Full)));
    assert_eq!(fs::metadata(&path).unwrap().len(), PIECE as u64);
}

#[test]
fn a_full_disk_and_a_quota_that_is_spent_are_the_same() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(matches!(Error::from(io::Error::from(kind)), Error::Full));
    }
}
