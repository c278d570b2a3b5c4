//! Feeds the file of a machine at rest.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_store::fuzz::machine(bytes));
