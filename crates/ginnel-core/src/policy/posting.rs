//! Sets of rules, by their places in the policy.

/// A set with fewer rules is searched, not looked up in: its bits would cost more than they save.
const BITS_FROM: usize = 64;

/// A set has bits if it has at least one rule of so many in the policy. Its bits then take at most four times the room of its list.
const BITS_SHARE: usize = 128;

/// Bits of a word.
pub(super) const WORD: u32 = u64::BITS;

/// A set of rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Posting {
    /// In order, each once.
    list: Vec<u32>,
    /// The same as bits, if there are many of them.
    bits: Option<Box<[u64]>>,
}

impl Posting {
    /// Adds a rule, which does not come before those that are in it.
    pub(super) fn push(&mut self, rule: u32) {
        debug_assert!(self.list.last().is_none_or(|last| *last <= rule), "rules are added in order");
        if self.list.last() != Some(&rule) {
            self.list.push(rule);
        }
    }

    /// Says that it is complete, and how many rules the policy has.
    pub(super) fn seal(&mut self, rules: usize) {
        self.list.shrink_to_fit();
        if self.list.len() >= BITS_FROM && self.list.len().saturating_mul(BITS_SHARE) >= rules {
            let mut bits = no_bits(rules);
            set(&mut bits, &self.list);
            self.bits = Some(bits.into());
        }
    }

    pub(super) fn list(&self) -> &[u32] {
        &self.list
    }

    pub(super) fn bits(&self) -> Option<&[u64]> {
        self.bits.as_deref()
    }

    pub(super) fn contains(&self, rule: u32) -> bool {
        match &self.bits {
            Some(bits) => bits.get((rule / WORD) as usize).is_some_and(|word| word >> (rule % WORD) & 1 == 1),
            None => self.list.binary_search(&rule).is_ok(),
        }
    }
}

/// Room for the bits of so many rules, none of them set.
pub(super) fn no_bits(rules: usize) -> Vec<u64> {
    vec![0; rules.div_ceil(WORD as usize)]
}

/// Sets the bits of these rules, for which there is room.
pub(super) fn set(bits: &mut [u64], rules: &[u32]) {
    for rule in rules {
        if let Some(word) = bits.get_mut((rule / WORD) as usize) {
            *word |= 1 << (rule % WORD);
        }
    }
}

/// The first rule in a list, and before another one, whose bit is set and that `fits`.
pub(super) fn first_in(
    bits: &[u64],
    list: &[u32],
    before: Option<u32>,
    mut fits: impl FnMut(u32) -> bool,
) -> Option<u32> {
    let is_set = |rule: u32| bits.get((rule / WORD) as usize).is_some_and(|word| word >> (rule % WORD) & 1 == 1);
    let before = list.iter().copied().take_while(|rule| before.is_none_or(|before| *rule < before));
    before.filter(|rule| is_set(*rule)).find(|rule| fits(*rule))
}

/// The first rule before another one whose bit is set in both, and that `fits`.
pub(super) fn first_of_both(
    one: &[u64],
    other: &[u64],
    before: Option<u32>,
    mut fits: impl FnMut(u32) -> bool,
) -> Option<u32> {
    /// Words that are looked at together, which is what makes it fast where there is nothing.
    const TOGETHER: usize = 16;
    const RULES_TOGETHER: u32 = 16 * WORD;
    let pairs = one.chunks(TOGETHER).zip(other.chunks(TOGETHER));
    let mut first: u32 = 0;
    for (one, other) in pairs {
        if before.is_some_and(|before| before <= first) {
            return None;
        }
        if one.iter().zip(other).fold(0, |any, (one, other)| any | (one & other)) != 0 {
            let mut both = [0; TOGETHER];
            both.iter_mut().zip(one.iter().zip(other)).for_each(|(both, (one, other))| *both = one & other);
            let rules = ones(&both).map(|bit| first + bit);
            let found = rules.take_while(|rule| before.is_none_or(|before| *rule < before)).find(|rule| fits(*rule));
            if found.is_some() {
                return found;
            }
        }
        first = first.saturating_add(RULES_TOGETHER);
    }
    None
}

/// The rules whose bits are set, in order.
pub(super) fn ones(bits: &[u64]) -> impl Iterator<Item = u32> {
    (0..).zip(bits).flat_map(|(place, word): (u32, &u64)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(place * WORD + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_added_with_and_without_bits() {
        for (rules, step, has_bits) in [(300, 1, true), (300, 7, false), (100_000, 3, true), (100_000, 900, false)] {
            let mut posting = Posting::default();
            for rule in (0..rules).step_by(step) {
                posting.push(rule);
                posting.push(rule);
            }
            posting.seal(rules as usize);
            assert_eq!(posting.bits().is_some(), has_bits, "{rules} by {step}");
            let all: Vec<u32> = (0..rules).step_by(step).collect();
            assert_eq!(posting.list(), all);
            assert!(
                (0..rules + 100)
                    .all(|rule| posting.contains(rule) == (rule < rules && (rule as usize).is_multiple_of(step)))
            );
            if let Some(bits) = posting.bits() {
                assert_eq!(ones(bits).collect::<Vec<_>>(), all);
            }
        }
    }
}
