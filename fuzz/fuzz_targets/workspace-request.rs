//! Feeds a request of the guest's kernel for files.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_workspace::fuzz::request(bytes));
