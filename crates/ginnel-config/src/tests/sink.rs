use std::path::Path;
use std::time::Duration;

use super::{ENROLMENT, SERVER, findings};
use crate::{CloudLogging, Daemon, EnrolmentConfig, Overrides, ServerConfig};

const WITHOUT: &str = "audit: {file: {directory: audit}}";

fn with(text: &str, settings: &str) -> String {
    text.replace(WITHOUT, &format!("audit:\n  file: {{directory: audit}}\n  cloudLogging: {{{settings}}}"))
}

#[test]
fn records_go_to_cloud_logging_where_that_is_asked_for() {
    let server = |text: &str| ServerConfig::parse(text, "f.yaml", Path::new("/"), &Overrides::none()).unwrap();
    assert_eq!(server(SERVER).cloud_logging, None);
    let short = CloudLogging {
        project: "acme-project".to_owned(),
        log_name: "ginnel-audit".to_owned(),
        location: "global".to_owned(),
        timeout: Duration::from_secs(30),
        endpoint: None,
    };
    assert_eq!(server(&with(SERVER, "project: acme-project")).cloud_logging, Some(short));
    let long = "project: \"acme.example:p-1\", logName: a_b.c-D, location: europe-west1, timeout: 5m, endpoint: \"http://127.0.0.1:80\"";
    let enrolment = EnrolmentConfig::parse(&with(ENROLMENT, long), "f.yaml", Path::new("/"), &Overrides::none());
    let expected = CloudLogging {
        project: "acme.example:p-1".to_owned(),
        log_name: "a_b.c-D".to_owned(),
        location: "europe-west1".to_owned(),
        timeout: Duration::from_secs(300),
        endpoint: Some("http://127.0.0.1:80".to_owned()),
    };
    assert_eq!(enrolment.unwrap().cloud_logging, Some(expected));
}

#[test]
fn what_google_would_not_take_is_found_in_the_file() {
    let cases = [
        ("", "audit.cloudLogging.project"),
        ("logName: a", "audit.cloudLogging.project"),
        ("project: \"\"", "the id of a project"),
        ("project: a/b", "the id of a project"),
        ("project: p, logName: a/b", "the name of a log"),
        ("project: p, logName: \"%2F\"", "the name of a log"),
        ("project: p, location: eu west", "a location is written"),
        ("project: p, timeout: 0s", "audit.cloudLogging.timeout"),
        ("project: p, timeout: 6m", "audit.cloudLogging.timeout"),
        ("project: p, endpoint: \"http://logging.example\"", "an endpoint is written"),
        ("project: p, spool: x", "unknown setting"),
    ];
    for (settings, expected) in cases {
        for (role, text) in [(Daemon::Server, SERVER), (Daemon::Enrolment, ENROLMENT)] {
            let found = findings(role, &with(text, settings), &Overrides::none());
            assert!(found.contains(expected), "{settings}: {found}");
        }
    }
}
