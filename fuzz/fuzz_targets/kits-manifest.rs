//! Feeds a kit's manifest.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_kits::fuzz::manifest(bytes));
