#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tandem_tests::fuzzing::mailbox_words::run(data));
