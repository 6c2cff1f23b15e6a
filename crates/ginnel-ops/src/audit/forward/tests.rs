use std::collections::{BTreeMap, VecDeque};

use ginnel_core::audit::Event;
use ginnel_core::cause::Cause;
use ginnel_core::sink::{FailureKind, LogEntry, Writing};
use rand_core::TryRng;
use tokio::sync::Notify;

use super::super::follow::tests::{Log, rotated};
use super::*;

/// A sink that does as it is told, one batch after the other, and then takes everything.
#[derive(Debug, Default)]
struct Place {
    name: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Act>,
    /// Every entry that arrived, as often as it did.
    arrived: Vec<LogEntry>,
    batches: Vec<(Instant, usize)>,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Fail(FailureKind),
    FailFor(FailureKind, Duration),
    Hang,
    /// Takes the batch, and the answer is lost.
    TakeSilently,
    /// Takes all but the entries of these numbers.
    Never(&'static [u64]),
}

impl Place {
    fn new(script: impl IntoIterator<Item = Act>) -> Arc<Self> {
        let state = State { script: script.into_iter().collect(), ..State::default() };
        Arc::new(Self { name: "a place".to_owned(), state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn take(&self, entries: &[&LogEntry], except: &BTreeMap<usize, FailureKind>) {
        let taken = entries.iter().enumerate().filter(|(place, _)| !except.contains_key(place));
        self.state().arrived.extend(taken.map(|(_, entry)| (*entry).clone()));
    }

    /// The entries that are there, each once, in the order in which they first came.
    fn has(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for entry in &self.state().arrived {
            if !ids.contains(&entry.insert_id) {
                ids.push(entry.insert_id.clone());
            }
        }
        ids
    }

    async fn until(&self, enough: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if enough(self) {
                return;
            }
            changed.await;
        }
    }

    async fn until_asked(&self) {
        while self.state().batches.is_empty() {
            sleep(LOOK).await;
        }
    }

    async fn answer(&self, entries: &[&LogEntry]) -> Result<(), WriteError> {
        let act = {
            let mut state = self.state();
            state.batches.push((Instant::now(), entries.len()));
            state.script.pop_front()
        };
        let failed = |kind, retry_after| Err(WriteError::All { kind, retry_after, source: "told so".into() });
        match act {
            None => {
                self.take(entries, &BTreeMap::new());
                Ok(())
            }
            Some(Act::Fail(kind)) => failed(kind, None),
            Some(Act::FailFor(kind, wait)) => failed(kind, Some(wait)),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::TakeSilently) => {
                self.take(entries, &BTreeMap::new());
                failed(FailureKind::Connection, None)
            }
            Some(Act::Never(seqs)) => {
                let is_bad = |entry: &LogEntry| seqs.iter().any(|seq| entry.insert_id.ends_with(&format!("{seq:020}")));
                let bad = entries.iter().enumerate().filter(|(_, entry)| is_bad(entry));
                let kinds: BTreeMap<_, _> = bad.map(|(place, _)| (place, FailureKind::Invalid)).collect();
                self.take(entries, &kinds);
                Err(WriteError::Some { kinds, source: "told so".into() })
            }
        }
    }
}

impl Sink for Place {
    fn write<'a>(&'a self, entries: &'a [&'a LogEntry]) -> Writing<'a> {
        Box::pin(async move {
            let answer = self.answer(entries).await;
            self.changed.notify_waiters();
            answer
        })
    }

    fn place(&self) -> String {
        self.name.clone()
    }
}

/// Always the same, and large: the longest waits.
struct Fixed;

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::MAX)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::MAX)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(u8::MAX);
        Ok(())
    }
}

fn forward(log: &Log, place: &Arc<Place>) -> Forwarding {
    Forwarding::start_with(log.path(), Arc::clone(place) as Arc<dyn Sink>, Fixed, rotated, RETRY)
}

fn ids(boot: &str, seqs: std::ops::RangeInclusive<u64>) -> Vec<String> {
    seqs.map(|seq| format!("{boot}-{seq:020}")).collect()
}

#[tokio::test(start_paused = true)]
async fn whatever_the_sink_does_everything_arrives_once_and_in_order() {
    let kinds = FailureKind::ALL.map(Act::Fail);
    let cases: Vec<(&str, Vec<Act>)> = vec![
        ("nothing", Vec::new()),
        ("fails in every way", kinds.to_vec()),
        ("asks for patience", vec![Act::FailFor(FailureKind::Quota, Duration::from_secs(200))]),
        ("takes and says nothing", vec![Act::TakeSilently, Act::TakeSilently]),
    ];
    for (name, script) in cases {
        let mut log = Log::new();
        log.append(2500);
        let place = Place::new(script);
        let forwarding = forward(&log, &place);
        place.until(|place| place.has().len() == 2500).await;
        log.append(3);
        place.until(|place| place.has().len() == 2503).await;
        assert_eq!(place.has(), ids("b0", 1..=2503), "{name}");
        forwarding.finish().await;
        let status = forwarding.status();
        assert_eq!(
            (status.delivered, status.lost, status.behind_records, status.behind_seconds),
            (2503, 0, 0, 0),
            "{name}"
        );
        assert_eq!(status.failure, None, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_by_kind_and_waits_grow() {
    let mut log = Log::new();
    log.append(1);
    let place = Place::new([
        Act::Fail(FailureKind::Unavailable),
        Act::Fail(FailureKind::Timeout),
        Act::Fail(FailureKind::Timeout),
        Act::FailFor(FailureKind::Quota, Duration::from_secs(100)),
    ]);
    let start = tokio::time::Instant::now();
    let forwarding = forward(&log, &place);
    place.until(|place| place.state().batches.len() == 1).await;
    let failure = forwarding.status().failure.expect("a failure");
    assert!(failure.error.contains("unavailable"), "{failure:?}");
    place.until(|place| place.has().len() == 1).await;
    let took = start.elapsed().as_secs();
    assert!((1 + 2 + 4 + 100..1 + 2 + 4 + 103).contains(&took), "{took} s");
    let failures = forwarding.status().failures;
    assert_eq!(
        failures,
        BTreeMap::from([("quota".to_owned(), 1), ("timeout".to_owned(), 2), ("unavailable".to_owned(), 1)])
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_counted_while_the_sink_hangs() {
    let mut log = Log::new();
    log.append(10);
    let place = Place::new([Act::Hang]);
    let forwarding = forward(&log, &place);
    place.until_asked().await;
    log.append(5);
    sleep(MEASURE_EVERY * 2).await;
    let status = forwarding.status();
    assert_eq!(status.behind_records, 15);
    assert!(status.behind_seconds > 0, "records are of another day");
    // The end does not wait for it.
    let start = tokio::time::Instant::now();
    forwarding.finish().await;
    assert!(start.elapsed() <= LAST_WAIT + Duration::from_millis(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_it_was_and_gives_nothing_up() {
    let mut log = Log::new();
    log.append(1500);
    let place = Place::new([]);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 1500).await;
    forwarding.finish().await;
    log.append(10);
    let before = place.state().arrived.len();
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 1510).await;
    assert_eq!(place.state().arrived.len() - before, 10, "nothing comes twice after an orderly end");
    drop(forwarding);

    // Killed: at most what was taken within the last second comes again.
    log.append(700);
    place.state().script.push_back(Act::TakeSilently);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 2210).await;
    drop(forwarding);
    log.append(1);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 2211).await;
    assert_eq!(place.has(), ids("b0", 1..=2211));
    forwarding.finish().await;

    // Another place has none of it.
    let other = Arc::new(Place { name: "another".to_owned(), ..Place::default() });
    let forwarding = forward(&log, &other);
    other.until(|place| place.has().len() == 2211).await;
    drop(forwarding);

    // A mark that cannot be read is none.
    std::fs::write(log.path().join("sink.json"), "{").expect("writes");
    let third = Place::new([]);
    let forwarding = forward(&log, &third);
    third.until(|place| place.has().len() == 2211).await;
    drop(forwarding);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_from_the_disk_is_counted_and_said_where_it_was() {
    let mut log = Log::new();
    log.append(4);
    let place = Place::new([]);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 4).await;
    forwarding.finish().await;
    log.append(3);
    log.lose_all();
    log.append(2);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 7).await;
    assert_eq!(
        place.has()[4..],
        ["b0-00000000000000000008-missing", "b0-00000000000000000008", "b0-00000000000000000009"]
    );
    assert_eq!(forwarding.status().lost, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_before_the_first_answer_is_missing_too() {
    let mut log = Log::new();
    log.append(4);
    let place = Place::new([Act::Hang]);
    let forwarding = forward(&log, &place);
    place.until_asked().await;
    drop(forwarding);
    log.lose_all();
    log.append(1);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 2).await;
    assert_eq!(place.has(), ["b0-00000000000000000005-missing", "b0-00000000000000000005"]);
    assert_eq!(forwarding.status().lost, 4);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_never_taken_is_replaced_and_then_counted() {
    let mut log = Log::new();
    log.append(5);
    let place = Place::new([Act::Never(&[3])]);
    let forwarding = forward(&log, &place);
    place.until(|place| place.has().len() == 5).await;
    forwarding.finish().await;
    let status = forwarding.status();
    assert_eq!((status.delivered, status.replaced, status.lost), (5, 1, 0));
    let state = place.state();
    let stub = state.arrived.iter().find(|entry| entry.labels.contains_key("notTaken")).expect("a stub");
    assert!(stub.insert_id.ends_with("0003"));
}

#[test]
fn the_filters_that_are_documented_ask_for_events_and_causes_that_there_are() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operate/cloud-logging.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let filters: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains("`labels.")).collect();
    assert!(filters.len() >= 8, "{filters:?}");
    let of_sinks = ["recordsMissing", "notARecord"];
    let mut asked = Vec::new();
    for filter in filters {
        let (mut label, mut words) = ("", filter.split('"'));
        while let (Some(before), Some(word)) = (words.next(), words.next()) {
            label = before.rsplit_once("labels.").map_or(label, |(_, label)| label.trim_end_matches(['=', '(']));
            match label {
                "event" => assert!(Event::WORDS.contains(&word) || of_sinks.contains(&word), "{word} in {filter}"),
                "cause" => assert!(word.parse::<Cause>().is_ok(), "{word} in {filter}"),
                _ => panic!("{label} in {filter}"),
            }
            asked.push(word);
        }
    }
    for event in ["refused", "enrolmentRefused", "newSource", "tooManyInstances", "revoked", "recordsMissing"] {
        assert!(asked.contains(&event), "there is no filter for {event}");
    }
}
