//! How what is selected moves.

use super::{Action, Effect, Screen, State};
use crate::compare;

impl State {
    /// Moves by so many columns and rows.
    pub(super) fn walk(&mut self, across: i64, down: i64) {
        let moved = |at: usize, by: i64| usize::try_from(at as i64 + by).unwrap_or(0);
        match self.screen {
            Screen::Slots => {
                let cells = self.cells;
                if let Some(zoom) = self.zoom.last_mut() {
                    zoom.walk(across, down, cells);
                }
            }
            Screen::Compare if across != 0 => self.on_compare(if across < 0 {
                compare::action::Action::PreviousPage
            } else {
                compare::action::Action::NextPage
            }),
            Screen::Compare => self.on_compare(if down < 0 {
                compare::action::Action::Previous
            } else {
                compare::action::Action::Next
            }),
            Screen::Plan => self.select(moved(self.size, across + down)),
            Screen::Devices if across == 0 => self.select(moved(self.device, down)),
            Screen::Failures if across == 0 => self.select(moved(self.failure, down)),
            _ if across != 0 => self.apply(Action::Scrub(across)),
            _ => {}
        }
    }

    pub(super) fn page(&mut self, down: i64) {
        let rows = (self.page.max(2) - 1) as i64;
        match self.screen {
            Screen::Compare => self.on_compare(if down < 0 {
                compare::action::Action::ScrollUp
            } else {
                compare::action::Action::ScrollDown
            }),
            Screen::Slots => self.walk(0, down * 4),
            _ => self.walk(0, down * rows),
        }
    }

    pub(super) fn edge(&mut self, last: bool) {
        if self.screen == Screen::Compare {
            self.on_compare(if last { compare::action::Action::Last } else { compare::action::Action::First });
        } else if self.screen == Screen::Slots {
            let cells = self.cells;
            if let Some(zoom) = self.zoom.last_mut() {
                zoom.cursor = if last { zoom.cells(cells).saturating_sub(1) } else { 0 };
            }
        } else {
            self.select(if last { usize::MAX } else { 0 });
        }
    }

    pub(super) fn enter(&mut self) {
        match self.screen {
            Screen::Slots => {
                let deeper = self.zoom.last().and_then(|zoom| zoom.deeper(&self.moment, self.cells));
                match deeper {
                    Some(zoom) => self.zoom.push(zoom),
                    None => {
                        let lines = crate::app::screens::slots::about_slot(self);
                        self.show_text("Slot".to_owned(), lines, None);
                    }
                }
            }
            Screen::Devices => self.drilled = !self.drilled,
            Screen::Failures => {
                if let Some((at, _)) = self.failure_rows().get(self.failure) {
                    self.effects.push(Effect::Explain(*at));
                }
            }
            Screen::Compare => self.on_compare(compare::action::Action::Enlarge),
            Screen::Overview | Screen::Plan => {}
        }
    }
}
