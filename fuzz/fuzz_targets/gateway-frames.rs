//! Feeds what a guest may write into its card to a gateway that lets nothing pass.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_gateway::fuzz::frames(bytes));
