//! Feeds what a kernel does with nodes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_workspace::fuzz::nodes(bytes));
