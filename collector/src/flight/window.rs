//! The last events, as many as fit, and the pool as it was before the first of them.

use std::collections::VecDeque;
use std::sync::Arc;

use trace::file::open_segment::Frame;
use trace::meta::Losses;
use trace::{Event, Meta, SnapshotSlot};

use trace::held::Held;

/// Bytes of a piece: the window moves on by so many at a time.
const PIECE: usize = 256 << 10;

/// Readings of losses that wait for events later than they are at most. Without the oldest a piece counts losses as its own
/// that came before it, never the other way round.
const MARKS: usize = 64;

/// Losses that are counted and leave no event in their place, up to some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// As [`Losses::probe_missed`].
    pub probe_missed: u64,
    /// As [`Losses::undecoded`].
    pub undecoded: u64,
    /// As [`Losses::sg_truncated`].
    pub sg_truncated: u64,
    /// As [`Losses::stacks_missed`].
    pub stacks_missed: u64,
}

impl Tally {
    /// Those of an account.
    #[must_use]
    pub fn of(losses: &Losses) -> Self {
        let Losses { probe_missed, undecoded, sg_truncated, stacks_missed, .. } = *losses;
        Self { probe_missed, undecoded, sg_truncated, stacks_missed }
    }

    /// Leaves in an account what came after this.
    pub fn take_from(self, losses: &mut Losses) {
        let Self { probe_missed, undecoded, sg_truncated, stacks_missed } = self;
        for (all, before) in [
            (&mut losses.probe_missed, probe_missed),
            (&mut losses.undecoded, undecoded),
            (&mut losses.sg_truncated, sg_truncated),
            (&mut losses.stacks_missed, stacks_missed),
        ] {
            *all = all.saturating_sub(before);
        }
    }
}

/// Events that come and go together.
#[derive(Clone, Debug)]
struct Piece {
    frame: Arc<Frame>,
    /// What was lost before the first of them, as far as it was known to be before.
    lost_before: Tally,
}

/// A bounded memory of events. Cloning it costs a pointer a piece and the state of the pool.
#[derive(Clone, Debug)]
pub struct Window {
    pieces: VecDeque<Piece>,
    newest: Frame,
    /// [`Piece::lost_before`] of the newest.
    lost_before_newest: Tally,
    /// Losses read, and when: the next piece takes the last that is not later than its first event.
    marks: VecDeque<(u64, Tally)>,
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
        Self {
            pieces: VecDeque::new(),
            newest: Frame::default(),
            lost_before_newest: Tally::default(),
            marks: VecDeque::new(),
            bytes: 0,
            most,
            before,
            left_ns: None,
        }
    }

    /// Takes note of what was lost until `time_ns`.
    pub fn mark(&mut self, time_ns: u64, lost: Tally) {
        if self.marks.back().is_some_and(|(_, last)| *last == lost) {
            return;
        }
        if self.marks.len() >= MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((time_ns, lost));
    }

    /// Adds an event. The oldest go when there is no room, and what they did to the pool is remembered.
    pub fn push(&mut self, event: &Event) {
        if self.newest.is_empty() {
            while let Some((_, lost)) = self.marks.pop_front_if(|(read_ns, _)| *read_ns <= event.time_ns) {
                self.lost_before_newest = lost;
            }
        }
        self.newest.push(event);
        if self.newest.len() < PIECE.min(self.most / 4) {
            return;
        }
        let mut frame = std::mem::take(&mut self.newest);
        frame.shrink();
        self.bytes += frame.len();
        self.pieces.push_back(Piece { frame: Arc::new(frame), lost_before: self.lost_before_newest });
        while self.bytes > self.most
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.bytes -= oldest.frame.len();
            for event in oldest.frame.decoded() {
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

    /// What was lost before the first event and leaves no event in its place, as far as it was known to be before: nothing as
    /// long as all events are here.
    #[must_use]
    pub fn lost_before(&self) -> Tally {
        if !self.moved() {
            return Tally::default();
        }
        self.pieces.front().map_or(self.lost_before_newest, |piece| piece.lost_before)
    }

    /// Whether events have left the window: then it has a beginning of its own.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.left_ns.is_some()
    }

    /// The events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.pieces.iter().flat_map(|piece| piece.frame.decoded()).chain(self.newest.decoded())
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

    #[test]
    fn it_knows_what_was_lost_before_it_and_counts_what_may_be_its_own() {
        let meta = meta(512, 1);
        let lost = |probe_missed| Tally { probe_missed, ..Tally::default() };
        let mut window = Window::new(4096, &meta, &[]);
        let mut time = 0;
        let mut fill = |window: &mut Window, until: u64| {
            while time < until {
                time += 2;
                window.push(&alloc(time, 0, 4));
                window.push(&free(time + 1, 0));
            }
        };
        fill(&mut window, 10);
        window.mark(20, lost(7));
        assert_eq!(window.lost_before(), lost(0), "all of it is here");
        fill(&mut window, 2_000);
        assert_eq!((window.moved(), window.lost_before()), (true, lost(7)));
        // Read while events from before the reading still wait: what they came with is theirs.
        window.mark(3_000, lost(9));
        fill(&mut window, 2_998);
        assert_eq!(window.lost_before(), lost(7));
        fill(&mut window, 4_000);
        assert_eq!(window.lost_before(), lost(9));
        // Nothing is kept of readings that nobody asks for.
        (0..1_000).for_each(|n| window.mark(5_000 + n, lost(10 + n)));
        assert_eq!(window.marks.len(), MARKS);
        fill(&mut window, 8_000);
        assert_eq!((window.lost_before(), window.marks.len()), (lost(1_009), 0));
    }
}
