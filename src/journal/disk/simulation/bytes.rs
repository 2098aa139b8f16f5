//! Every byte.
