//! The heat map's grid: which slots a cell stands for, and what is in them.

use replay::moment::{Moment, slots::PoolSlots};
use trace::pool::SEGMENT_SLOTS;

/// What a cell's colour says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Whose slots they are.
    #[default]
    Device,
    /// How long they have been held.
    Age,
    /// How long the free run is they belong to.
    Run,
}

impl Colour {
    /// The next.
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Device => Self::Age,
            Self::Age => Self::Run,
            Self::Run => Self::Device,
        }
    }

    /// What it is called.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Device => "by device",
            Self::Age => "by age",
            Self::Run => "by free run",
        }
    }
}

/// A part of a pool, and where the cursor is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zoom {
    /// The pool.
    pub(crate) pool: usize,
    /// First slot.
    pub(crate) from: u64,
    /// Slot behind the last.
    pub(crate) to: u64,
    /// What the part is: `pool`, `area 3`, `segment 17`.
    pub(crate) level: Level,
    /// The cell under the cursor.
    pub(crate) cursor: usize,
}

/// What part of a pool is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// All of it.
    Pool,
    /// An area.
    Area(u64),
    /// A segment of 128 slots.
    Segment(u64),
}

impl Zoom {
    /// The whole default pool.
    pub(crate) fn whole(moment: &Moment) -> Self {
        let to = moment.slots().pools().first().map_or(0, |pool| pool.geometry().nslabs);
        Self { pool: 0, from: 0, to, level: Level::Pool, cursor: 0 }
    }

    /// Slots a cell stands for, a power of two, so that a grid of at most `cells` has them all. A pool that fits has a
    /// cell a slot.
    pub(crate) fn per_cell(&self, cells: (usize, usize)) -> u64 {
        let room = (cells.0 * cells.1).max(1) as u64;
        (self.to - self.from).div_ceil(room).max(1).next_power_of_two()
    }

    /// Cells of a line: a power of two of slots, so that a line begins where a segment does.
    pub(crate) fn across(&self, cells: (usize, usize)) -> usize {
        match self.level {
            Level::Segment(_) => 16.min(cells.0.max(1)),
            _ if cells.0 == 0 => 1,
            _ => 1 << cells.0.ilog2(),
        }
    }

    /// Cells used.
    pub(crate) fn cells(&self, cells: (usize, usize)) -> usize {
        let per = self.per_cell((self.across(cells), cells.1));
        usize::try_from((self.to - self.from).div_ceil(per)).unwrap_or(usize::MAX)
    }

    /// The slots of a cell.
    pub(crate) fn slots(&self, cell: usize, cells: (usize, usize)) -> (u64, u64) {
        let per = self.per_cell((self.across(cells), cells.1));
        let from = self.from + cell as u64 * per;
        (from.min(self.to), (from + per).min(self.to))
    }

    /// Moves the cursor.
    pub(crate) fn walk(&mut self, across: i64, down: i64, cells: (usize, usize)) {
        let last = self.cells(cells).saturating_sub(1) as i64;
        let by = across + down * self.across(cells) as i64;
        let to = self.cursor as i64 + by;
        // Down from the line before the last, and up from the first, the cursor stays in its column or stays.
        if down == 0 || (0..=last).contains(&to) {
            self.cursor = usize::try_from(to.clamp(0, last)).unwrap_or(0);
        }
    }

    /// The part under the cursor, one level deeper; nothing when that is a slot.
    pub(crate) fn deeper(&self, moment: &Moment, cells: (usize, usize)) -> Option<Self> {
        let pool = moment.slots().pools().get(self.pool)?;
        let (slot, _) = self.slots(self.cursor, cells);
        let area = pool.geometry().area_slots().max(1);
        match self.level {
            Level::Pool if pool.geometry().areas > 1 && area > u64::from(SEGMENT_SLOTS) => {
                let number = (slot / area).min(u64::from(pool.geometry().areas) - 1);
                let from = number * area;
                Some(Self { from, to: from + area, level: Level::Area(number), cursor: 0, ..*self })
            }
            Level::Pool | Level::Area(_) => {
                let number = slot / u64::from(SEGMENT_SLOTS);
                let from = number * u64::from(SEGMENT_SLOTS);
                let to = (from + u64::from(SEGMENT_SLOTS)).min(pool.geometry().nslabs);
                Some(Self { from, to, level: Level::Segment(number), cursor: 0, ..*self })
            }
            Level::Segment(_) => None,
        }
    }

    /// What the part is called.
    pub(crate) fn title(&self) -> String {
        match self.level {
            Level::Pool => format!("pool {}", self.pool),
            Level::Area(area) => format!("pool {} › area {area}", self.pool),
            Level::Segment(segment) => format!("pool {} › segment {segment}", self.pool),
        }
    }
}

/// What is in a cell's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Slots in use, and all.
    pub(crate) used: (u64, u64),
    /// The device with most of them.
    pub(crate) device: Option<u32>,
    /// The longest any has been held, in nanoseconds; the time since the begin for what was held before it.
    pub(crate) age_ns: u64,
    /// The longest free run that begins or goes on there.
    pub(crate) run: u32,
}

/// Looks at the slots of a cell. Costs a look at each holder and at each free run in it.
pub(crate) fn look(pool: &PoolSlots, now_ns: u64, from: u64, to: u64) -> Cell {
    let mut cell = Cell { used: (0, to - from), ..Cell::default() };
    let mut devices: Vec<(u32, u64)> = Vec::new();
    for holder in pool.holders_in(from, to) {
        let (begin, end) = (u64::from(holder.first_slot), u64::from(holder.first_slot) + u64::from(holder.slots));
        let slots = end.min(to).saturating_sub(begin.max(from));
        cell.used.0 += slots;
        cell.age_ns = cell.age_ns.max(now_ns.saturating_sub(holder.since_ns.unwrap_or(0)));
        match devices.iter_mut().find(|(device, _)| *device == holder.device) {
            Some((_, sum)) => *sum += slots,
            None => devices.push((holder.device, slots)),
        }
    }
    cell.device = devices.into_iter().max_by_key(|(_, slots)| *slots).map(|(device, _)| device);
    let mut slot = from;
    while slot < to && cell.used.0 < cell.used.1 {
        match pool.free_run(slot) {
            Some((begin, slots)) => {
                cell.run = cell.run.max(slots);
                slot = begin + u64::from(slots);
            }
            None => {
                slot = pool.holder_at(slot).map_or(slot + 1, |h| u64::from(h.first_slot) + u64::from(h.slots));
            }
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_where_segments_do_and_the_cursor_stays_inside() {
        let mut zoom = Zoom { pool: 0, from: 0, to: 32_768, level: Level::Pool, cursor: 0 };
        let cells = (50, 26);
        assert_eq!((zoom.across(cells), zoom.per_cell((32, 26)), zoom.cells(cells)), (32, 64, 512));
        assert_eq!(zoom.slots(33, cells), (2112, 2176));
        zoom.walk(0, -1, cells);
        zoom.walk(-1, 0, cells);
        assert_eq!(zoom.cursor, 0);
        zoom.walk(0, 3, cells);
        zoom.walk(2, 0, cells);
        assert_eq!(zoom.cursor, 98);
        (0..100).for_each(|_| zoom.walk(0, 1, cells));
        assert_eq!(zoom.cursor, 482);
        let segment = Zoom { from: 128, to: 256, level: Level::Segment(1), ..zoom };
        assert_eq!((segment.across(cells), segment.cells(cells), segment.slots(5, cells)), (16, 128, (133, 134)));
    }
}
