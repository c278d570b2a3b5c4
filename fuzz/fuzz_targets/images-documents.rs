//! Feeds manifests, indices and configurations of images.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_images::fuzz::documents(bytes));
