//! The barest possible group commit: while one `fdatasync` is under way what comes gathers, and then goes to a preallocated
//! file by one `write` and one `fdatasync`. No lengths, checksums, ids or index: nobody could read it back.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io::{Read, Result, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Taken from the disk at once, so that a sync has no new blocks to find.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Events that one sync takes to disk, and whom it is to be told.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<u8>,
    /// Connections, and how many publishes each is to be answered.
    pub(crate) answers: Vec<(usize, usize)>,
}

/// Takes batches to disk, one after another, on a thread of its own: a loop that syncs between its reads and its answers does
/// a third less publishes a second on two CPUs, and answers later.
#[derive(Debug)]
pub(crate) struct Commit {
    gathered: Batch,
    under_way: bool,
    to: Sender<Batch>,
    from: Receiver<Result<Batch>>,
    /// Can be read when a batch is on disk.
    ended: UnixStream,
}

impl Commit {
    /// Makes the first file in that folder.
    pub(crate) fn start(folder: &Path) -> Result<Commit> {
        let mut log = Log::new(folder.to_owned())?;
        let (to, batches) = channel::<Batch>();
        let (synced, from) = channel();
        let (ended, mut end) = UnixStream::pair()?;
        std::thread::spawn(move || {
            for batch in batches {
                // Without a reader the server has ended.
                let _ = synced.send(log.append(&batch.events).map(|()| batch));
                let _ = end.write_all(&[0]);
            }
        });
        Ok(Commit { gathered: Batch::default(), under_way: false, to, from, ended })
    }

    /// Becomes readable when [`Commit::ended`] has something to tell.
    pub(crate) fn waker(&self) -> &UnixStream {
        &self.ended
    }

    /// Takes the events of some publishes of a connection.
    pub(crate) fn gather(&mut self, connection: usize, events: &[u8], publishes: usize) {
        self.gathered.events.extend_from_slice(events);
        self.gathered.answers.push((connection, publishes));
    }

    /// Lets a batch begin if none is under way and there is something in it.
    pub(crate) fn begin(&mut self) {
        if !self.under_way && !self.gathered.answers.is_empty() {
            // The thread waits for it as long as this lives.
            self.under_way = self.to.send(std::mem::take(&mut self.gathered)).is_ok();
        }
    }

    /// The batch that is on disk now; the next begins before that one is answered.
    pub(crate) fn ended(&mut self) -> Result<Option<Batch>> {
        let Ok(batch) = self.from.try_recv() else { return Ok(None) };
        self.ended.read_exact(&mut [0])?;
        self.under_way = false;
        self.begin();
        batch.map(Some)
    }
}

struct Log {
    folder: PathBuf,
    files: usize,
    file: File,
    at: u64,
    room: u64,
}

impl Log {
    fn new(folder: PathBuf) -> Result<Log> {
        let file = create(&folder, 0, FILE_BYTES)?;
        Ok(Log { folder, files: 1, file, at: 0, room: FILE_BYTES })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        if self.at + length > self.room {
            self.room = FILE_BYTES.max(length);
            self.file = create(&self.folder, self.files, self.room)?;
            self.files += 1;
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += length;
        self.file.sync_data()
    }
}

fn create(folder: &Path, number: usize, room: u64) -> Result<File> {
    let file = File::create_new(folder.join(format!("{number:04}")))?;
    fallocate(&file, FallocateFlags::empty(), 0, room)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Folder;

    #[test]
    fn what_gathers_during_a_sync_is_the_next_batch() {
        let folder = Folder::temporary().unwrap();
        let mut commit = Commit::start(folder.path()).unwrap();
        for (connection, events) in [(0, b"a"), (1, b"b"), (0, b"c")] {
            commit.gather(connection, events, 1);
            commit.begin();
        }
        let next = |commit: &mut Commit| {
            loop {
                if let Some(batch) = commit.ended().unwrap() {
                    return (batch.events, batch.answers);
                }
            }
        };
        assert_eq!(next(&mut commit), (b"a".to_vec(), vec![(0, 1)]));
        assert_eq!(next(&mut commit), (b"bc".to_vec(), vec![(1, 1), (0, 1)]));
        let written = std::fs::read(folder.path().join("0000")).unwrap();
        assert_eq!((written.len() as u64, &written[..4]), (FILE_BYTES, &b"abc\0"[..]));
    }

    #[test]
    fn a_full_file_is_followed_by_another() {
        let folder = Folder::temporary().unwrap();
        let mut log = Log::new(folder.path().to_owned()).unwrap();
        log.append(b"first").unwrap();
        log.at = FILE_BYTES - 3;
        log.append(b"next").unwrap();
        assert_eq!((log.files, log.at), (2, 4));
    }
}
