//! Feeds records of a copy.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_copy::fuzz::records(bytes));
