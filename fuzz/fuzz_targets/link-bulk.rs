//! Feeds what a guest sends on the pipe of its streams.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_guest_link::fuzz::bulk(bytes));
