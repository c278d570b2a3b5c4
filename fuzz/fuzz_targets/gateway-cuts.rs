//! Feeds the first bytes of a connection, cut in two ways.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::cuts(bytes));
