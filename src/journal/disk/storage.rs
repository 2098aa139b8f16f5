//! The operations of a disk that the journal needs, and the real ones.
//!
//! Tests have another [`Disk`], which forgets what was not synced and fails on demand.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, NFS_SUPER_MAGIC};
use rustix::io::Errno;

use super::error::OpenError;

/// A directory of files, owned by its log. Every operation blocks.
pub(crate) trait Disk {
    type File: DiskFile;

    /// Returns the directory's name, for messages.
    fn name(&self) -> String;
    /// Returns the names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates an empty file, replacing one of the same name.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file to read it.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file to read and write it.
    fn open_to_write(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing one of the new name. Like the other changes of names it is durable after
    /// [`Disk::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and unlinked names durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a [`Disk`].
pub(crate) trait DiskFile {
    /// Returns the file's length in bytes, allocated ones included.
    fn len(&self) -> io::Result<u64>;
    /// Reads into the buffer; returns the number of bytes, 0 at the file's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes the buffers, 1,024 at most, one after the other; returns the number of bytes, which may be fewer than
    /// there are.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Allocates these bytes as zeros, and makes the file as long.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes the written bytes and the length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes durable what [`DiskFile::sync_data`] does, and all metadata.
    fn sync_all(&self) -> io::Result<()>;
}

/// A warning about a directory, for the server's log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DirectoryWarning {
    /// A server's answer to `fdatasync`, and its locks, are as good as the server.
    #[error(
        "{dir} is on NFS: what is synced there is as safe as the server, and a lock may be lost; use a local disk"
    )]
    Nfs {
        /// Its path.
        dir: String,
    },
    /// Files get another owner than the directory has: a later start as that user may not read them.
    #[error("{dir} belongs to user {owner}, and this process is user {user}: start always as the same user")]
    Owner {
        /// Its path.
        dir: String,
        /// The user id of its owner.
        owner: u32,
        /// The user id of this process.
        user: u32,
    },
}

/// A directory of the file system. If it was opened to write, it is locked until it is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    directory: File,
    _lock: Option<File>,
}

impl Directory {
    /// Opens a directory to write, creates it if there is none, and locks it.
    ///
    /// [`OpenError::Locked`] with the pid of the process that has it, or the reason why it cannot be used.
    pub(crate) fn open(path: &Path) -> Result<(Directory, Vec<DirectoryWarning>), OpenError> {
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| refusal(path, "create", error))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|parent| parent.sync_all())
                .map_err(|error| refusal(path, "sync the parent of", error))?;
        }
        let mut directory = Directory::read(path)?;
        directory._lock = Some(lock(path)?);
        let warnings = directory.warnings();
        Ok((directory, warnings))
    }

    /// Opens a directory to read it, also while another process writes it.
    ///
    /// Tells why it cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Directory, OpenError> {
        let metadata = fs::metadata(path).map_err(|error| refusal(path, "open", error))?;
        if !metadata.is_dir() {
            return Err(OpenError::NotADirectory { dir: path.display().to_string() });
        }
        let directory = File::open(path).map_err(|error| refusal(path, "open", error))?;
        Ok(Directory { path: path.to_owned(), directory, _lock: None })
    }

    fn warnings(&self) -> Vec<DirectoryWarning> {
        let mut warnings = Vec::new();
        let user = rustix::process::geteuid().as_raw();
        if rustix::fs::fstatfs(&self.directory).is_ok_and(|stat| stat.f_type == NFS_SUPER_MAGIC) {
            warnings.push(DirectoryWarning::Nfs { dir: self.name() });
        }
        if let Some(owner) = self.directory.metadata().ok().map(|metadata| metadata.uid())
            && owner != user
        {
            warnings.push(DirectoryWarning::Owner { dir: self.name(), owner, user });
        }
        warnings
    }
}

impl Disk for Directory {
    type File = File;

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(&self.path)?.map(name).collect()
    }

    fn create(&self, name: &str) -> io::Result<File> {
        // Events are for those who may subscribe, not for every user of the machine.
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.path.join(name))
    }

    fn open_to_write(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, buffers, offset)?)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(self, FallocateFlags::empty(), offset, bytes) {
                Err(Errno::INTR) => {}
                // Some file systems do not have it: written zeros take the room as well.
                Err(Errno::OPNOTSUPP) => return write_zeros(self, offset, bytes),
                result => return Ok(result?),
            }
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }
}

fn write_zeros(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut written = 0;
    while written < bytes {
        let length = (bytes - written).min(zeros.len() as u64);
        file.write_all_at(zeros.get(..length as usize).unwrap_or_default(), offset + written)?;
        written += length;
    }
    Ok(())
}

/// Returns whether an error only says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads until the buffer is full or the file ends; returns the number of bytes.
pub(super) fn read_full_at<F: DiskFile>(file: &F, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of the buffers, one after the other, however few bytes and buffers a call takes.
pub(super) fn write_all_at<F: DiskFile>(
    file: &F,
    mut buffers: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    // Linux refuses a longer vector (UIO_MAXIOV).
    const BUFFERS_MAX: usize = 1024;
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        match file.write_at(buffers.get(..BUFFERS_MAX).unwrap_or(buffers), offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => {
                IoSlice::advance_slices(&mut buffers, bytes);
                offset += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes the directory's lock, and writes this process's pid into it.
fn lock(path: &Path) -> Result<File, OpenError> {
    let name = path.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|error| refusal(&name, "open", error))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let pid = lock.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
            return Err(OpenError::Locked { dir: path.display().to_string(), pid });
        }
        Err(error) => return Err(refusal(&name, "lock", error.into())),
    }
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(|error| refusal(&name, "write", error))?;
    Ok(lock)
}

/// Returns the startup error for a failed operation on the directory or its lock.
fn refusal(path: &Path, what: &str, error: io::Error) -> OpenError {
    let shown = path.display().to_string();
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { dir: shown },
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            OpenError::NotADirectory { dir: shown }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            OpenError::Full { dir: shown, source: error }
        }
        io::ErrorKind::PermissionDenied => {
            // An unreadable path is refused by its nearest readable ancestor.
            let owner = path.ancestors().find_map(|path| Some(fs::metadata(path).ok()?.uid()));
            OpenError::Permission {
                path: shown,
                owner: owner.unwrap_or_default(),
                user: rustix::process::geteuid().as_raw(),
            }
        }
        _ => OpenError::Io { what: format!("{what} {shown}"), source: error },
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod simulated;
#[cfg(test)]
pub(super) mod tests;
