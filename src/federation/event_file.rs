//! The events of a large response, in a temporary file instead of in memory.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use ruma::{EventId, OwnedEventId};
use serde_json::value::RawValue;

/// How many events are verified at once, and how many bytes they may have if they are several.
const VERIFIED_PER_BATCH: usize = 64;
const VERIFIED_BYTES: usize = 512 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// Creates a file that is deleted when it is closed.
pub fn temporary_file(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("response-{:016x}", rand::random::<u64>()));
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Events with their ids.
pub struct EventFile {
    file: File,
    file_bytes: u64,
    /// What is not in the file yet.
    buffer: Vec<u8>,
    /// The offset of the end of each event.
    ends: Vec<u64>,
}

impl EventFile {
    pub fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            file: temporary_file(directory)?,
            file_bytes: 0,
            buffer: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many of the events `order` are read and verified next.
    pub fn batch_length(&self, order: &[u32]) -> usize {
        let mut bytes = 0;
        let sizes = order.iter().map(|index| self.size(*index as usize));
        let fitting = sizes.take(VERIFIED_PER_BATCH).take_while(|size| {
            bytes += size;
            bytes <= VERIFIED_BYTES
        });
        fitting.count().max(1)
    }

    /// The ids and the JSON of these events. Reads a file: for the pool.
    pub fn read_all(&self, indices: &[u32]) -> io::Result<Vec<(OwnedEventId, Box<RawValue>)>> {
        let read = indices.iter().map(|index| {
            let (id, json) = self.read(*index as usize)?;
            Ok((id, serde_json::from_slice(&json)?))
        });
        read.collect()
    }

    /// How many bytes the event number `index` has, with its id.
    fn size(&self, index: usize) -> usize {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        usize::try_from(self.ends[index] - start).unwrap_or(usize::MAX)
    }

    pub fn push(&mut self, id: &EventId, json: &[u8]) -> io::Result<()> {
        let id_bytes = u8::try_from(id.as_str().len()).map_err(io::Error::other)?;
        self.buffer.push(id_bytes);
        self.buffer.extend(id.as_bytes());
        self.buffer.extend(json);
        self.ends.push(self.file_bytes + self.buffer.len() as u64);
        if self.buffer.len() >= BUFFER_BYTES {
            self.file.write_all(&self.buffer)?;
            self.file_bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// The id and the JSON of the event that was pushed as number `index`.
    pub fn read(&self, index: usize) -> io::Result<(OwnedEventId, Vec<u8>)> {
        let size = self.size(index);
        let mut record = vec![0; size];
        match (self.ends[index] - size as u64).checked_sub(self.file_bytes) {
            Some(start) => {
                let start = usize::try_from(start).map_err(io::Error::other)?;
                record.copy_from_slice(&self.buffer[start..start + size]);
            }
            None => self
                .file
                .read_exact_at(&mut record, self.ends[index] - size as u64)?,
        }
        let json = record.split_off(1 + usize::from(record[0]));
        let id = str::from_utf8(&record[1..]).map_err(io::Error::other)?;
        Ok((EventId::parse(id).map_err(io::Error::other)?, json))
    }
}

#[cfg(test)]
mod tests {
    use ruma::EventId;

    use super::{BUFFER_BYTES, EventFile};

    #[test]
    fn events_are_read_from_the_buffer_and_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = EventFile::new(directory.path()).unwrap();
        let events: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; BUFFER_BYTES / 30]).collect();
        let id = |index| EventId::parse(format!("$event{index}")).unwrap();
        for (index, event) in events.iter().enumerate() {
            file.push(&id(index), event).unwrap();
        }
        for (index, event) in events.iter().enumerate() {
            assert_eq!(file.read(index).unwrap(), (id(index), event.clone()));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
