//! The checked-in types are those that `proto/` says.
#![cfg(test)]

#[test]
fn generated_types_are_fresh() {
    let out = tempfile::tempdir().unwrap();
    xtask::generate(out.path()).unwrap();
    let name = "ginnel.v1.rs";
    let fresh = std::fs::read_to_string(out.path().join(name)).unwrap();
    let kept = std::fs::read_to_string(xtask::generated_dir().join(name)).unwrap();
    assert!(fresh == kept, "run `cargo xtask`");
}
