//! Feeds what a guest sends on the pipe of its messages.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_guest_link::fuzz::messages(bytes));
