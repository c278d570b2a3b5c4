//! Feeds the head of a request.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_router::fuzz::head(bytes));
