//! Where a log that is opened left off, told from the last lines of its file.

use std::collections::BTreeMap;

use ginnel_core::audit::{Entry, Hash, NO_HASH, Seal};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::chain::Position;
use super::super::chain::keys::running;

/// What lines say that begin or sign a chapter.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    seq: u64,
    event: String,
    chapter: Option<u64>,
    after_hash: Option<Hash>,
    closing: Option<bool>,
}

/// The end of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// The last record that counts. Its hash is that of no record if it has no seal.
    pub(super) last: Option<Position>,
    /// The last chapter that the lines name.
    pub(super) chapter: Option<u64>,
    /// The last line that begins a chapter, with its end.
    pub(super) beginning: Option<Vec<u8>>,
    /// Whether any record has a seal.
    pub(super) is_sealed: bool,
    /// Bytes up to the end of the last record that counts, in what was looked at.
    pub(super) length: usize,
    /// The last record has no end of line.
    pub(super) is_unended: bool,
    /// The last record closes its chapter.
    is_closed: bool,
    /// There is JSON in it that is no record, and was not taken for good or for what a crash left.
    pub(super) is_strange: bool,
    /// After the last record there are zeros.
    is_holed: bool,
}

/// After records that belong together there are others, which no crash leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed;

impl End {
    /// Looks at the end of a file, which is all of it if `is_whole`.
    ///
    /// The first sealed record is taken for good, and every other only if it follows from the one before. What then remains is what a crash
    /// or a failed write left: parts of lines, lines that are there already, or a hole. Where the whole machine stopped, a file system may have kept
    /// later blocks of a write that nobody was told of and not the first ones, which are zeros then. Nobody gains by making such a hole what
    /// cutting the file off there would not give as well.
    pub(super) fn find(bytes: &[u8], is_whole: bool) -> Result<Self, Changed> {
        let mut end = Self::default();
        let mut start = 0;
        let mut is_first = true;
        let mut taken = BTreeMap::new();
        while start < bytes.len() {
            let ended = bytes[start..].iter().position(|&byte| byte == b'\n');
            let line = &bytes[start..ended.map_or(bytes.len(), |length| start + length)];
            let next = start + line.len() + usize::from(ended.is_some());
            // The first line may have lost its beginning.
            if (is_whole || !is_first) && end.takes(line, &taken)? {
                taken.extend(end.last.map(|last| (last.seq, line)));
                (end.length, end.is_unended) = (next, ended.is_none());
            }
            (start, is_first) = (next, false);
        }
        Ok(end)
    }

    /// Whether the line is a record that counts, which is then the last.
    fn takes(&mut self, line: &[u8], taken: &BTreeMap<u64, &[u8]>) -> Result<bool, Changed> {
        let Some((record, seal)) = Seal::split(line) else {
            // The records of a log from before it had a chain.
            let unsealed = if self.is_sealed { None } else { serde_json::from_slice::<Entry>(line).ok() };
            let Some(entry) = unsealed else { return self.passes_over(line) };
            self.last = Some(Position { seq: entry.seq, hash: NO_HASH });
            return Ok(true);
        };
        let Ok(header) = serde_json::from_slice::<Header>(line) else { return self.passes_over(line) };
        let begins = header.event == "chapterBegun";
        let follows = match (self.last, header.after_hash) {
            (_, Some(after)) if begins => running(&after, record) == seal.hash,
            (Some(last), _) if self.is_sealed => {
                if last.seq.checked_add(1) != Some(header.seq) || running(&last.hash, record) != seal.hash {
                    // A line that is there twice was written again after a failed sync.
                    let is_again = taken.get(&header.seq) == Some(&line);
                    return if is_again || self.is_holed { Ok(false) } else { Err(Changed) };
                }
                // Nothing is written after the end of a chapter but the beginning of another.
                !self.is_closed
            }
            _ => true,
        };
        if !follows {
            return Err(Changed);
        }
        if begins {
            self.beginning = Some([line, b"\n"].concat());
        }
        (self.is_sealed, self.is_holed) = (true, false);
        self.last = Some(Position { seq: header.seq, hash: seal.hash });
        self.chapter = header.chapter.or(self.chapter);
        self.is_closed = header.closing == Some(true);
        Ok(true)
    }

    /// Takes a line that is no record for what a crash left, if it can be. Half a line is no JSON, and nobody writes whole lines without a seal:
    /// the next chapter would say that they count for nothing, and whoever reads the log without verifying it would believe them.
    fn passes_over(&mut self, line: &[u8]) -> Result<bool, Changed> {
        self.is_holed |= line.contains(&0);
        let is_json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
        self.is_strange |= is_json;
        if is_json && self.is_sealed { Err(Changed) } else { Ok(false) }
    }
}

#[cfg(test)]
mod tests {
    use ginnel_core::audit::{Event, Text, Timestamp};
    use ginnel_core::id::InstanceId;

    use super::super::super::chain::keys::Seed;
    use super::super::super::chain::state::State;
    use super::super::super::chain::void::Void;
    use super::super::super::chain::{Chain, Position};
    use super::*;

    /// Lines 1 to 5, the first of which begins a chapter, each with its end.
    fn lines() -> Vec<Vec<u8>> {
        let id = InstanceId::from_bytes(&[1; 16]).expect("16 bytes");
        let state =
            State { log: id, from: 1, chapter: 3, seed: Seed::random().expect("random"), seq: 0, closed: false };
        let time = Timestamp::default();
        let (mut chain, first, _) =
            Chain::begin(&state, Position::before_all(0), &Void::default(), id, time).expect("writable");
        let mut lines = vec![first];
        for number in 2..=5_u32 {
            let mut line = Vec::new();
            let event = Event::Started { version: Text::new("0.1.0"), policy: Text::new(number) };
            chain.seal(time, event, &mut line).expect("writable");
            lines.push(line);
        }
        lines
    }

    fn seq(end: &End) -> u64 {
        end.last.map_or(0, |last| last.seq)
    }

    #[test]
    fn what_a_crash_leaves_remains_after_the_last_whole_record() {
        let lines = lines();
        let all = lines.concat();
        for cut in 0..all.len() {
            let end = End::find(&all[..cut], true).expect("a crash");
            // A record without its end of line is whole.
            let whole = lines.iter().scan(0, |sum, line| {
                *sum += line.len();
                Some(*sum)
            });
            let expected = whole.clone().filter(|length| cut + 1 >= *length).count();
            assert_eq!(seq(&end), expected as u64, "cut at {cut}");
            let length = whole.filter(|length| cut + 1 >= *length).last().unwrap_or(0);
            assert_eq!(end.length, length.min(cut));
            assert_eq!(end.is_unended, expected > 0 && cut + 1 == length);
        }
        assert_eq!(End::find(&all, true).expect("whole").chapter, Some(3));
    }

    #[test]
    fn what_was_written_twice_counts_once() {
        let lines = lines();
        let again = [&lines.concat()[..], b"\n", &lines[3], &lines[4][..20]].concat();
        let end = End::find(&again, true).expect("a failed disk");
        assert_eq!((seq(&end), end.length), (5, lines.concat().len()));
        // With other content it is no copy, whatever number and hash it has.
        let other = String::from_utf8(lines[3].clone()).expect("text").replace("0.1.0", "0.2.0");
        let again = [&lines.concat()[..], other.as_bytes()].concat();
        assert_eq!(End::find(&again, true), Err(Changed));
    }

    #[test]
    fn whole_lines_without_a_seal_are_no_crash() {
        let record = r#"{"v":1,"seq":6,"time":"2026-11-22","boot":"b","event":"gap"}"#;
        for line in [record, r#"{"seq":99}"#, "{}", "7"] {
            for (before, end) in [("", "\n"), ("", ""), ("\0\0\n", "\n"), ("{\"v\":1,\"s\n", "\n")] {
                let all = [&lines().concat()[..], before.as_bytes(), line.as_bytes(), end.as_bytes()].concat();
                assert_eq!(End::find(&all, true), Err(Changed), "{before}{line}");
            }
        }
        for rest in [&b"garbage\n"[..], b"\n", b"\0\0{}\n", b"{\"v\":1,\"seq\":6"] {
            let all = [&lines().concat()[..], rest].concat();
            assert_eq!(seq(&End::find(&all, true).expect("a crash")), 5);
        }
    }

    #[test]
    fn records_that_do_not_follow_are_no_crash() {
        let lines = lines();
        let edited = String::from_utf8(lines[2].clone()).expect("text").replace("0.1.0", "0.2.0").into_bytes();
        let cases = [
            [&lines[0][..], &lines[1], &edited, &lines[3], &lines[4]].concat(),
            [&lines[0][..], &lines[1], &lines[3], &lines[4]].concat(),
            [&lines[0][..], &edited].concat(),
        ];
        for case in cases {
            assert_eq!(End::find(&case, true), Err(Changed), "{}", String::from_utf8_lossy(&case));
        }
    }

    #[test]
    fn a_hole_in_the_last_write_is_a_crash() {
        let lines = lines();
        let hole = |from: usize, until: usize| {
            let mut all = lines.concat();
            all[from..until].fill(0);
            all
        };
        let (two, three) = (lines[..2].concat().len(), lines[..3].concat().len());
        for all in [hole(two, three), hole(two, three + 9), hole(two + 9, three - 9)] {
            let end = End::find(&all, true).expect("a crash");
            assert_eq!((seq(&end), end.length), (2, two));
        }
        // It excuses what follows it, and nothing before.
        let edited = String::from_utf8(lines[1].clone()).expect("text").replace("0.1.0", "0.2.0").into_bytes();
        let all = [&lines[0][..], &edited, &lines[2], &[0; 9]].concat();
        assert_eq!(End::find(&all, true), Err(Changed));
    }

    #[test]
    fn the_middle_of_a_file_is_a_place_to_begin() {
        let all = lines().concat();
        let end = End::find(&all[10..], false).expect("the end of a log");
        assert_eq!((seq(&end), end.chapter), (5, None));
        assert_eq!(End::find(b"", true), Ok(End::default()));
        assert_eq!(End::find(&b"garbage\n".repeat(9), true), Ok(End::default()));
    }
}
