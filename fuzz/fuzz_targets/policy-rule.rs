//! Feeds a rule as people write it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_policy::fuzz::rule(bytes));
