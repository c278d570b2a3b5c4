//! Feeds a journal of nodes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_workspace::fuzz::told(bytes));
