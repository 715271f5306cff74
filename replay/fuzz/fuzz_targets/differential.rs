//! The fast allocator beside the literal one, on requests made of arbitrary bytes.
#![no_main]

#[path = "../../tests/reference/bytes.rs"]
mod bytes;
#[path = "../../tests/reference/differential.rs"]
mod differential;
#[path = "../../tests/reference/mod.rs"]
mod literal;

libfuzzer_sys::fuzz_target!(|input: &[u8]| differential::compare(&bytes::case(input)));
