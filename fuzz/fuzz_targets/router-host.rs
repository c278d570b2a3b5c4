//! Feeds what a request calls its host.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_router::fuzz::host(bytes));
