//! A disk that forgets. After a power failure it has everything synced, and any part of the rest: a write is kept, lost
//! or torn by sectors of 512 bytes and within one, names are those of before or after, in any order. It fails on
//! demand, and the power fails at any operation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "for tests and fuzzing alone")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::rc::Rc;

use super::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

/// A bug put in on purpose, to prove that it is found. The disk simulates each, as a fault of the log would show on it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::journal::disk) enum DiskCanary {
    #[default]
    None,
    /// `sync_data` does nothing.
    NoSync,
    /// A segment is unlinked for good before the last sync, not after it.
    EarlyUnlink,
    /// A segment that was cut to its length gets its former length back.
    AllocatedAgain,
    /// The rename of a new segment comes before its content is synced.
    EarlyRename,
}

#[derive(Clone, Default)]
struct Inode {
    /// The bytes as processes see them.
    now: Vec<u8>,
    /// The bytes as they are on the disk.
    synced: Vec<u8>,
    /// The changes between the two.
    pending: Vec<Change>,
    /// `synced` and `pending` before the last sync.
    before: Option<(Vec<u8>, Vec<Change>)>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone)]
enum NameChange {
    Link(String, u64),
    Rename(String, String, u64),
    Unlink(String),
}

struct DiskState {
    random: fastrand::Rng,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    names_synced: BTreeMap<String, u64>,
    names_pending: Vec<NameChange>,
    /// Operations until the power fails.
    fuse: Option<u64>,
    is_dead: bool,
    faults: Faults,
    canary: DiskCanary,
    operations: u64,
    has_failed: bool,
}

/// The faults other than of power.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::journal::disk) struct Faults {
    /// `allocate` has no room.
    pub(in crate::journal::disk) is_full: bool,
    /// One of this many writes and syncs fails.
    pub(in crate::journal::disk) error_in: Option<u64>,
    /// A write takes fewer bytes than offered now and then.
    pub(in crate::journal::disk) has_short_writes: bool,
}

/// A handle of a disk; all handles of one disk share its content.
#[derive(Clone)]
pub(in crate::journal::disk) struct SimulatedDisk {
    state: Rc<RefCell<DiskState>>,
}

/// An open file.
pub(in crate::journal::disk) struct SimulatedFile {
    state: Rc<RefCell<DiskState>>,
    inode: u64,
}

impl SimulatedDisk {
    pub(in crate::journal::disk) fn new(seed: u64) -> Self {
        let state = DiskState {
            random: fastrand::Rng::with_seed(seed),
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            names_synced: BTreeMap::new(),
            names_pending: Vec::new(),
            fuse: None,
            is_dead: false,
            faults: Faults::default(),
            canary: DiskCanary::None,
            operations: 0,
            has_failed: false,
        };
        SimulatedDisk { state: Rc::new(RefCell::new(state)) }
    }

    pub(in crate::journal::disk) fn set_canary(&self, canary: DiskCanary) {
        self.state.borrow_mut().canary = canary;
    }

    pub(in crate::journal::disk) fn set_faults(&self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// Makes the power fail after this many operations that change something.
    pub(in crate::journal::disk) fn light_fuse(&self, operations: u64) {
        self.state.borrow_mut().fuse = Some(operations);
    }

    pub(in crate::journal::disk) fn is_dead(&self) -> bool {
        self.state.borrow().is_dead
    }

    /// Returns whether a write or a sync failed since the last restart.
    pub(in crate::journal::disk) fn has_failed(&self) -> bool {
        self.state.borrow().has_failed
    }

    /// Returns the number of operations that changed something.
    pub(in crate::journal::disk) fn operations(&self) -> u64 {
        self.state.borrow().operations
    }

    /// Restarts after the process has ended: with `power`, as after a power failure.
    pub(in crate::journal::disk) fn restart(&self, power: bool) {
        let state = &mut *self.state.borrow_mut();
        if power || state.is_dead {
            state.lose();
        }
        state.fuse = None;
        state.is_dead = false;
        state.has_failed = false;
        state.faults = Faults::default();
    }

    /// Returns a file's bytes.
    pub(in crate::journal::disk) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state.borrow();
        state.inodes[&state.names[name]].now.clone()
    }

    /// Writes a file, synced.
    pub(in crate::journal::disk) fn put(&self, name: &str, bytes: Vec<u8>) {
        let state = &mut *self.state.borrow_mut();
        let inode = Inode { now: bytes.clone(), synced: bytes, ..Inode::default() };
        state.next_inode += 1;
        state.inodes.insert(state.next_inode, inode);
        state.names.insert(name.to_owned(), state.next_inode);
        state.names_synced.insert(name.to_owned(), state.next_inode);
    }

    /// Returns a copy of the disk, with everything synced.
    pub(in crate::journal::disk) fn snapshot(&self) -> SimulatedDisk {
        let copy = SimulatedDisk::new(1);
        for name in self.list().unwrap() {
            copy.put(&name, self.bytes(&name));
        }
        copy
    }
}

impl DiskState {
    /// Counts an operation. Returns whether it is done, and the error if the power fails with it.
    fn step(&mut self) -> (bool, io::Result<()>) {
        let dead = || Err(io::Error::other("the power is gone"));
        if self.is_dead {
            return (false, dead());
        }
        self.operations += 1;
        match &mut self.fuse {
            Some(0) => {
                self.is_dead = true;
                (self.random.bool(), dead())
            }
            Some(fuse) => {
                *fuse -= 1;
                (true, Ok(()))
            }
            None => (true, Ok(())),
        }
    }

    fn fails(&mut self) -> bool {
        let fails = self.faults.error_in.is_some_and(|odds| self.random.u64(0..odds) == 0);
        self.has_failed |= fails;
        fails
    }

    fn change(&mut self, inode: u64, change: Change) {
        let inode = self.inodes.get_mut(&inode).unwrap();
        apply(&mut inode.now, &change);
        inode.pending.push(change);
    }

    fn change_name(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.names_pending.push(change);
    }

    fn lose(&mut self) {
        let random = &mut self.random;
        for inode in self.inodes.values_mut() {
            let mut bytes = std::mem::take(&mut inode.synced);
            let mode = random.u8(0..4);
            for change in inode.pending.drain(..) {
                match (&change, mode) {
                    (_, 0) => {}
                    (_, 1) => apply(&mut bytes, &change),
                    (Change::Length(_), _) if random.bool() => {}
                    (Change::Length(_), _) => apply(&mut bytes, &change),
                    (Change::Write(offset, data), _) => tear(&mut bytes, *offset, data, random),
                }
            }
            *inode = Inode { now: bytes.clone(), synced: bytes, ..Inode::default() };
        }
        let mode = random.u8(0..3);
        for change in self.names_pending.drain(..) {
            if mode == 0 || mode == 1 && random.bool() {
                apply_name(&mut self.names_synced, &change);
            }
        }
        self.names = self.names_synced.clone();
        let named: Vec<_> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write(offset, data) => {
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(data);
        }
    }
}

/// Keeps any sectors of a write, and some in part.
fn tear(bytes: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut fastrand::Rng) {
    let mut start = offset;
    let end = offset + data.len();
    while start < end {
        let sector_end = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let stop = sector_end.min(end);
        let kept = match random.u8(0..8) {
            0..4 => start..stop,
            4 => start..random.usize(start..=stop),
            5 => random.usize(start..=stop)..stop,
            _ => start..start,
        };
        if !kept.is_empty() {
            let data = data[kept.start - offset..kept.end - offset].to_vec();
            apply(bytes, &Change::Write(kept.start, data));
        }
        start = stop;
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn name(&self) -> String {
        "simulated".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.borrow().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        if is_done {
            state.next_inode += 1;
            let inode = state.next_inode;
            state.inodes.insert(inode, Inode::default());
            state.change_name(NameChange::Link(name.to_owned(), inode));
        }
        result?;
        Ok(SimulatedFile { state: Rc::clone(&self.state), inode: state.next_inode })
    }

    fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        let inode = *self.state.borrow().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimulatedFile { state: Rc::clone(&self.state), inode })
    }

    fn open_to_write(&self, name: &str) -> io::Result<SimulatedFile> {
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if is_done {
            let change = NameChange::Rename(from.to_owned(), to.to_owned(), inode);
            if state.canary == DiskCanary::EarlyRename {
                apply_name(&mut state.names_synced, &change);
                let inode = state.inodes.get_mut(&inode).unwrap();
                (inode.synced, inode.pending) = inode.before.take().unwrap();
            }
            state.change_name(change);
        }
        result
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if is_done {
            let change = NameChange::Unlink(name.to_owned());
            if state.canary == DiskCanary::EarlyUnlink && name.ends_with(".segment") {
                apply_name(&mut state.names_synced, &change);
                for inode in state.inodes.values_mut() {
                    if let Some((synced, mut pending)) = inode.before.take() {
                        pending.append(&mut inode.pending);
                        (inode.synced, inode.pending) = (synced, pending);
                    }
                }
            }
            state.change_name(change);
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        if is_done {
            state.names_synced = state.names.clone();
            state.names_pending.clear();
        }
        result
    }
}

impl SimulatedFile {
    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        let fails = result.is_ok() && state.fails();
        let inode = state.inodes.get_mut(&self.inode).unwrap();
        if fails {
            // After a failed sync the kernel marks these bytes clean, and goes on to show them.
            inode.pending.clear();
            return Err(io::Error::other("the sync failed"));
        }
        if is_done {
            inode.before = Some((inode.synced.clone(), inode.pending.clone()));
            for change in inode.pending.drain(..) {
                apply(&mut inode.synced, &change);
            }
        }
        result
    }
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.borrow().inodes[&self.inode].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state.borrow();
        if state.is_dead {
            return Err(io::Error::other("the power is gone"));
        }
        let bytes = &state.inodes[&self.inode].now;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        assert!(buffers.len() <= 1024);
        let (is_done, result) = state.step();
        let mut data: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        if !data.is_empty() && state.faults.has_short_writes && state.random.u8(0..3) == 0 {
            data.truncate(state.random.usize(1..=data.len()));
        }
        let length = data.len();
        if is_done {
            state.change(self.inode, Change::Write(offset as usize, data));
        }
        result?;
        if state.fails() {
            return Err(io::Error::other("the write failed"));
        }
        Ok(length)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        let length = state.inodes[&self.inode].now.len().max((offset + bytes) as usize);
        if state.faults.is_full && !state.is_dead {
            if state.random.bool() {
                state.change(self.inode, Change::Length(length / 2));
            }
            let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            return Err(kinds[state.random.usize(0..2)].into());
        }
        if is_done {
            state.change(self.inode, Change::Length(length));
        }
        result
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let (is_done, result) = state.step();
        if is_done {
            let length = state.inodes[&self.inode].now.len();
            state.change(self.inode, Change::Length(bytes as usize));
            if state.canary == DiskCanary::AllocatedAgain {
                state.change(self.inode, Change::Length(length));
            }
        }
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.state.borrow().canary == DiskCanary::NoSync {
            return Ok(());
        }
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}
