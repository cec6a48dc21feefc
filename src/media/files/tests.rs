use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use tempfile::TempDir;

use super::{CHUNK_BYTES, FileWriter, Files, OpenFile, SYNC_INTERVAL_BYTES, TempFile};
use crate::{config::Size, media::Error, pool::Pool};

fn files(directory: &Path) -> Files {
    Files::new(directory.to_owned(), Pool::default())
}

/// A writer to `file`, for which the disk seems to have space.
fn writer(files: &Files, file: File, path: &Path) -> FileWriter {
    let open = OpenFile::new(file, files.directory.clone(), SYNC_INTERVAL_BYTES);
    FileWriter {
        files: files.clone(),
        open: Some(open),
        buffer: Vec::new(),
        size: 0,
        max_size: Size::mebi(100),
        path: TempFile(path.to_owned()),
    }
}

/// Waits until `directory` has `count` entries.
fn wait_for(directory: &Path, count: usize) {
    while fs::read_dir(directory).unwrap().count() != count {
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_during_a_write_returns_full_and_leaves_no_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("some.part");
    // Every write to it fails with ENOSPC.
    let full = || File::options().write(true).open("/dev/full").unwrap();
    smol::block_on(async {
        for chunks in [0, 1, 3] {
            fs::write(&path, b"the beginning").unwrap();
            let files = files(directory.path());
            let mut writer = writer(&files, full(), &path);
            let mut result = Ok(());
            for _ in 0..chunks {
                result = result.and(writer.write(&[1; CHUNK_BYTES]).await);
            }
            match result {
                Ok(()) => {
                    writer.write(&[1]).await.unwrap();
                    result = writer.finish().await.map(|_| ());
                }
                Err(_) => drop(writer),
            }
            assert!(matches!(result, Err(Error::Full)), "{result:?}");
            wait_for(directory.path(), 0);
            // The next file can be written.
            let next = files.create(Size::mebi(1)).await.unwrap();
            drop(next.finish().await.unwrap());
            wait_for(&directory.path().join("new"), 0);
            fs::remove_dir(directory.path().join("new")).unwrap();
        }
    });
}

#[test]
fn a_write_beyond_the_free_space_is_not_done() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("some.part");
    let file = File::create(&path).unwrap();
    // Where the free space is unknown, one sync interval may be written.
    let nowhere: Arc<Path> = Path::new("/nowhere").into();
    let mut open = OpenFile::new(file, nowhere, 0);
    open.write(&[1; CHUNK_BYTES]).unwrap();
    assert_eq!(open.writable, SYNC_INTERVAL_BYTES - CHUNK_BYTES as u64);
    let more = vec![1; SYNC_INTERVAL_BYTES as usize + 1];
    assert!(matches!(open.write(&more), Err(Error::Full)));
    assert_eq!(fs::metadata(&path).unwrap().len(), CHUNK_BYTES as u64);
}

#[test]
fn a_full_disk_and_an_exceeded_disk_quota_are_the_same_error() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(matches!(Error::from(io::Error::from(kind)), Error::Full));
    }
}
