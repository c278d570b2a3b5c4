//! Feeds requests to an export.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_workspace::fuzz::export(bytes));
