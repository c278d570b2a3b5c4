//! Feeds a pattern of names, and a name.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_policy::fuzz::name(bytes));
