//! The checked-in types are those that `proto/` says, and the page of bounds has those of the core.
#![cfg(test)]

use xtask::limits;

#[test]
fn the_page_of_bounds_is_fresh() {
    let kept = std::fs::read_to_string(limits::page_file()).unwrap();
    let source = std::fs::read_to_string(limits::source_file()).unwrap();
    assert!(limits::page(&kept, &source).unwrap() == kept, "run `cargo xtask limits`");
}

/// A setting that a bound names is one of the server's, and each of those moves a bound.
#[test]
fn bounds_name_the_settings_that_there_are() {
    let source = std::fs::read_to_string(limits::source_file()).unwrap();
    let model = limits::source_file().parent().unwrap().join("../../ginnel-config/src/model/limits.rs");
    let model = std::fs::read_to_string(model).unwrap();
    let named: Vec<&str> =
        source.split("Setting: `limits.").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    let declared: Vec<&str> = model.split(".field(").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
    assert!(declared.len() >= 10, "{declared:?}");
    for setting in &named {
        assert!(declared.contains(setting), "a bound names limits.{setting}, which is no setting");
    }
    for setting in &declared {
        assert!(named.contains(setting), "no bound names limits.{setting}");
    }
}

#[test]
fn generated_types_are_fresh() {
    let out = tempfile::tempdir().unwrap();
    xtask::generate(out.path()).unwrap();
    let name = "ginnel.v1.rs";
    let fresh = std::fs::read_to_string(out.path().join(name)).unwrap();
    let kept = std::fs::read_to_string(xtask::generated_dir().join(name)).unwrap();
    assert!(fresh == kept, "run `cargo xtask`");
}
