//! Feeds the index of a layer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_erofs::fuzz::index(bytes));
