//! Feeds a guest's question for a name.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::question(bytes));
