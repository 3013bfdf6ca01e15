//! Inputs that the fuzzer found are kept in `fuzz/corpus` and replayed here: each decoder keeps what
//! `fuzz/src/lib.rs` says of it.

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 10] = [
    ("json_frame", targets::json_frame),
    ("cbor_frame", targets::cbor_frame),
    ("stream_entry", targets::stream_entry),
    ("resp_request", targets::resp_request),
    ("resp_reply", targets::resp_reply),
    ("publish_body", targets::publish_body),
    ("cloudevents", targets::cloudevents),
    ("websocket", targets::websocket),
    ("stream_frames", targets::stream_frames),
    ("capsules", targets::capsules),
];

#[test]
fn every_kept_input_does_what_its_decoder_promises() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for file in std::fs::read_dir(corpus.join(name)).unwrap() {
            let file = file.unwrap().path();
            let input = std::fs::read(&file).unwrap();
            let outcome = std::panic::catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "{} breaks a promise of {name}", file.display());
            inputs += 1;
        }
        assert!(inputs > 10, "the corpus of {name} has {inputs} inputs only");
    }
}

#[test]
fn every_target_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut replayed: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    replayed.sort();
    assert_eq!(names, replayed);
}
