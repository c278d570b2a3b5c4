//! Feeds extended headers of an archive.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_erofs::fuzz::pax(bytes));
