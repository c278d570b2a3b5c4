//! Feeds a stream that is unpacked into a directory.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_copy::fuzz::unpacked(bytes));
