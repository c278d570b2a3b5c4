//! Feeds a message of a guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_guest_protocol::fuzz::message(bytes));
