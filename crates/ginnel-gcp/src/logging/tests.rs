use ginnel_core::audit::Entry;
use ginnel_testkit::google::logging::{Fault, Logging};
use serde_json::json;

use super::*;

const BOOT: &str = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";

/// Long enough for an answer on loopback, short enough to wait for one that does not come.
const TIMEOUT: Duration = Duration::from_secs(2);

fn sink(service: &Logging, change: impl FnOnce(&mut Settings)) -> CloudLogging {
    crate::provider::install();
    let mut settings = Settings {
        project: "acme".to_owned(),
        log_name: "ginnel-audit".to_owned(),
        location: "europe-west1".to_owned(),
        namespace: "acme.example".to_owned(),
        job: "ginnel-server".to_owned(),
        task: "tunnel.acme.example".to_owned(),
        timeout: TIMEOUT,
        endpoint: Some(service.endpoint()),
    };
    change(&mut settings);
    let credentials = google_cloud_auth::credentials::user_account::Builder::new(service.credentials());
    CloudLogging { credentials: Some(credentials.build().unwrap()), ..CloudLogging::new(settings) }
}

fn now() -> String {
    ginnel_core::audit::Timestamp::from(SystemTime::now()).to_string()
}

fn record(seq: u64, event: &str, rest: &str) -> LogEntry {
    let time = now();
    let line = format!(r#"{{"v":1,"seq":{seq},"time":"{time}","boot":"{BOOT}","event":"{event}"{rest}}}"#);
    let entry: Entry = serde_json::from_str(&line).unwrap();
    LogEntry::record(line, &entry)
}

async fn write(sink: &CloudLogging, entries: &[LogEntry]) -> Result<(), WriteError> {
    sink.write(&entries.iter().collect::<Vec<_>>()).await
}

#[tokio::test]
async fn a_record_arrives_with_all_that_it_says() {
    let service = Logging::start().await.unwrap();
    let sink = sink(&service, |_| {});
    let request = "11111111111111111111111111111111";
    let rest = format!(
        r#","requestId":"{request}","client":"spiffe://acme.example/client/frontend","hop":"server","cause":"notAllowed","bytesUp":9007199254740992,"bytesDown":18446744073709551615,"nested":{{"list":[1,-9007199254740993]}}"#
    );
    write(&sink, &[record(7, "refused", &rest), record(8, "revoked", "")]).await.unwrap();
    let entries = service.entries();
    assert_eq!(entries.len(), 2);
    let first = &entries[0];
    assert_eq!(first["logName"], "projects/acme/logs/ginnel-audit");
    assert_eq!(first["insertId"], format!("{BOOT}-00000000000000000007"));
    assert_eq!(first["trace"], format!("projects/acme/traces/{request}"));
    assert_eq!((&first["severity"], &entries[1]["severity"]), (&json!(400), &json!(300)));
    let labels = json!({
        "event": "refused", "hop": "server", "cause": "notAllowed", "client": "spiffe://acme.example/client/frontend",
        "server": "tunnel.acme.example",
    });
    assert_eq!(first["labels"], labels);
    let resource = json!({"type": "generic_task", "labels": {
        "project_id": "acme", "location": "europe-west1", "namespace": "acme.example", "job": "ginnel-server",
        "task_id": "tunnel.acme.example",
    }});
    assert_eq!(first["resource"], resource);
    let payload = &first["jsonPayload"];
    assert_eq!(first["timestamp"], payload["time"]);
    // What the service would round is a text.
    assert_eq!(payload["bytesUp"], json!(9_007_199_254_740_992_u64));
    assert_eq!(payload["bytesDown"], "18446744073709551615");
    assert_eq!(payload["nested"], json!({"list": [1, "-9007199254740993"]}));
}

#[tokio::test]
async fn every_failure_is_of_a_kind() {
    let service = Logging::start().await.unwrap();
    let sink = sink(&service, |_| {});
    let cases = [
        (Fault::Error(500, "INTERNAL"), FailureKind::Unavailable),
        (Fault::Error(503, "UNAVAILABLE"), FailureKind::Unavailable),
        (Fault::Error(504, "DEADLINE_EXCEEDED"), FailureKind::Timeout),
        (Fault::Error(429, "RESOURCE_EXHAUSTED"), FailureKind::Quota),
        (Fault::Error(403, "PERMISSION_DENIED"), FailureKind::Permission),
        (Fault::Error(401, "UNAUTHENTICATED"), FailureKind::Permission),
        (Fault::Error(404, "NOT_FOUND"), FailureKind::Refused),
        (Fault::Error(400, "INVALID_ARGUMENT"), FailureKind::Invalid),
        (Fault::Error(413, "INVALID_ARGUMENT"), FailureKind::TooLarge),
        (Fault::Page(413), FailureKind::TooLarge),
        (Fault::Page(400), FailureKind::Refused),
        (Fault::Page(407), FailureKind::Permission),
        (Fault::Page(429), FailureKind::Quota),
        (Fault::Page(502), FailureKind::Unavailable),
        (Fault::Page(200), FailureKind::Unavailable),
        (Fault::Hang, FailureKind::Timeout),
        (Fault::Trickle(Duration::from_secs(1)), FailureKind::Timeout),
        (Fault::Close, FailureKind::Connection),
        (Fault::StoreAndClose, FailureKind::Connection),
    ];
    for (seq, (fault, expected)) in (1..).zip(cases) {
        service.next([fault.clone()]);
        let error = write(&sink, &[record(seq, "allowed", "")]).await.unwrap_err();
        assert_eq!(error.kinds(), [expected], "{fault:?}: {}", ginnel_core::report::Chain(&error));
        assert!(matches!(error, WriteError::All { .. }), "{fault:?}");
    }
    assert_eq!(service.entries().len(), 1, "of all of them one was stored");
    service.next([Fault::Exhausted(Duration::from_millis(1500))]);
    let error = write(&sink, &[record(100, "allowed", "")]).await.unwrap_err();
    assert_eq!((error.kinds(), error.retry_after()), (vec![FailureKind::Quota], Some(Duration::from_millis(1500))));
    write(&sink, &[record(100, "allowed", "")]).await.unwrap();
}

#[tokio::test]
async fn what_is_configured_wrongly_is_said_and_blames_no_entry() {
    let service = Logging::start().await.unwrap();
    type Change = fn(&mut Settings);
    let cases: [(Change, FailureKind); 2] = [
        (|settings| "other".clone_into(&mut settings.project), FailureKind::Refused),
        (|settings| settings.endpoint = Some("http://127.0.0.1:1".to_owned()), FailureKind::Connection),
    ];
    for (change, expected) in cases {
        let sink = sink(&service, change);
        assert_eq!(write(&sink, &[record(1, "allowed", "")]).await.unwrap_err().kinds(), [expected]);
        assert_eq!(sink.probe().await.unwrap_err().kinds(), [expected]);
    }
    service.permit(false);
    let sink = sink(&service, |_| {});
    let error = sink.probe().await.unwrap_err();
    assert_eq!(error.kinds(), [FailureKind::Permission]);
    assert!(ginnel_core::report::Chain(&error).to_string().contains("logging.logEntries.create"));
    service.permit(true);
    sink.probe().await.unwrap();
    assert!(service.entries().is_empty(), "asking writes nothing");
}

#[tokio::test]
async fn a_certificate_of_nobody_known_is_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (service, _) = Logging::start_tls(dir.path()).await.unwrap();
    let sink = sink(&service, |_| {});
    assert_eq!(write(&sink, &[record(1, "allowed", "")]).await.unwrap_err().kinds(), [FailureKind::Connection]);
    assert!(service.requests().is_empty());
}

#[tokio::test]
async fn of_a_batch_the_service_takes_what_it_can() {
    let service = Logging::start().await.unwrap();
    let sink = sink(&service, |_| {});
    service.never(|entry| entry["jsonPayload"]["seq"] == 2);
    let far = r#","target":"x""#;
    let mut ahead = record(4, "allowed", far);
    ahead.time = (SystemTime::now() + Duration::from_secs(48 * 3600)).into();
    let batch = [record(1, "allowed", ""), record(2, "allowed", ""), record(3, "allowed", ""), ahead];
    let error = write(&sink, &batch).await.unwrap_err();
    let WriteError::Some { kinds, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*kinds, BTreeMap::from([(1, FailureKind::Invalid), (3, FailureKind::Invalid)]));
    let seqs: Vec<_> = service.entries().iter().map(|entry| entry["jsonPayload"]["seq"].clone()).collect();
    assert_eq!(seqs, [1, 3]);
    // What stands for the one that is never taken is taken.
    write(&sink, &[batch[1].stub(FailureKind::Invalid)]).await.unwrap();
    let stub = service.entries().pop().unwrap();
    assert_eq!(stub["insertId"], batch[1].insert_id);
    assert_eq!(stub["jsonPayload"]["notTaken"], "invalid");
}

#[tokio::test]
async fn what_comes_twice_is_read_once() {
    let service = Logging::start().await.unwrap();
    let sink = sink(&service, |_| {});
    let batch = [record(1, "allowed", ""), record(2, "allowed", "")];
    service.next([Fault::StoreAndClose]);
    write(&sink, &batch).await.unwrap_err();
    write(&sink, &batch).await.unwrap();
    assert_eq!((service.arrived().len(), service.entries().len()), (4, 2));
}
