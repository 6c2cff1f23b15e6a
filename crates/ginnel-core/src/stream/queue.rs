//! A queue of bytes whose memory is proportional to what it holds.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::limits::COPY_BELOW;

/// A first-in-first-out queue of bytes, without regard to how they were cut when they came.
///
/// Small pieces are copied together: a piece is often a slice of a far larger receive buffer, which it would keep alive.
#[derive(Debug, Default)]
pub struct ByteQueue {
    chunks: VecDeque<Bytes>,
    /// Collects small pieces; comes after everything in `chunks`.
    tail: BytesMut,
    len: usize,
}

impl ByteQueue {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes` without a copy where they are large.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            return self.push_slice(&bytes);
        }
        self.len += bytes.len();
        self.seal_tail();
        self.chunks.push_back(bytes);
    }

    /// Makes room for so many bytes that will be appended as copies.
    pub fn reserve(&mut self, count: usize) {
        self.tail.reserve(count);
    }

    /// Appends a copy of `bytes`.
    pub fn push_slice(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    /// Takes up to `max` bytes from the front; `None` if there are none.
    pub fn pop(&mut self, max: usize) -> Option<Bytes> {
        if self.is_empty() || max == 0 {
            return None;
        }
        let Some(mut front) = self.chunks.pop_front() else {
            // The last bytes take their memory with them: an idle session holds none.
            let last = if self.tail.len() <= max { std::mem::take(&mut self.tail) } else { self.tail.split_to(max) };
            self.len -= last.len();
            return Some(last.freeze());
        };
        if front.len() > max {
            let bytes = front.split_to(max);
            self.chunks.push_front(front);
            self.len -= max;
            return Some(bytes);
        }
        if front.len() < COPY_BELOW {
            front = self.gather(&front, max);
        }
        self.len -= front.len();
        Some(front)
    }

    /// Drops everything and its memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Joins `front` with what follows it, so that many small pieces become one frame.
    fn gather(&mut self, front: &Bytes, max: usize) -> Bytes {
        let mut joined = BytesMut::with_capacity(max.min(self.len));
        joined.extend_from_slice(front);
        while joined.len() < max
            && let Some(mut next) = self.chunks.pop_front()
        {
            let room = max - joined.len();
            let part = next.split_to(room.min(next.len()));
            joined.extend_from_slice(&part);
            if !next.is_empty() {
                self.chunks.push_front(next);
            }
        }
        let room = max - joined.len();
        if self.tail.len() <= room {
            joined.extend_from_slice(&std::mem::take(&mut self.tail));
        } else {
            joined.extend_from_slice(&self.tail.split_to(room));
        }
        joined.freeze()
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_pushed_whatever_the_cuts() {
        let mut queue = ByteQueue::default();
        let all: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for (at, size) in [(0, 1), (1, 5_000), (5_001, 99), (5_100, 1), (5_101, 34_899)] {
            queue.push(Bytes::copy_from_slice(&all[at..at + size]));
        }
        assert_eq!(queue.len(), all.len());
        let mut out = Vec::new();
        for max in [1, 7, 4_999, 3, 10_000].into_iter().cycle() {
            let Some(bytes) = queue.pop(max) else { break };
            assert!((1..=max).contains(&bytes.len()));
            out.extend_from_slice(&bytes);
        }
        assert_eq!((out, queue.len()), (all, 0));
    }

    #[test]
    fn an_empty_queue_holds_no_memory() {
        let mut queue = ByteQueue::default();
        queue.push_slice(&[1; 3_000]);
        queue.push(Bytes::from(vec![2; COPY_BELOW]));
        queue.push_slice(&[3; 3_000]);
        while queue.pop(5_000).is_some() {}
        assert_eq!((queue.len(), queue.tail.capacity()), (0, 0));
    }

    #[test]
    fn small_pieces_of_large_buffers_do_not_pin_them() {
        let mut queue = ByteQueue::default();
        let large = Bytes::from(vec![7; 1 << 20]);
        queue.push(large.slice(..10));
        assert!(large.is_unique());
        assert_eq!(queue.pop(100).unwrap().len(), 10);
    }
}
