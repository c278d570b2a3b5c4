//! Feeds what a kit's program prints.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_kits::fuzz::environment(bytes));
