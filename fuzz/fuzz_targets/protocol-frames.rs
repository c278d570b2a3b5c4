//! Feeds pieces of a pipe between host and guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_guest_protocol::fuzz::frames(bytes));
