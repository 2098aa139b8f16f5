//! The journal: where the order of events becomes final.
//!
//! | module | idea |
//! |---|---|
//! | [`disk`] | a log of batches in segment files, which outlives a crash |

#[expect(dead_code, reason = "it is to be owned by a thread of its own, which is yet to be written")]
pub(crate) mod disk;
