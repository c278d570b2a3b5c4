//! Feeds an archive as a layer of an image.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aegis_erofs::fuzz::archive(bytes));
