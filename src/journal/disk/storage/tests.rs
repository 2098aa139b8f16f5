use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A temporary directory, removed when it is dropped.
pub(in crate::journal::disk) struct TempDir(PathBuf);

impl TempDir {
    pub(in crate::journal::disk) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esper-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        TempDir(path)
    }

    pub(in crate::journal::disk) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_second_process_is_refused_and_told_the_pid_of_the_first() {
    let dir = TempDir::new("locked");
    let (first, _) = Directory::open(&dir.0).unwrap();
    let error = Directory::open(&dir.0).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())));
    // A reader is let in.
    Directory::read(&dir.0).unwrap();
    drop(first);
    Directory::open(&dir.0).unwrap();
}

#[test]
fn a_file_in_place_of_the_directory_is_told_as_that() {
    let dir = TempDir::new("file");
    fs::create_dir(&dir.0).unwrap();
    let file = dir.0.join("journal");
    fs::write(&file, "x").unwrap();
    assert!(matches!(Directory::open(&file), Err(OpenError::NotADirectory { .. })));
    assert!(matches!(Directory::open(&file.join("below")), Err(OpenError::NotADirectory { .. })));
}

#[test]
fn a_directory_that_may_not_be_written_names_its_owner() {
    let dir = TempDir::new("permission");
    fs::create_dir(&dir.0).unwrap();
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o500)).unwrap();
    let result = Directory::open(&dir.0);
    let user = rustix::process::geteuid().as_raw();
    // Root may open it.
    match user {
        0 => drop(result.unwrap()),
        _ => assert!(
            matches!(result, Err(OpenError::Permission { owner, user: own, .. }) if owner == user && own == user)
        ),
    }
}

#[test]
fn what_is_written_in_many_buffers_is_read_back() {
    let dir = TempDir::new("buffers");
    let (disk, warnings) = Directory::open(&dir.0).unwrap();
    assert_eq!(warnings, []);
    let file = disk.create("x").unwrap();
    file.allocate(0, 1 << 16).unwrap();
    let pieces: Vec<[u8; 3]> = (0..5000u32).map(|n| [n as u8, (n >> 8) as u8, 7]).collect();
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    write_all_at(&file, &mut slices, 100).unwrap();
    let mut bytes = vec![0; 1 << 16];
    assert_eq!(read_full_at(&file, &mut bytes, 0).unwrap(), 1 << 16);
    assert_eq!(&bytes[100..100 + 15_000], &pieces.concat());
    assert!(bytes[15_100..].iter().all(|byte| *byte == 0));
}
