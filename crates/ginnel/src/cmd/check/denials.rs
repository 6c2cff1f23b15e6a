//! Whether what was denied can be read, by nobody else be undone, and be added to.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use ginnel_core::report::Chain;
use ginnel_ops::denials::DenialFile;
use rustix::fs::{Access, access};

use super::report::Report;

/// Others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// In a directory with this bit nobody can replace what is somebody else's.
const STICKY: u32 = 0o1000;

/// Looks at the file and its directory without changing anything.
pub(super) fn check(path: &Path, report: &mut Report) {
    let shown = path.display();
    let denials = match DenialFile::open(path) {
        Ok((_, denials)) => denials.count(),
        Err(error) => {
            let advice = "mend what it says, as the user that runs ginnel: it does not start without what was denied";
            report.fail("denials", Chain(&error).to_string(), advice);
            return;
        }
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let of_file = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.permissions().mode() & 0o7777),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            report.fail("denials", format!("{shown}: {error}"), "let the user that runs ginnel into its directory");
            return;
        }
    };
    let of_directory = fs::metadata(directory).map(|metadata| metadata.mode() & 0o7777).unwrap_or_default();
    let is_open = |mode: u32| mode & WRITABLE_BY_OTHERS != 0;
    if let Some(mode) = of_file.filter(|mode| is_open(*mode)) {
        let evidence = format!("{shown} has mode {mode:04o}, which lets others undo what was denied");
        report.fail("denials", evidence, format!("chmod 600 {shown}"));
    } else if is_open(of_directory) && of_directory & STICKY == 0 {
        let directory = directory.display();
        let evidence = format!("{directory} has mode {of_directory:04o}, which lets others replace {shown}");
        report.fail("denials", evidence, format!("chmod go-w {directory}"));
    } else if access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let evidence = format!("no file can be made in {}, so that nothing can be denied", directory.display());
        report.fail("denials", evidence, "let the user that runs ginnel write there");
    } else if of_file.is_none() {
        report.pass("denials", format!("{shown} is made when something is denied first"));
    } else {
        report.pass("denials", format!("{shown} can be read and replaced; denials in force: {denials}"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn said(path: &Path) -> String {
        let mut report = Report::default();
        check(path, &mut report);
        report.text()
    }

    #[test]
    fn says_whether_what_was_denied_can_be_read_and_by_nobody_else_be_undone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("audit");
        let file = directory.join("denials.jsonl");
        assert!(said(&file).starts_with("FAIL  denials      there is no directory"), "{}", said(&file));
        fs::create_dir(&directory).unwrap();
        assert!(said(&file).starts_with("PASS"), "{}", said(&file));
        let none = "{\"ginnelDenials\":1,\"entries\":0}\n";
        let with_mode = |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            said(&file)
        };
        let cases = [
            (none, 0o600, "PASS", "denials in force: 0"),
            (none, 0o644, "PASS", "denials in force: 0"),
            (none, 0o620, "FAIL", "mode 0620"),
            (none, 0o602, "FAIL", "chmod 600"),
            ("", 0o600, "FAIL", "1:1: the file is empty"),
            ("{\"ginnelDenials\":1,\"entries\":1}\n", 0o600, "FAIL", "ends after 0 of the 1"),
        ];
        for (text, mode, word, words) in cases {
            let said = with_mode(text, mode);
            assert!(said.starts_with(word) && said.contains(words), "{text:?} {mode:o}: {said}");
        }
        with_mode(none, 0o600);
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        assert!(said(&file).contains("lets others replace"), "{}", said(&file));
        fs::set_permissions(&directory, Permissions::from_mode(0o1777)).unwrap();
        assert!(said(&file).starts_with("PASS"), "{}", said(&file));
    }
}
