//! Feeds steps of a host that comes and goes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_guest_protocol::fuzz::replay(bytes));
