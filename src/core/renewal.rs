//! Streams whose end may be moved: a client that gave its stream a handle shows a newer token, and the stream goes on.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smallvec::SmallVec;

use crate::core::topic::Topic;

/// The open streams that clients gave a handle; all shards share them. `Debug` shows no handle.
#[derive(Default)]
pub(crate) struct RenewableStreams(Mutex<ByHandle>);

/// By the digest of the subject and by handle: nobody takes another's handle.
type ByHandle = HashMap<(u64, Box<str>), Weak<RenewableStream>>;

/// An open stream that its client gave a handle.
pub(crate) struct RenewableStream {
    streams: Arc<RenewableStreams>,
    handle: Box<str>,
    /// The rights that its token gave it, which a newer one must not exceed.
    pub(crate) rights: Rights,
    /// Its topics.
    pub(crate) topics: SmallVec<[Topic; 1]>,
    /// When it ends, in Unix seconds; 0 once it has ended.
    expires_s: AtomicU64,
}

/// Digests of whom a token is for and of each topic that it names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rights {
    pub(crate) subject: u64,
    pub(crate) topics: SmallVec<[u64; 2]>,
}

impl RenewableStreams {
    /// Adds a stream that ends at `expires_s`, in Unix seconds. It takes the handle from an earlier one of the same subject,
    /// whose client came back before that was noticed to be gone.
    pub(crate) fn add(
        self: &Arc<Self>,
        handle: &str,
        rights: Rights,
        topics: SmallVec<[Topic; 1]>,
        expires_s: u64,
    ) -> Arc<RenewableStream> {
        let stream = RenewableStream {
            streams: Arc::clone(self),
            handle: handle.into(),
            rights,
            topics,
            expires_s: expires_s.into(),
        };
        let stream = Arc::new(stream);
        self.lock().insert((stream.rights.subject, handle.into()), Arc::downgrade(&stream));
        stream
    }

    /// Returns the open stream of this subject with this handle.
    pub(crate) fn find(&self, subject: u64, handle: &str) -> Option<Arc<RenewableStream>> {
        self.lock().get(&(subject, handle.into()))?.upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, ByHandle> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RenewableStream {
    /// Moves its end to `expires_s`, in Unix seconds, unless it is later already. Returns its end, or `None` when it has
    /// ended.
    pub(crate) fn renew(&self, expires_s: u64) -> Option<u64> {
        let later = |ends_s: u64| (ends_s > 0).then_some(ends_s.max(expires_s));
        let before = self.expires_s.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).ok()?;
        Some(before.max(expires_s))
    }

    /// Returns its end if that is later than `now_s`; else it has ended, and is not renewed any more.
    pub(crate) fn end_after(&self, now_s: u64) -> Option<u64> {
        let ended = |ends_s: u64| (ends_s <= now_s).then_some(0);
        self.expires_s.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ended).err()
    }
}

impl fmt::Debug for RenewableStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewableStreams").finish_non_exhaustive()
    }
}

impl fmt::Debug for RenewableStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewableStream").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl Drop for RenewableStream {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        // A later stream may have the handle.
        let key = (self.rights.subject, std::mem::take(&mut self.handle));
        if streams.get(&key).is_some_and(|stream| stream.strong_count() == 0) {
            streams.remove(&key);
        }
        if streams.len() < streams.capacity() / 4 {
            let kept = 2 * streams.len();
            streams.shrink_to(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(streams: &Arc<RenewableStreams>, handle: &str) -> Arc<RenewableStream> {
        let rights = Rights { subject: 1, topics: SmallVec::new() };
        streams.add(handle, rights, SmallVec::new(), 100)
    }

    #[test]
    fn an_end_moves_later_and_never_earlier_until_it_has_come() {
        let streams = Arc::new(RenewableStreams::default());
        let stream = add(&streams, "a");
        assert_eq!(stream.end_after(99), Some(100));
        assert_eq!(stream.renew(200), Some(200));
        assert_eq!(stream.renew(150), Some(200));
        assert_eq!(stream.end_after(199), Some(200));
        assert_eq!(stream.end_after(200), None);
        assert_eq!((stream.renew(300), stream.end_after(0)), (None, None), "it has ended");
    }

    #[test]
    fn a_handle_names_the_latest_stream_that_has_it_and_none_that_is_gone() {
        let streams = Arc::new(RenewableStreams::default());
        let (first, second) = (add(&streams, "a"), add(&streams, "a"));
        let is_second =
            |found: Option<Arc<RenewableStream>>| found.is_some_and(|it| Arc::ptr_eq(&it, &second));
        assert!(is_second(streams.find(1, "a")));
        drop(first);
        assert!(is_second(streams.find(1, "a")));
        assert!(streams.find(2, "a").is_none(), "another subject's");
        drop(second);
        assert!(streams.find(1, "a").is_none() && streams.lock().is_empty());
        let many: Vec<_> = (0..1000).map(|n| add(&streams, &n.to_string())).collect();
        drop(many);
        assert!(streams.lock().capacity() < 10);
    }
}
