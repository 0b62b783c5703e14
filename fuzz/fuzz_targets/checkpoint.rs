#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gramscope_fuzz::within_memory(gramscope_fuzz::parsers::checkpoint, bytes));
