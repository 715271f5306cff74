//! The fast allocator beside the literal one, on requests made of arbitrary bytes.
#![no_main]

#[path = "../../tests/reference/bytes.rs"]
mod bytes;
#[path = "../../tests/reference/differential.rs"]
mod differential;
#[path = "../../tests/reference/mod.rs"]
mod literal;

// A list is compared now and then only: what differs in it shows in an answer, or is still there.
libfuzzer_sys::fuzz_target!(|input: &[u8]| differential::compare(&bytes::case(input), 32));
