//! A data directory of any bytes: it is opened or refused, and `verify`, `repair` and a second start agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| esper::internal::open_journal(input));
