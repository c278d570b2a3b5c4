//! Feeds the answer of the host's proxy.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::proxy(bytes));
