//! Feeds what a guest prints on its console.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_vmm::fuzz::console(bytes));
