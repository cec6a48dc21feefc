//! The events of a large response, in a temporary file instead of in memory.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

const BUFFER_BYTES: usize = 64 * 1024;

/// Creates a file that is deleted when it is closed.
pub fn temporary_file(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("join-{:016x}", rand::random::<u64>()));
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

pub struct EventFile {
    file: File,
    file_bytes: u64,
    /// What is not in the file yet.
    buffer: Vec<u8>,
    /// Offset and length of each event.
    ranges: Vec<(u64, usize)>,
}

impl EventFile {
    pub fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            file: temporary_file(directory)?,
            file_bytes: 0,
            buffer: Vec::new(),
            ranges: Vec::new(),
        })
    }

    pub fn push(&mut self, json: &[u8]) -> io::Result<()> {
        let offset = self.file_bytes + self.buffer.len() as u64;
        self.ranges.push((offset, json.len()));
        self.buffer.extend(json);
        if self.buffer.len() >= BUFFER_BYTES {
            self.file.write_all(&self.buffer)?;
            self.file_bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// The JSON of the event that was pushed as number `index`.
    pub fn read(&self, index: usize) -> io::Result<Vec<u8>> {
        let (offset, length) = self.ranges[index];
        if let Some(offset) = offset.checked_sub(self.file_bytes) {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            return Ok(self.buffer[start..start + length].to_vec());
        }
        let mut json = vec![0; length];
        self.file.read_exact_at(&mut json, offset)?;
        Ok(json)
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_BYTES, EventFile};

    #[test]
    fn events_are_read_from_the_buffer_and_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = EventFile::new(directory.path()).unwrap();
        let events: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; BUFFER_BYTES / 30]).collect();
        for event in &events {
            file.push(event).unwrap();
        }
        for (index, event) in events.iter().enumerate() {
            assert_eq!(file.read(index).unwrap(), *event);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
