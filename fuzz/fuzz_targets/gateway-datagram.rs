//! Feeds a datagram that may be QUIC.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::datagram(bytes));
