//! Feeds what a guest asks of the proxy that it is offered.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::connect_request(bytes));
