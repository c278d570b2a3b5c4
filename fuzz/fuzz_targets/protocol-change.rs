//! Feeds a change of files.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_guest_protocol::fuzz::change(bytes));
