//! Feeds a packed layer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_images::fuzz::packed(bytes));
