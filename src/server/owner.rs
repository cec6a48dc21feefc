//! Whom the files in the data directory belong to.

use std::{io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fchown, fstat, openat},
    process::{Gid, Uid, geteuid},
};

/// Deeper than any directory of the server.
const MAX_DEPTH: usize = 8;

/// When this is dropped, the files that root has made in the data directory belong to its owner: a server that
/// does not run as root could not open them.
pub(super) struct FilesOfRoot<'a>(pub(super) &'a Path);

impl Drop for FilesOfRoot<'_> {
    fn drop(&mut self) {
        if !geteuid().is_root() {
            return;
        }
        if let Err(error) = give_to_owner(self.0) {
            log::warn!(
                "files in {} may belong to root, so that the server cannot open them: {error}",
                self.0.display()
            );
        }
    }
}

fn give_to_owner(data_dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, data_dir, flags, Mode::empty())?;
    let owner = fstat(&directory)?;
    if owner.st_uid == 0 {
        return Ok(());
    }
    give(directory, &owner, MAX_DEPTH)
}

/// The owner can put links into the directory: they are not followed, and a file that has another name too is
/// left alone, as it may be one of the system.
fn give(directory: impl AsFd, owner: &Stat, depth: usize) -> io::Result<()> {
    // Nothing waits for a named pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        // A link, a socket, or removed meanwhile.
        let Ok(file) = openat(&directory, name, flags, Mode::empty()) else {
            continue;
        };
        let stat = fstat(&file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        let is_only_name = kind == FileType::RegularFile && stat.st_nlink == 1;
        if stat.st_uid == 0 && (is_directory || is_only_name) {
            fchown(
                &file,
                Some(Uid::from_raw(owner.st_uid)),
                Some(Gid::from_raw(owner.st_gid)),
            )?;
        }
        if is_directory && depth > 0 {
            give(file, owner, depth - 1)?;
        }
    }
    Ok(())
}
