//! Capture files without memory: their sections, and the samples in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luaflame::capture::{Capture, profile_file, profile_file_of, stored_profile};
use luaflame_fuzz as _;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (samples, description) = input;
    let _ = Capture::of("fuzz".to_owned(), samples.to_vec());
    for description in [description, b"{}"] {
        let capture = Capture::of("fuzz".to_owned(), profile_file_of(samples, description)).expect("the file is whole");
        let Ok(Some(profile)) = stored_profile(&capture) else { continue };
        // What was accepted can be written and read again.
        let bytes = profile_file(&capture.recording, &profile).expect("it can be written");
        let again = stored_profile(&Capture::of("again".to_owned(), bytes).expect("whole"))
            .expect("readable")
            .expect("a profile");
        assert_eq!(again.timeline().len(), profile.timeline().len());
        assert_eq!(again.stacks().len(), profile.stacks().len());
    }
});
