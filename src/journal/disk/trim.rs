//! Frees the disk of events that histories dropped: a segment without alive events is removed, neighbours with few are
//! rewritten as one, and above the journal's limit the oldest segment goes.
//!
//! The losses are recorded and synced before: the ends of topics, and the segments that are to go. To know the topics,
//! the segments are read once more, a little at a time. A crash at any point leaves either the old segments or the new
//! one, with or without some that are named as removed or covered, which the next start unlinks.

use std::collections::{HashMap, VecDeque};

use super::alive::Segment;
use super::ends::TopicEnds;
use super::error::{AppendError, Fatal, Full};
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, new_name, segment_name};
use super::gone::{self, gone_name};
use super::log::{Log, Lost};
use super::record::ControlRecord;
use super::rewrite::{Output, TrimError, Trimming, write_file};
use super::storage::{Disk, is_full};
use crate::core::event_id::Sequence;

/// Fewest bytes that a step reads: about 1 ms from a warm cache.
const STEP_BYTES: u64 = 1 << 20;
/// Most segments that become one.
const NEIGHBOURS_MAX: usize = 8;

/// The result of a step of [`Log::trim`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trimmed {
    /// There is nothing to do.
    Nothing,
    /// There is more to do.
    Some,
}

/// The segments to remove or rewrite next.
struct TrimPlan {
    first: u64,
    last: u64,
    files: VecDeque<u64>,
    is_rewriting: bool,
    is_forced: bool,
}

impl<D: Disk> Log<D> {
    /// Notes that a history has dropped an event with `lines_bytes` of lines: it need not be kept. A topic's events are
    /// dropped oldest first.
    pub(crate) fn dropped(&mut self, partition: u8, sequence: Sequence, lines_bytes: usize) {
        if let Some(trimming) = self.trimming.as_mut().filter(|trimming| trimming.output.is_some()) {
            trimming.dropped.entry((partition, sequence)).or_insert(lines_bytes);
        }
        self.segments.dropped(partition, sequence, lines_bytes);
    }

    /// Frees the room of events that no history has any more, one step of about 1 ms at a time. Segments with
    /// idempotency keys of `keys_since_ms` (in ms of the Unix epoch) or later are kept.
    ///
    /// # Errors
    /// [`AppendError::Full`] if there is no room to record what would be lost; nothing is lost then.
    pub(crate) fn trim(&mut self, keys_since_ms: u64) -> Result<Trimmed, AppendError> {
        self.check_open()?;
        if self.trimming.is_none() {
            let Some(plan) = self.plan(keys_since_ms) else { return Ok(Trimmed::Nothing) };
            self.begin_trimming(plan)?;
        }
        match self.trim_step(STEP_BYTES) {
            Ok(()) => Ok(Trimmed::Some),
            Err(AppendError::Full(full)) => {
                // A rewriting takes room itself. A removal goes on from where it is.
                if self.trimming.as_ref().is_some_and(|trimming| trimming.output.is_some()) {
                    self.abandon_trimming()?;
                }
                Err(full.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the oldest segment at once, with its alive events. Returns false if there is none but the newest.
    pub(super) fn remove_oldest(&mut self) -> Result<bool, AppendError> {
        let [oldest, _, ..] = self.segments.list() else { return Ok(false) };
        let (first, last) = (oldest.first, oldest.last);
        let is_under_way =
            self.trimming.as_ref().is_some_and(|trimming| trimming.is_forced && trimming.first == first);
        if !is_under_way {
            self.abandon_trimming()?;
            self.begin_trimming(TrimPlan {
                first,
                last,
                files: [first].into(),
                is_rewriting: false,
                is_forced: true,
            })?;
        }
        while self.trimming.is_some() {
            self.trim_step(u64::MAX)?;
        }
        Ok(true)
    }

    fn plan(&self, keys_since_ms: u64) -> Option<TrimPlan> {
        let (newest, sealed) = self.segments.list().split_last()?;
        let tail = self.tail.as_ref()?;
        let is_nearly_full = tail.offset > tail.capacity / 4 * 3;
        let file_bytes = self.segments.file_bytes() - newest.file_bytes + tail.offset;
        let is_past_limit =
            is_nearly_full && file_bytes + self.settings.segment_bytes > self.settings.data_bytes_max;
        let plan = |segments: &[Segment], is_rewriting| {
            Some(TrimPlan {
                first: segments.first()?.first,
                last: segments.last()?.last,
                files: segments.iter().map(|segment| segment.first).collect(),
                is_rewriting,
                is_forced: is_past_limit,
            })
        };
        if is_past_limit && let Some(oldest) = sealed.first() {
            return plan(std::slice::from_ref(oldest), false);
        }
        let small_bytes = self.settings.segment_bytes / 8;
        let run = |is_one: &dyn Fn(&Segment) -> bool| {
            let fits = |segment: &&Segment| segment.keyed_ms < keys_since_ms && is_one(segment);
            let start = sealed.iter().position(|segment| fits(&segment))?;
            let from_start = sealed.get(start..)?;
            let mut bytes = 0;
            let length = from_start.iter().take(NEIGHBOURS_MAX).take_while(|segment| {
                bytes += segment.alive_file_bytes();
                fits(segment) && bytes <= self.settings.segment_bytes
            });
            from_start.get(..length.count().max(1))
        };
        if let Some(dead) = run(&|segment| segment.alive_events == 0) {
            return plan(dead, false);
        }
        if let Some(sparse) = run(&|segment| segment.alive_bytes < segment.event_bytes / 4) {
            return plan(sparse, true);
        }
        let small = run(&|segment| segment.file_bytes < small_bytes)?;
        if small.len() == NEIGHBOURS_MAX { plan(small, true) } else { None }
    }

    fn begin_trimming(&mut self, plan: TrimPlan) -> Result<(), AppendError> {
        let output = match plan.is_rewriting {
            true => Some(self.begin_output(&plan)?),
            false => None,
        };
        self.trimming = Some(Trimming {
            first: plan.first,
            last: plan.last,
            files: plan.files,
            reader: None,
            ends: TopicEnds::new(self.secret),
            output,
            is_forced: plan.is_forced,
            dropped: HashMap::new(),
        });
        Ok(())
    }

    fn begin_output(&mut self, plan: &TrimPlan) -> Result<Output<D::File>, AppendError> {
        let name = new_name(plan.first);
        let file = match self.disk.create(&name) {
            Ok(file) => file,
            Err(source) if is_full(&source) => return Err(Full::Disk { source }.into()),
            Err(error) => return Err(self.fail(format!("create {name}"), error).into()),
        };
        let before = self.segments.list().iter().rev().find(|segment| segment.last < plan.first);
        let upto: Vec<_> = (0..self.settings.partitions)
            .map(|partition| before.map_or(0, |segment| segment.upto(partition)))
            .collect();
        let salt = (self.settings.random)();
        let mut segment = Segment::new(plan.first, plan.last, &upto);
        segment.salt = salt;
        Ok(Output {
            file,
            header: SegmentHeader {
                partitions: self.settings.partitions,
                first: plan.first,
                last: plan.last,
                salt,
                secret: self.secret,
                epoch: self.epochs.current,
                first_batch: 0,
                rewritten: None,
            },
            offset: SEGMENT_HEADER_BYTES as u64,
            segment,
        })
    }

    /// Abandons the trimming under way, without any effect on the log.
    fn abandon_trimming(&mut self) -> Result<(), Fatal> {
        let Some(trimming) = self.trimming.take() else { return Ok(()) };
        match trimming.output {
            Some(_) => self.unlink(&new_name(trimming.first)),
            None => Ok(()),
        }
    }

    /// Reads on in the segments, or finishes when all were read.
    fn trim_step(&mut self, bytes_max: u64) -> Result<(), AppendError> {
        let Some(mut trimming) = self.trimming.take() else { return Ok(()) };
        let result = match trimming.read(&self.disk, &self.segments, bytes_max) {
            Ok(false) => Ok(()),
            Ok(true) => return self.finish_trimming(trimming),
            Err(TrimError::Full(source)) => Err(Full::Disk { source }.into()),
            Err(TrimError::Io(what, error)) => return Err(self.fail(what, error).into()),
        };
        self.trimming = Some(trimming);
        result
    }

    fn finish_trimming(&mut self, mut trimming: Trimming<D::File>) -> Result<(), AppendError> {
        for entry in trimming.ends.list() {
            self.ends.merge(entry);
        }
        let is_replaced = trimming.output.as_ref().is_some_and(|output| output.segment.alive_events > 0);
        if let Some(output) = trimming.output.as_mut().filter(|_| is_replaced)
            && let Err(error) = output.complete()
        {
            return Err(self.fail(format!("write {}", new_name(trimming.first)), error).into());
        }
        let (first, last) = (trimming.first, trimming.last);
        if let Err(error) = self.write_gone(first) {
            self.trimming = self.tail.is_some().then_some(trimming);
            return Err(error);
        }
        let mut records = Vec::new();
        if !trimming.ends.is_empty() {
            records.push(ControlRecord::Ends(trimming.ends.list()));
        }
        if !is_replaced {
            records.push(ControlRecord::Removed { first, last });
        }
        if !records.is_empty() {
            if let Err(error) = self.append_control(&records) {
                // Tried again by the next step, if there is one.
                self.trimming = self.tail.is_some().then_some(trimming);
                return Err(error);
            }
            self.sync()?;
        }
        let covered =
            self.segments.list().iter().filter(|segment| first <= segment.first && segment.last <= last);
        let covered: Vec<_> = covered.map(|segment| (segment.first, segment.has_gone_file)).collect();
        if trimming.is_forced {
            self.note_lost(first);
        }
        if trimming.output.is_some() {
            match is_replaced {
                true => self.rename_output(first)?,
                false => self.unlink(&new_name(first))?,
            }
        }
        for (number, has_gone_file) in covered {
            if !is_replaced || number != first {
                self.unlink(&segment_name(number))?;
            }
            if has_gone_file {
                self.unlink(&gone_name(number))?;
            }
        }
        if let Err(error) = self.disk.sync() {
            return Err(self.fail("sync the directory".to_owned(), error).into());
        }
        let segment = trimming.output.filter(|_| is_replaced).map(|output| output.segment);
        self.segments.replace(first, last, segment);
        for ((partition, sequence), lines_bytes) in trimming.dropped {
            self.segments.dropped(partition, sequence, lines_bytes);
        }
        Ok(())
    }

    /// Writes the dropped events of the segments before this one, which is about to lose events, perhaps of the same
    /// topics.
    fn write_gone(&mut self, number: u64) -> Result<(), AppendError> {
        let changed = self.segments.before_mut(number).filter(|segment| segment.has_gone_more);
        let files: Vec<_> =
            changed.map(|segment| (segment.first, gone::encode(segment.salt, segment.gone()))).collect();
        for (number, bytes) in files {
            match write_file(&self.disk, &new_name(number), &gone_name(number), &bytes) {
                Ok(()) => {}
                Err(TrimError::Full(source)) => return Err(Full::Disk { source }.into()),
                Err(TrimError::Io(what, error)) => return Err(self.fail(what, error).into()),
            }
            // Synced before the next: a power failure must not keep the later one alone.
            if let Err(error) = self.disk.sync() {
                return Err(self.fail("sync the directory".to_owned(), error).into());
            }
            if let Some(segment) = self.segments.get_mut(number) {
                (segment.has_gone_file, segment.has_gone_more) = (true, false);
            }
        }
        Ok(())
    }

    /// Puts the rewritten segment in the place of the first that it covers; only then may the others be unlinked.
    fn rename_output(&mut self, first: u64) -> Result<(), Fatal> {
        let renamed = self.disk.rename(&new_name(first), &segment_name(first));
        match renamed.and_then(|()| self.disk.sync()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(format!("rename {}", new_name(first)), error)),
        }
    }

    fn note_lost(&mut self, first: u64) {
        let Some(segment) = self.segments.get(first).filter(|segment| segment.alive_events > 0) else {
            return;
        };
        let lost = |partition| Lost { partition, upto: segment.upto(partition) };
        self.lost.extend((0..self.settings.partitions).map(lost).filter(|lost| lost.upto > 0));
    }

    fn unlink(&mut self, name: &str) -> Result<(), Fatal> {
        self.disk.unlink(name).map_err(|error| self.fail(format!("remove {name}"), error))
    }
}

impl Segment {
    /// Returns about the number of bytes of the file that its alive events take.
    fn alive_file_bytes(&self) -> u64 {
        let part = self.alive_bytes as f64 / self.event_bytes.max(1) as f64;
        (self.file_bytes as f64 * part) as u64
    }
}
