//! What is done to a log between one process and the next, which then begins its chapter after it.

use super::super::super::AuditError;
use super::super::super::chain::state::CHAPTERS_NAME;
use super::*;

/// What a process that was killed has left: a chapter of records 1 to 7, of which only the first is signed.
async fn killed() -> Sample {
    let directory = tempfile::tempdir().expect("a directory");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    for number in 0..RECORDS {
        log.record(permit(number)).expect("accepted").await.expect("durable");
    }
    let left = tempfile::tempdir().expect("a directory");
    for name in [FILE_NAME, STATE_NAME, KEY_NAME, PUBLIC_NAME, CHAPTERS_NAME] {
        fs::copy(directory.path().join(name), left.path().join(name)).expect("copies");
    }
    Sample(left)
}

fn boot() -> InstanceId {
    InstanceId::from_bytes(&[7; 16]).expect("16 bytes")
}

/// A record after `lines` with the hash that it should have; nobody without the key knows its MAC.
fn append_forged(lines: &mut Vec<String>) {
    let last = lines.len();
    let (seq, next) = (format!("\"seq\":{last},"), format!("\"seq\":{},", last + 1));
    let model = lines.iter().rfind(|line| line.contains("\"started\"")).expect("a record").clone();
    let (record, seal) = Seal::split(model.trim_end().as_bytes()).expect("a seal");
    let number: Entry = serde_json::from_str(&model).expect("a record");
    let text = String::from_utf8(record.to_vec()).expect("text");
    let text = text.replace(&format!("\"seq\":{},", number.seq), &seq).replace(&seq, &next);
    let mut line = text.into_bytes();
    let before = Seal::split(lines[last - 1].trim_end().as_bytes()).expect("a seal").1.hash;
    Seal { hash: running(&before, &line), ..seal }.append_to(&mut line);
    lines.push(String::from_utf8(line).expect("text") + "\n");
}

fn refused(sample: &Sample) -> String {
    match AuditLog::open(sample.0.path(), boot()) {
        Err(error @ AuditError::NotWhole { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_process_goes_on_after_what_was_appended_to_a_closed_log() {
    let sample = Sample::new();
    let mut lines = sample.lines();
    append_forged(&mut lines);
    sample.put(&lines);
    assert!(refused(&sample).contains("do not follow"));
    // The beginning of a chapter may follow, and one that the state is past needs no key; but the log is known to have been closed.
    lines.truncate(24);
    let state = State::read(sample.0.path()).expect("reads").expect("is there");
    let forged = State { chapter: state.chapter - 1, seed: Seed::random().expect("random"), ..state };
    let hash = Seal::split(lines[23].trim_end().as_bytes()).expect("a seal").1.hash;
    let time = "2026-11-22".parse().expect("a time");
    let (_, line, _) =
        Chain::begin(&forged, Position { seq: 24, hash }, &Void::default(), boot(), time).expect("writable");
    lines.push(String::from_utf8(line).expect("text"));
    sample.put(&lines);
    assert!(refused(&sample).contains("was closed"));
}

#[test]
fn what_was_appended_to_a_closed_log_is_found_also_when_the_next_chapter_signs_it() {
    let sample = Sample::new();
    let state = State::read(sample.0.path()).expect("reads").expect("is there");
    let mut lines = sample.lines();
    append_forged(&mut lines);
    let hash = Seal::split(lines[24].trim_end().as_bytes()).expect("a seal").1.hash;
    let time = "2026-11-22".parse().expect("a time");
    let (mut chain, mut next, _) =
        Chain::begin(&state, Position { seq: 25, hash }, &Void::default(), boot(), time).expect("writable");
    chain.seal(time, chain.checkpoint(true), &mut next).expect("writable");
    lines.push(String::from_utf8(next).expect("text"));
    sample.put(&lines);
    let public = sample.with_public_key().finding.expect("is found");
    assert_eq!((public.seq, public.wrong), (25, Wrong::Inserted), "{public}");
    let secret = sample.with_key().finding.expect("is found");
    assert_eq!((secret.seq, secret.wrong), (25, Wrong::Edited), "{secret}");
}

#[tokio::test]
async fn records_that_their_chapter_did_not_sign_are_named() {
    for is_forged in [false, true] {
        let sample = killed().await;
        if is_forged {
            let text = fs::read_to_string(sample.path(FILE_NAME)).expect("reads");
            let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
            resealed(&mut lines, 4, |line| line.replace("0.1.0", "6.6.6"));
            fs::write(sample.path(FILE_NAME), lines.concat()).expect("writes");
        }
        // The process cannot know: the keys of those records are gone.
        sample.grow();
        let with = |evidence| verify(&Log::Files(vec![sample.path(FILE_NAME)]), &evidence).expect("reads");
        let public = with(Evidence { public: Some(sample.path(PUBLIC_NAME)), ..Evidence::default() });
        assert_eq!((&public.finding, &public.unsigned[..]), (&None, &[Run { first_seq: 2, last_seq: 7 }][..]));
        assert!(public.notes.iter().any(|note| note.0.contains("records 2-7 were never signed")), "{public:?}");
        let secret = with(Evidence { key: Some(sample.path(KEY_NAME)), ..Evidence::default() });
        assert_eq!(secret.finding.map(|finding| finding.seq), is_forged.then_some(5));
        assert_eq!(secret.unsigned, []);
    }
}

#[test]
fn a_chapter_that_somebody_else_began_is_not_gone_on_from() {
    let sample = Sample::new();
    let other = State { seed: Seed::random().expect("random"), ..State::read(sample.0.path()).unwrap().unwrap() };
    let mut lines = sample.lines();
    let hash = Seal::split(lines[23].trim_end().as_bytes()).expect("a seal").1.hash;
    let time = "2026-11-22".parse().expect("a time");
    let (_, line, _) =
        Chain::begin(&other, Position { seq: 24, hash }, &Void::default(), boot(), time).expect("writable");
    lines.push(String::from_utf8(line).expect("text"));
    sample.put(&lines);
    assert!(refused(&sample).contains("chain.state"));
    // Nor if the state is made to say that a crash may have come there.
    let state = fs::read_to_string(sample.path(STATE_NAME)).expect("reads");
    fs::write(sample.path(STATE_NAME), state.replace("\"closed\":true", "\"closed\":false")).expect("writes");
    assert!(refused(&sample).contains("chain.state"));
}

/// L05: the number in the state is no secret, so that whoever cuts the log off can make it fit; an anchor from elsewhere cannot be.
#[tokio::test]
async fn an_end_that_was_cut_off_between_two_processes_is_told_as_possible_and_proved_by_an_anchor() {
    let sample = killed().await;
    let whole = fs::read_to_string(sample.path(FILE_NAME)).expect("reads");
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    let anchor = tempfile::NamedTempFile::new().expect("a file");
    fs::write(anchor.path(), lines[6]).expect("writes");
    fs::write(sample.path(FILE_NAME), lines[..3].concat()).expect("writes");
    sample.grow();
    let report = sample.verify(&Evidence::default());
    assert_eq!((&report.finding, report.unclosed), (&None, 1));
    let told = "what followed record 3 may be lost or cut";
    assert!(report.notes.iter().any(|note| note.0.contains(told)), "{report:?}");
    let evidence = Evidence { anchors: vec![anchor.path().to_owned()], ..Evidence::default() };
    assert_eq!(sample.verify(&evidence).finding.expect("is found").wrong, Wrong::Anchor);
}

#[test]
fn a_log_whose_state_cannot_be_asked_says_so() {
    let sample = Sample::new();
    assert_eq!((sample.verify(&Evidence::default()).notes.len(), sample.with_key().unclosed), (1, 0));
    for (spoil, told) in [("{}", "cannot be read"), ("", "there is no chain.state")] {
        if spoil.is_empty() {
            fs::remove_file(sample.path(STATE_NAME)).expect("removes");
        } else {
            fs::write(sample.path(STATE_NAME), spoil).expect("writes");
        }
        let report = sample.verify(&Evidence::default());
        assert!(report.notes.iter().any(|note| note.0.contains(told)), "{report:?}");
    }
}

/// A file that gets the rest of a line just after its reader has found the end.
struct Growing<'a>(Vec<&'a [u8]>);

impl Read for Growing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = Read::read(&mut io::BufRead::fill_buf(self)?, into)?;
        io::BufRead::consume(self, count);
        Ok(count)
    }
}

impl io::BufRead for Growing<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.first().is_some_and(|piece| piece.is_empty()) {
            // The end, until the next look.
            self.0.remove(0);
            return Ok(&[]);
        }
        Ok(self.0.first().copied().unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        if let Some(piece) = self.0.first_mut() {
            *piece = &piece[count..];
        }
    }
}

#[test]
fn a_line_that_is_being_written_is_no_edited_one() {
    let sample = Sample::new();
    let text = fs::read(sample.path("audit-000000000001.jsonl")).expect("reads");
    for cut in [text.len() - 700, text.len() - 30, text.len() - 1] {
        let mut log = Growing(vec![&text[..cut], &text[cut..]]);
        let mut walk = Walk::new(Trust::default(), Anchors::default());
        walk_through(&mut walk, Path::new(FILE_NAME), &mut log, true, &Bytes::Content(&text)).expect("reads");
        assert_eq!(walk.end(1).finding, None, "cut at {cut}");
    }
}

#[test]
fn a_key_of_a_later_chapter_is_held_to_that_chapter_and_to_no_other() {
    let sample = Sample::new();
    let anchor = sample.path("anchor.jsonl");
    let held = |line: &str| {
        fs::write(&anchor, line).expect("writes");
        verify(&sample.files(), &Evidence { anchors: vec![anchor.clone()], ..Evidence::default() }).expect("reads")
    };
    // The last line of the log names the key of the chapter after it, the first of the last chapter its own.
    let lines = sample.lines();
    for line in [&lines[23], &lines[16]] {
        let report = held(line);
        assert_eq!((report.finding, report.proof), (None, Proof::Itself));
    }
    let (at, key) = lines[16].split_once("\"key\":\"").expect("a key");
    let finding = held(&format!("{at}\"key\":\"{}{}", "0".repeat(64), &key[64..])).finding.expect("is found");
    assert_eq!((finding.seq, finding.wrong), (17, Wrong::Key), "{finding}");
}

#[test]
fn anchors_that_contradict_each_other_are_wrong_input() {
    let sample = Sample::new();
    let anchors = ["one.jsonl", "other.jsonl"].map(|name| sample.path(name));
    let line = sample.lines()[7].clone();
    let (record, seal) = Seal::split(line.trim_end().as_bytes()).expect("a seal");
    let mut other = record.to_vec();
    Seal { hash: Hex([1; 32]), ..seal }.append_to(&mut other);
    let evidence = Evidence { anchors: anchors.to_vec(), ..Evidence::default() };
    for (text, contradicts) in [(line.clone().into_bytes(), false), (other, true)] {
        fs::write(&anchors[0], &line).expect("writes");
        fs::write(&anchors[1], text).expect("writes");
        let verified = verify(&sample.files(), &evidence);
        assert_eq!(matches!(verified, Err(VerifyError::Contradiction { seq: 8, .. })), contradicts, "{verified:?}");
    }
}

#[test]
fn anchors_of_records_that_are_not_at_hand_are_told_and_prove_nothing() {
    let sample = Sample::new();
    let anchor = sample.path("anchor.jsonl");
    let lines = sample.lines();
    let evidence = Evidence { key: Some(sample.path(KEY_NAME)), anchors: vec![anchor.clone()], ..Evidence::default() };
    let last = Log::Files(vec![sample.path(FILE_NAME)]);
    fs::write(&anchor, lines[7].clone() + &lines[15] + &lines[20]).expect("writes");
    let report = verify(&last, &evidence).expect("reads");
    assert_eq!(report.finding, None);
    assert!(report.notes.iter().any(|note| note.0.contains("1 of the anchors name records from before")), "{report:?}");
    // The beginning is explained by an anchor only if one is of the record before it.
    fs::write(&anchor, &lines[7]).expect("writes");
    let finding = verify(&last, &evidence).expect("reads").finding.expect("is found");
    assert_eq!(finding.wrong, Wrong::HeadCutOff);
}
