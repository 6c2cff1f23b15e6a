//! The corpus holds, and so do changed copies of it.
#![cfg(test)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ginnel_fuzz::{Named, TARGETS};

/// Changed inputs for each target: some seconds for all of them in a debug build. `fuzz/` is for more.
const CHANGED_MAX: usize = 2_000;

/// Longest changed input; parsers cost more than time if what they are given may grow without end.
const INPUT_MAX: usize = 8 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(directory: &str, suffix: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(fuzz().join(directory)).unwrap();
    entries.filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(suffix)?.to_owned())).collect()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(fuzz().join("corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs one input, and on a broken invariant shows it in a form that can be saved as a file of the corpus.
fn run((name, target): Named, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("{name} fails on {what}: \"{}\"", input.escape_ascii());
    }
}

#[test]
fn every_target_has_a_corpus_and_a_file_for_the_fuzzer_and_nothing_else_does() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a target is named twice");
    assert_eq!(names("corpus", ""), targets, "directories of fuzz/corpus (left) and targets (right)");
    assert_eq!(names("fuzz_targets", ".rs"), targets, "files of fuzz/fuzz_targets (left) and targets (right)");
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(!corpus(name).is_empty(), "the corpus of {name} is empty");
        let wrapper = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(wrapper.contains(&format!("ginnel_fuzz::{name}(data)")), "{name}.rs wraps something else");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no [[bin]] for {name}");
    }
}

#[test]
fn every_input_of_the_corpus_holds() {
    for named in TARGETS {
        for (path, input) in corpus(named.0) {
            run(*named, &path.display().to_string(), &input);
        }
    }
}

#[test]
fn changed_inputs_hold() {
    for named in TARGETS {
        let inputs = corpus(named.0);
        let mut noise = Noise(named.0.bytes().map(u64::from).sum());
        for _ in 0..CHANGED_MAX {
            let (path, input) = &inputs[noise.below(inputs.len())];
            let mut changed = input.clone();
            for _ in 0..=noise.below(4) {
                change(&mut changed, &inputs[noise.below(inputs.len())].1, &mut noise);
            }
            changed.truncate(INPUT_MAX);
            run(*named, &format!("a changed {}", path.display()), &changed);
        }
    }
}

/// One change, as fuzzers make them: of a bit, of a byte, of a stretch, or of two inputs into one.
fn change(input: &mut Vec<u8>, other: &[u8], noise: &mut Noise) {
    const USUAL: &[&[u8]] =
        &[b"\0", b"\xff", b"\r\n", b".", b":", b"/", b"%", b"\"", b"[", b"]", b"\x7f", "\u{202e}".as_bytes()];
    let at = noise.below(input.len() + 1);
    let end = (at + noise.below(8)).min(input.len());
    match noise.below(7) {
        0 if at < input.len() => input[at] ^= 1 << noise.below(8),
        1 if at < input.len() => input[at] = noise.byte(),
        2 => drop(input.drain(at..end)),
        3 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        4 => drop(input.splice(at..at, USUAL[noise.below(USUAL.len())].iter().copied())),
        5 => {
            input.truncate(at);
            input.extend_from_slice(&other[noise.below(other.len() + 1)..]);
        }
        _ => input.insert(at, noise.byte()),
    }
}

/// Numbers from a seed: every run tries the same inputs, so a failure is there again on the next run.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        let wide = usize::from(self.byte()) << 16 | usize::from(self.byte()) << 8 | usize::from(self.byte());
        wide % bound
    }
}
