use std::time::SystemTime;

use crate::audit::Timestamp;

use super::*;

/// A sink that refuses some numbers for ever, in part or as a whole, also as stubs if told so.
struct Place {
    never: Vec<u64>,
    never_as_stubs: Vec<u64>,
    in_parts: bool,
    has: Vec<(u64, bool)>,
    batches: usize,
}

fn seq(entry: &LogEntry) -> u64 {
    entry.insert_id.rsplit('-').next().and_then(|digits| digits.parse().ok()).expect("a number")
}

impl Place {
    fn new(never: &[u64], never_as_stubs: &[u64], in_parts: bool) -> Self {
        Self { never: never.to_vec(), never_as_stubs: never_as_stubs.to_vec(), in_parts, has: Vec::new(), batches: 0 }
    }

    fn write(&mut self, entries: &[&LogEntry]) -> Result<(), WriteError> {
        self.batches += 1;
        let is_bad = |entry: &LogEntry| {
            let list = if entry.labels.contains_key("notTaken") { &self.never_as_stubs } else { &self.never };
            list.contains(&seq(entry))
        };
        let kinds: BTreeMap<_, _> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| is_bad(entry))
            .map(|(place, _)| (place, FailureKind::Invalid))
            .collect();
        if kinds.is_empty() || self.in_parts {
            let taken = entries.iter().enumerate().filter(|(place, _)| !kinds.contains_key(place));
            self.has.extend(taken.map(|(_, entry)| (seq(entry), entry.labels.contains_key("notTaken"))));
        }
        match (kinds.is_empty(), self.in_parts) {
            (true, _) => Ok(()),
            (false, true) => Err(WriteError::Some { kinds, source: "some".into() }),
            (false, false) => Err(all(FailureKind::Invalid)),
        }
    }
}

fn all(kind: FailureKind) -> WriteError {
    WriteError::All { kind, retry_after: None, source: "all".into() }
}

fn now() -> SystemTime {
    "2026-11-22T01:56:14Z".parse::<Timestamp>().expect("a time").into()
}

fn entry(seq: u64) -> LogEntry {
    let line = format!(r#"{{"v":1,"seq":{seq},"time":"2026-11-22T01:56:13Z","boot":"b0","event":"allowed"}}"#);
    LogEntry::record(line.clone(), &serde_json::from_str(&line).expect("a record"))
}

fn filled(count: u64) -> Queue {
    let mut queue = Queue::default();
    for seq in 1..=count {
        assert!(queue.room() > 0, "{seq}");
        queue.push(entry(seq), Mark { seq, ..Mark::default() });
    }
    queue
}

/// Sends until nothing is left or it is time to wait; gives what was counted and how far it got.
fn run(queue: &mut Queue, place: &mut Place) -> (Next, [u64; 3], Option<u64>) {
    let (mut counts, mut mark) = ([0; 3], None);
    for _ in 0..100 {
        let batch = queue.batch(now());
        if batch.is_empty() {
            return (Next::Again, counts, mark);
        }
        let (sent, answer) = (batch.len(), place.write(&batch));
        let settled = queue.settle(sent, answer.as_ref().copied());
        let more = [settled.delivered, settled.replaced, settled.lost];
        counts = std::array::from_fn(|place| counts[place] + more[place]);
        if let Some(reached) = settled.mark {
            assert!(mark < Some(reached.seq), "it goes forward");
            mark = Some(reached.seq);
        }
        if settled.next == Next::Wait {
            return (Next::Wait, counts, mark);
        }
    }
    panic!("it never ends");
}

#[test]
fn an_entry_that_is_never_taken_is_replaced_and_holds_nobody_up() {
    for in_parts in [true, false] {
        let mut place = Place::new(&[3, 700], &[], in_parts);
        let mut queue = filled(1000);
        assert_eq!(run(&mut queue, &mut place), (Next::Again, [1000, 2, 0], Some(1000)), "{in_parts}");
        let mut has = place.has.clone();
        has.sort_unstable();
        assert!(has.iter().map(|(seq, _)| *seq).eq(1..=1000), "each once");
        let stubs: Vec<_> = has.iter().filter(|(_, is_stub)| *is_stub).map(|(seq, _)| *seq).collect();
        assert_eq!(stubs, [3, 700]);
        assert!(place.batches < 60, "{} batches", place.batches);
    }
}

#[test]
fn what_is_refused_in_either_form_waits_alone_and_is_counted_beside_others() {
    // Alone it may be the place that is at fault: nothing is given up, and the record itself is tried again.
    let mut place = Place::new(&[1], &[1], true);
    let mut queue = filled(1);
    assert_eq!(run(&mut queue, &mut place), (Next::Wait, [0, 0, 0], None));
    place.never.clear();
    assert_eq!(run(&mut queue, &mut place), (Next::Again, [1, 0, 0], Some(1)));
    assert_eq!(place.has, [(1, false)]);

    // Everything that is refused as a whole, forms and all, is the place's fault too.
    let every: Vec<u64> = (1..=50).collect();
    let mut place = Place::new(&every, &every, false);
    let mut queue = filled(50);
    assert_eq!(run(&mut queue, &mut place), (Next::Wait, [0, 0, 0], None));
    assert_eq!(queue.len(), 50);

    // Beside others that are taken it is the record's.
    let mut place = Place::new(&[2], &[2], true);
    let mut queue = filled(3);
    let mut place_of_stub = |queue: &mut Queue| {
        let batch = queue.batch(now());
        let (sent, answer) = (batch.len(), place.write(&batch));
        queue.settle(sent, answer.as_ref().copied())
    };
    let first = place_of_stub(&mut queue);
    assert_eq!((first.delivered, first.mark.map(|mark| mark.seq)), (2, Some(1)));
    queue.push(entry(4), Mark { seq: 4, ..Mark::default() });
    let second = place_of_stub(&mut queue);
    assert_eq!((second.delivered, second.lost, second.mark.map(|mark| mark.seq)), (1, 1, Some(4)));
}

#[test]
fn what_passes_changes_nothing_and_waits() {
    for kind in FailureKind::ALL.into_iter().filter(|kind| !kind.is_of_the_entries()) {
        let mut queue = filled(5);
        let before: Vec<_> = queue.batch(now()).into_iter().cloned().collect();
        let settled = queue.settle(5, Err(&all(kind)));
        assert_eq!(settled, Settled { next: Next::Wait, delivered: 0, replaced: 0, lost: 0, mark: None }, "{kind}");
        assert!(queue.batch(now()).into_iter().eq(&before), "{kind}");
    }
    // An entry for which something passes keeps its place, and the way does not go past it.
    let mut queue = filled(3);
    let kinds = BTreeMap::from([(1, FailureKind::Quota)]);
    let settled = queue.settle(3, Err(&WriteError::Some { kinds, source: "quota".into() }));
    assert_eq!((settled.next, settled.delivered, settled.mark.map(|mark| mark.seq)), (Next::Wait, 2, Some(1)));
    assert_eq!(queue.batch(now()).into_iter().map(seq).collect::<Vec<_>>(), [2]);
    assert_eq!(queue.settle(1, Ok(())).mark.map(|mark| mark.seq), Some(3));
}

#[test]
fn an_answer_that_names_no_entry_of_the_batch_is_believed_in_nothing() {
    for kinds in [BTreeMap::new(), BTreeMap::from([(7, FailureKind::Invalid)])] {
        let mut queue = filled(3);
        let settled = queue.settle(3, Err(&WriteError::Some { kinds, source: "?".into() }));
        assert_eq!((settled.next, settled.delivered, queue.len()), (Next::Wait, 0, 3));
    }
}

#[test]
fn batches_and_what_waits_are_bounded() {
    let mut queue = filled(u64::try_from(BATCH_ENTRIES_MAX).expect("a thousand"));
    assert_eq!(queue.room(), 0);
    assert_eq!(queue.batch(now()).len(), BATCH_ENTRIES_MAX);

    let mut queue = Queue::default();
    while queue.room() > 0 {
        let seq = u64::try_from(queue.len()).expect("few") + 1;
        let line = format!(
            r#"{{"v":1,"seq":{seq},"time":"2026-11-22T01:56:13Z","boot":"b0","event":"allowed","target":"{}"}}"#,
            "x".repeat(100_000)
        );
        queue.push(
            LogEntry::record(line.clone(), &serde_json::from_str(&line).expect("a record")),
            Mark { seq, ..Mark::default() },
        );
    }
    let bytes: usize = queue.batch(now()).iter().map(|entry| entry.bytes()).sum();
    assert!(bytes <= BATCH_BYTES_MAX && queue.len() < 12, "{bytes} bytes, {} entries", queue.len());
    let sent = queue.batch(now()).len();
    queue.settle(sent, Ok(()));
    assert!(queue.room() > 0, "what was taken makes room");
}

#[test]
fn a_batch_that_is_too_large_is_sent_in_parts() {
    let mut queue = filled(8);
    let mut sizes = Vec::new();
    while !queue.is_empty() {
        let sent = queue.batch(now()).len();
        sizes.push(sent);
        let answer = if sent > 3 { Err(all(FailureKind::TooLarge)) } else { Ok(()) };
        queue.settle(sent, answer.as_ref().copied());
    }
    assert_eq!(sizes.iter().filter(|size| **size <= 3).sum::<usize>(), 8, "{sizes:?}");
    assert!(sizes.len() < 10, "{sizes:?}");
}
