//! Looking at a journal.
