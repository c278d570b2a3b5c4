//! Feeds both ends of a connection whose names are judged.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::inspect(bytes));
