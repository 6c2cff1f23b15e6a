//! Rules by what they allow to be reached: a host, and ports on it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::networks::Networks;
use super::posting::Posting;
use crate::pattern::TargetPattern;
use crate::target::{DnsName, Host, Target};

/// Patterns of one host, name or network that are looked at one by one.
const FEW_MAX: usize = 32;

/// Halvings of the range of all ports until one port is left.
const LEVELS: u32 = 16;

/// Rules by the hosts and ports of their patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    names: HashMap<DnsName, Ports>,
    /// By the name below which a star means one label.
    parents: HashMap<DnsName, Ports>,
    networks: Networks<Ports>,
}

/// The rules of one host, by port.
#[derive(Clone, Debug)]
enum Ports {
    /// The first port, the last one, and the rule; in the order of the rules.
    Few(Vec<(u16, u16, u32)>),
    Many(Blocks),
}

/// Rules by blocks of ports. A block of level n has 2^n ports, the first of which is a multiple of that: every range is a few of them, and every
/// port is in one of each level.
#[derive(Clone, Debug, Default)]
struct Blocks {
    /// A bit for each level that has a block.
    levels: u32,
    rules: HashMap<(u32, u32), Posting, BuildHasherDefault<Mixed>>,
}

/// Mixes two small numbers. What is in the table comes from the operator's file, and nobody else's can be made to collide there; a port in many
/// networks is looked up hundreds of times.
#[derive(Clone, Debug, Default)]
struct Mixed(u64);

/// The rules that mean a target, not sorted out: each is in one of the sets or in the list.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    pub(super) sets: Vec<&'a Posting>,
    /// In order, each once.
    pub(super) few: Vec<u32>,
    /// Places that were looked at.
    pub(super) looks: usize,
}

impl Hosts {
    /// Adds a pattern of a rule, which does not come before those that were added.
    pub(super) fn add(&mut self, pattern: &TargetPattern, rule: u32) {
        let ports = if let Some(name) = pattern.name() {
            self.names.entry(name.clone()).or_default()
        } else if let Some(parent) = pattern.parent() {
            self.parents.entry(parent.clone()).or_default()
        } else if let Some(network) = pattern.network() {
            self.networks.entry(network)
        } else {
            // A pattern is one of these three.
            return;
        };
        let (first, last) = pattern.ports();
        ports.add(first, last, rule);
    }

    /// Says that it is complete, and how many rules the policy has.
    pub(super) fn seal(&mut self, rules: usize) {
        let by_name = self.names.values_mut().chain(self.parents.values_mut());
        by_name.chain(self.networks.all()).for_each(|ports| ports.seal(rules));
    }

    /// The rules that mean this target.
    pub(super) fn find(&self, target: &Target) -> Found<'_> {
        let mut found = Found::default();
        let port = target.port.get();
        match &target.host {
            Host::Name(name) => {
                let below = name.as_str().split_once('.').and_then(|(_, parent)| self.parents.get(parent));
                let places = self.names.get(name).into_iter().chain(below);
                places.for_each(|ports| ports.find(port, &mut found));
            }
            Host::Address(address) => {
                self.networks.containing(*address).for_each(|ports| ports.find(port, &mut found));
            }
        }
        found.few.sort_unstable();
        found.few.dedup();
        found
    }
}

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The golden ratio of 2^64, which is odd: no two numbers become one.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(FACTOR);
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Ports {
    fn add(&mut self, first: u16, last: u16, rule: u32) {
        match self {
            Self::Few(few) => few.push((first, last, rule)),
            Self::Many(blocks) => blocks.add(first, last, rule),
        }
    }

    fn seal(&mut self, rules: usize) {
        let Self::Few(few) = self else { return };
        if few.len() <= FEW_MAX {
            few.shrink_to_fit();
            return;
        }
        let mut blocks = Blocks::default();
        few.iter().for_each(|&(first, last, rule)| blocks.add(first, last, rule));
        blocks.rules.values_mut().for_each(|posting| posting.seal(rules));
        *self = Self::Many(blocks);
    }

    fn find<'a>(&'a self, port: u16, found: &mut Found<'a>) {
        match self {
            Self::Few(few) => {
                found.looks += few.len();
                let fitting = few.iter().filter(|(first, last, _)| (*first..=*last).contains(&port));
                found.few.extend(fitting.map(|(_, _, rule)| *rule));
            }
            Self::Many(blocks) => {
                let levels = (0..=LEVELS).filter(|level| blocks.levels >> level & 1 == 1);
                for level in levels {
                    found.looks += 1;
                    found.sets.extend(blocks.rules.get(&(level, u32::from(port) >> level)));
                }
            }
        }
    }
}

impl Blocks {
    fn add(&mut self, first: u16, last: u16, rule: u32) {
        for (level, block) in blocks(first, last) {
            self.levels |= 1 << level;
            self.rules.entry((level, block)).or_default().push(rule);
        }
    }
}

/// The fewest blocks that have these ports and no others that can be asked for.
fn blocks(first: u16, last: u16) -> impl Iterator<Item = (u32, u32)> {
    // Nobody asks for port 0: with it, all ports are one block.
    let (mut at, end) = (if first == 1 { 0 } else { u32::from(first) }, u32::from(last) + 1);
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let level = at.trailing_zeros().min(left.ilog2());
        let block = (level, at >> level);
        at += 1 << level;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_few_blocks_that_have_its_ports_and_no_others() {
        for (first, last, most) in [
            (1, 65535, 1),
            (443, 443, 1),
            (8000, 8100, 4),
            (1, 1, 1),
            (65535, 65535, 1),
            (2, 65534, 30),
            (1024, 65535, 6),
            (3, 9, 3),
        ] {
            let blocks: Vec<_> = blocks(first, last).collect();
            assert!(blocks.len() <= most, "{first}-{last}: {blocks:?}");
            for port in 1..=u16::MAX {
                let hits = blocks.iter().filter(|(level, block)| u32::from(port) >> level == *block).count();
                assert_eq!(hits, usize::from((first..=last).contains(&port)), "{port} in {first}-{last}: {blocks:?}");
            }
        }
    }
}
