//! The last events, as many as fit, and the pool as it was before the first of them.

use std::collections::VecDeque;
use std::sync::Arc;

use trace::file::open_segment::Frame;
use trace::{Event, Meta, SnapshotSlot};

use trace::held::Held;

/// Bytes of a piece: the window moves on by so many at a time.
const PIECE: usize = 256 << 10;

/// A bounded memory of events. Cloning it costs a pointer a piece and the state of the pool.
#[derive(Clone, Debug)]
pub struct Window {
    pieces: VecDeque<Arc<Frame>>,
    newest: Frame,
    /// Bytes of the pieces.
    bytes: usize,
    most: usize,
    before: Held,
    /// When the last event went out of the window; nothing as long as all are in it.
    left_ns: Option<u64>,
}

impl Window {
    /// An empty window of `most` bytes on a machine as in `meta`.
    #[must_use]
    pub fn new(most: usize, meta: &Meta, snapshot: &[SnapshotSlot]) -> Self {
        let before = Held::new(meta, snapshot);
        Self { pieces: VecDeque::new(), newest: Frame::default(), bytes: 0, most, before, left_ns: None }
    }

    /// Adds an event. The oldest go when there is no room, and what they did to the pool is remembered.
    pub fn push(&mut self, event: &Event) {
        self.newest.push(event);
        if self.newest.len() < PIECE.min(self.most / 4) {
            return;
        }
        let mut piece = std::mem::take(&mut self.newest);
        piece.shrink();
        self.bytes += piece.len();
        self.pieces.push_back(Arc::new(piece));
        while self.bytes > self.most
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.bytes -= oldest.len();
            for event in oldest.decoded() {
                self.before.apply(&event);
                self.left_ns = Some(event.time_ns);
            }
        }
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.newest.len()
    }

    /// The pool as it was before the first event.
    #[must_use]
    pub fn before(&self) -> &Held {
        &self.before
    }

    /// Whether events have left the window: then it has a beginning of its own.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.left_ns.is_some()
    }

    /// The events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.pieces.iter().flat_map(|piece| piece.decoded()).chain(self.newest.decoded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::held::samples::{alloc, free, meta};

    #[test]
    fn it_keeps_the_last_events_and_the_state_before_them() {
        let mut window = Window::new(4096, &meta(512, 1), &[]);
        // One stays, the others come and go.
        window.push(&alloc(0, 500, 2));
        for time in 1..2_000 {
            let first = time as u32 % 100 * 4;
            window.push(&alloc(time * 2, first, 4));
            window.push(&free(time * 2 + 1, first));
        }
        assert!(window.bytes() <= 4096 + 1024 && window.moved());
        let events: Vec<_> = window.events().collect();
        assert_eq!(events.last().map(|e| e.time_ns), Some(3_999));
        assert!(events.windows(2).all(|pair| pair[0].time_ns + 1 == pair[1].time_ns), "nothing is missing inside");
        // Held before the first event: the one that stays, and another when the window begins with its release.
        let held = window.before().snapshot();
        let between = if events[0].op == trace::Op::SlotFree { 4 } else { 0 };
        assert_eq!(held.len(), 2 + between);
        assert!(held.iter().any(|slot| slot.slot == 500));
        // The state after the window is the state before it and its events.
        let mut model = window.before().clone();
        events.iter().for_each(|event| model.apply(event));
        assert_eq!(model.used(), 2);
    }
}
