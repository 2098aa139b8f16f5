//! Listening sockets in the file system: who may connect, which file may be replaced, and when it is removed.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Group;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, while_taken};

/// The longest wait for others that hold the lock of a directory: esper does for milliseconds, and any program that may read
/// the directory could for ever.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The file of a listening socket, which is removed when this is dropped, if it is still there.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode, by which another process's file at the same path is known.
    identity: (u64, u64),
}

/// Listens on a socket at this path, with this mode and group. Waits up to a second for another process to end there.
///
/// A file that nobody listens on is of a process that was killed, and is replaced; one that somebody listens on only when
/// this is not `exclusive`.
///
/// # Errors
/// The cause and the remedy, in one line without the path.
pub(crate) fn listen_at(
    path: &Path,
    mode: u32,
    group: Option<&str>,
    exclusive: bool,
) -> Result<(OwnedFd, SocketFile), String> {
    let gid = group.map(gid).transpose()?;
    while_taken(|| try_listen(path, mode, gid, exclusive)).map_err(|error| help(path, &error))
}

/// Makes sure that nobody listens at this path; waits for that as [`listen_at`] does.
///
/// # Errors
/// As [`listen_at`].
pub(crate) fn free(path: &Path) -> Result<(), String> {
    let freed = while_taken(|| {
        let _lock = lock(path);
        make_way(path, true).map(drop)
    });
    freed.map_err(|error| help(path, &error))
}

fn try_listen(
    path: &Path,
    mode: u32,
    gid: Option<u32>,
    exclusive: bool,
) -> io::Result<(OwnedFd, SocketFile)> {
    let _lock = lock(path);
    // A socket of another process stays reachable until a rename puts the new one in its place.
    let own = if make_way(path, exclusive)? { path.to_owned() } else { beside(path)? };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&own)?)?;
    let prepared = prepare(&socket, &own, path, mode, gid);
    if prepared.is_err() {
        let _ = fs::remove_file(&own);
    }
    Ok((socket.into(), SocketFile { path: path.to_owned(), identity: prepared? }))
}

/// Sets who may connect, listens, and moves the file to its place; returns its identity.
fn prepare(socket: &Socket, own: &Path, path: &Path, mode: u32, gid: Option<u32>) -> io::Result<(u64, u64)> {
    // Before listening: until then nobody can connect.
    if gid.is_some() {
        chown(own, None, gid).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::InvalidInput => io::Error::other(NOT_IN_GROUP),
            _ => error,
        })?;
    }
    fs::set_permissions(own, Permissions::from_mode(mode))?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    let identity = identity(own)?;
    if own != path {
        fs::rename(own, path)?;
    }
    Ok(identity)
}

const NOT_IN_GROUP: &str = "this process is not in the group of --bind-group; add its user (usermod -aG, \
     SupplementaryGroups= and PrivateUsers=no in a systemd unit), or let systemd make the socket (SocketGroup=)";

/// Removes a file that nobody listens on. Returns whether the path is free.
fn make_way(path: &Path, exclusive: bool) -> io::Result<bool> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A connect to a socket with a full backlog would wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PROTOTYPE) => {
            Err(io::Error::other(OTHER_KIND))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map(|()| true),
        Ok(()) if !exclusive => Ok(false),
        Err(error) if error.kind() == ErrorKind::WouldBlock && !exclusive => Ok(false),
        Ok(()) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
    }
}

const OTHER_KIND: &str = "a socket of datagrams or packets is there, which another program made; stop that, remove the file, or \
     choose another path";

/// Keeps other starts and ends of esper away from the directory, until it is dropped: between a look at the file and its
/// removal another process could put its own there. Without it, on a file system that has no locks or where somebody else
/// holds the lock for longer than [`LOCK_WAIT`], that is a matter of luck.
fn lock(path: &Path) -> Option<File> {
    let directory = File::open(path.parent()?).ok()?;
    let start = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
}

/// Returns a path in the same directory, for a file that takes the place of the one at `path`. A file of that name is of a
/// process that was killed before it did, and is removed.
///
/// # Errors
/// A socket cannot have the path.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let own = path.with_file_name(format!(".esper-{}", std::process::id()));
    if SockAddr::unix(&own).is_err() {
        let long = "to take its place, a socket is made beside it, whose path would be too long; choose a shorter directory";
        return Err(io::Error::other(long));
    }
    match make_way(&own, true) {
        Ok(_) => Ok(own),
        Err(error) => Err(io::Error::other(format!("{} is in the way ({error}); remove it", own.display()))),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Returns the number of a group.
fn gid(group: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    match Group::from_name(group) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(format!("there is no group '{}'; give another --bind-group", group.escape_debug())),
    }
}

/// Returns why a socket cannot be made, and the remedy.
fn help(path: &Path, error: &io::Error) -> String {
    let directory = path.parent().unwrap_or(path).display();
    match error.kind() {
        ErrorKind::AddrInUse => {
            "another process listens there; stop it, choose another path, or take its place with --takeover"
                .to_owned()
        }
        ErrorKind::AlreadyExists => {
            "the file there is no socket, so it is not replaced; remove it, or choose another path".to_owned()
        }
        ErrorKind::NotFound => format!("there is no directory {directory}; make it, or choose another path"),
        ErrorKind::PermissionDenied => {
            format!("{error}; let this user write to {directory} (RuntimeDirectory= in a systemd unit)")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("{error}; choose another path, or let it through (RuntimeDirectory= in a systemd unit)")
        }
        _ => error.to_string(),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = lock(&self.path);
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory that is removed when this is dropped.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name =
                format!("esper-sockets-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Dir(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("s")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_file_has_its_mode_and_is_removed_at_the_end() {
        let dir = Dir::new();
        for mode in [0o600, 0o660, 0o666] {
            let (_socket, file) = listen_at(&dir.socket(), mode, None, true).unwrap();
            assert_eq!(fs::symlink_metadata(dir.socket()).unwrap().mode() & 0o7777, mode);
            UnixStream::connect(dir.socket()).unwrap();
            drop(file);
            assert!(!dir.socket().exists());
        }
    }

    #[test]
    fn the_file_of_a_dead_process_is_replaced_and_that_of_another_one_stays() {
        let dir = Dir::new();
        let (socket, file) = listen_at(&dir.socket(), 0o600, None, true).unwrap();
        let refused = listen_at(&dir.socket(), 0o600, None, true).unwrap_err();
        assert!(refused.starts_with("another process listens there; "), "{refused}");
        // As kill -9 leaves it.
        std::mem::forget(file);
        drop(socket);
        let (_second, file) = listen_at(&dir.socket(), 0o600, None, true).unwrap();
        // The third takes over.
        let (_third, taken) = listen_at(&dir.socket(), 0o600, None, false).unwrap();
        drop(file);
        UnixStream::connect(dir.socket()).unwrap();
        drop(taken);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = Dir::new();
        fs::write(dir.socket(), "precious").unwrap();
        for exclusive in [true, false] {
            let refused = listen_at(&dir.socket(), 0o600, None, exclusive).unwrap_err();
            assert!(refused.starts_with("the file there is no socket"), "{refused}");
        }
        assert_eq!(fs::read(dir.socket()).unwrap(), b"precious");
    }

    #[test]
    fn a_lock_that_somebody_else_holds_is_not_waited_for_for_ever() {
        let dir = Dir::new();
        let held = File::open(&dir.0).unwrap();
        held.lock().unwrap();
        let (_socket, file) = listen_at(&dir.socket(), 0o600, None, true).unwrap();
        drop(file);
        assert!(!dir.socket().exists());
    }

    #[test]
    fn a_takeover_passes_over_what_a_killed_one_left_and_says_what_else_is_in_the_way() {
        let dir = Dir::new();
        let (_first, _file) = listen_at(&dir.socket(), 0o600, None, true).unwrap();
        let own = beside(&dir.socket()).unwrap();
        // As kill -9 leaves it before its rename.
        drop(UnixListener::bind(&own).unwrap());
        let (_second, _taken) = listen_at(&dir.socket(), 0o600, None, false).unwrap();
        assert!(!own.exists());
        fs::write(&own, "precious").unwrap();
        let refused = listen_at(&dir.socket(), 0o600, None, false).unwrap_err();
        assert!(refused.starts_with(own.to_str().unwrap()) && refused.ends_with("; remove it"), "{refused}");
        assert_eq!(fs::read(&own).unwrap(), b"precious");

        let long = dir.0.join("d".repeat(104 - dir.0.as_os_str().len() - 1));
        fs::create_dir(&long).unwrap();
        let (_third, _file) = listen_at(&long.join("s"), 0o600, None, true).unwrap();
        let refused = listen_at(&long.join("s"), 0o600, None, false).unwrap_err();
        assert!(refused.ends_with("choose a shorter directory"), "{refused}");
    }

    #[test]
    fn a_socket_of_datagrams_is_left_alone() {
        let dir = Dir::new();
        let _other = UnixDatagram::bind(dir.socket()).unwrap();
        for exclusive in [true, false] {
            let refused = listen_at(&dir.socket(), 0o600, None, exclusive).unwrap_err();
            assert_eq!(refused, OTHER_KIND);
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let dir = Dir::new();
        let refused = |path: &Path, group| listen_at(path, 0o600, group, true).unwrap_err();
        assert!(refused(&dir.0.join("no/s"), None).starts_with("there is no directory "));
        assert!(
            refused(&dir.socket(), Some("no-such-group")).starts_with("there is no group 'no-such-group'; ")
        );
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn of_several_that_start_at_the_same_time_one_has_the_path() {
        let dir = Dir::new();
        for round in 0..100 {
            // Every other time over the file of a dead process.
            if round % 2 == 0 {
                std::mem::forget(listen_at(&dir.socket(), 0o600, None, true).unwrap().1);
            }
            let barrier = Barrier::new(4);
            let start = || {
                barrier.wait();
                try_listen(&dir.socket(), 0o600, None, true)
            };
            let tried: Vec<_> = thread::scope(|scope| {
                let starting: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                starting.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(tried.iter().filter(|listening| listening.is_ok()).count(), 1, "{tried:?}");
        }
    }
}
