use std::os::unix::fs::{PermissionsExt, symlink};

use ginnel_core::audit::Timestamp;
use ginnel_core::denial::{Denial, Kind, Subject};

use super::*;

fn denials() -> Denials {
    let hash = "07".repeat(32);
    let named = [
        (Kind::Who, "spiffe://acme.example/client/frontend", Some("incident 12\n\"quoted\" é")),
        (Kind::Who, "agent@acme.example", None),
        (Kind::Key, &hash, None),
        (Kind::Serial, "0aff", Some("lost laptop")),
        (Kind::Rule, "gitlab", None),
        (Kind::Target, "10.0.0.0/8:1-443", None),
    ];
    let denial = |(kind, text, reason): (Kind, &str, Option<&str>)| {
        let since: Timestamp = "2026-11-22T01:56:13.5Z".parse().unwrap();
        Denial::new(Subject::read(kind, text, None).unwrap(), since, "uid 0, pid 7".to_owned(), reason)
    };
    Denials::new(named.map(denial)).unwrap()
}

#[test]
fn reads_back_what_it_wrote_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("denials.jsonl");
    let (file, none) = DenialFile::open(&path).unwrap();
    assert_eq!((none, path.exists()), (Denials::default(), false));
    for denials in [denials(), Denials::default(), denials()] {
        assert!(matches!(file.write(&denials).unwrap(), Replaced::Lasting));
        assert_eq!(DenialFile::open(&path).unwrap().1, denials);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_broken_file_is_refused_with_its_place_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("denials.jsonl");
    let whole = String::from_utf8(write(&denials()).unwrap()).unwrap();
    let without_last = whole[..whole.trim_end().rfind('\n').unwrap() + 1].to_owned();
    let cases = [
        (String::new(), "1:1", "is empty"),
        ("\n".to_owned(), "1:1", "EOF"),
        ("[]\n".to_owned(), "1:", "invalid"),
        (whole.replace("\"ginnelDenials\":1", "\"ginnelDenials\":2"), "1:1", "edition 2"),
        (whole.trim_end().to_owned(), "7:", "cut off"),
        (without_last, "7:1", "after 5 of the 6"),
        (format!("{whole}{{}}\n"), "8:1", "more lines"),
        (whole.replacen("\"since\"", "\"sinze\"", 1), "2:", "unknown field"),
        (whole.replace("0aff", "0AFF"), ":", "spells"),
        (whole.replace("gitlab", "Git Lab"), ":", "no name of a rule"),
        (whole.replace("\"rule\"", "\"role\""), ":", "no kind of denial"),
        (whole.replace("agent@acme", "agent acme"), ":", "neither"),
    ];
    for (text, place, what) in cases {
        fs::write(&path, &text).unwrap();
        let error = DenialFile::open(&path).unwrap_err().to_string();
        let place = format!("denials.jsonl:{place}");
        assert!(error.contains(&place) || place.ends_with("::"), "{error}\n{text}");
        assert!(error.contains(what) && error.contains("put the file back from a copy"), "{error}\n{text}");
    }
    fs::write(&path, b"{\"ginnelDenials\":1,\"entries\":1}\n\xff\n").unwrap();
    let error = DenialFile::open(&path).unwrap_err().to_string();
    assert!(error.contains("denials.jsonl:2:1") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_full_disk_leaves_the_old_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("denials.jsonl");
    let (file, _) = DenialFile::open(&path).unwrap();
    assert!(matches!(file.write(&denials()).unwrap(), Replaced::Lasting));
    // What is written there meets a full disk.
    symlink("/dev/full", file.next()).unwrap();
    let error = file.write(&Denials::default()).unwrap_err();
    assert!(
        matches!(&error, DenialsError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error:?}"
    );
    assert_eq!(DenialFile::open(&path).unwrap().1, denials());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_was_replaced_is_no_failure_though_its_directory_cannot_be_synced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("denials.jsonl");
    let (file, _) = DenialFile::open(&path).unwrap();
    let replaced = file.write_synced(&denials(), |directory| {
        assert_eq!(directory, dir.path());
        Err(io::ErrorKind::StorageFull.into())
    });
    let note = replaced.unwrap().note().unwrap();
    assert!(note.contains("may not outlast a crash of the machine"), "{note}");
    assert_eq!(DenialFile::open(&path).unwrap().1, denials());
    // A file that was not replaced is one: its directory is not even looked at.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = file.write_synced(&denials(), |_| panic!("synced")).unwrap_err();
    assert!(matches!(error, DenialsError::Write { .. }), "{error:?}");
    assert!(file.write(&Denials::default()).is_err());
}

#[test]
fn a_directory_that_is_not_there_is_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let error = DenialFile::open(&dir.path().join("none/denials.jsonl")).unwrap_err();
    assert!(matches!(error, DenialsError::Directory { .. }), "{error:?}");
    let error = DenialFile::open(dir.path()).unwrap_err();
    assert!(matches!(error, DenialsError::Read { .. }), "{error:?}");
}
