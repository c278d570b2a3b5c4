//! Feeds what a registry demands.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_images::fuzz::challenge(bytes));
