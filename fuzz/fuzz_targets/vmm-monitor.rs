//! Feeds lines of the monitor.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_vmm::fuzz::monitor(bytes));
