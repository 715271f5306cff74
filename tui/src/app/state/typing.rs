//! What is typed: times, filters, policies.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use replay::Policy;

use super::{Ask, Effect, Goal, ListFilter, POLICIES, Prompt, Screen, State};

impl State {
    pub(super) fn ask(&mut self, what: Ask, text: &str) {
        self.prompt = Some(Prompt { what, text: text.to_owned(), error: None });
    }

    /// Takes a key while something is being typed.
    pub(super) fn typed(&mut self, key: KeyEvent) {
        let Some(prompt) = &mut self.prompt else { return };
        match key.code {
            KeyCode::Esc => self.prompt = None,
            KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::CONTROL) => {
                prompt.text.push(c);
                prompt.error = None;
            }
            KeyCode::Char('u') => prompt.text.clear(),
            KeyCode::Backspace => {
                prompt.text.pop();
                prompt.error = None;
            }
            KeyCode::Up | KeyCode::Down => {
                if let Ask::Policies { texts, at } = &mut prompt.what {
                    texts[*at] = prompt.text.clone();
                    *at = if key.code == KeyCode::Up { at.saturating_sub(1) } else { (*at + 1).min(POLICIES - 1) };
                    if texts.len() <= *at {
                        texts.push(String::new());
                    }
                    prompt.text = texts[*at].clone();
                    prompt.error = None;
                }
            }
            KeyCode::Enter => self.answered(),
            _ => {}
        }
    }

    /// Takes what was typed.
    fn answered(&mut self) {
        let Some(mut prompt) = self.prompt.take() else { return };
        let done = match &mut prompt.what {
            Ask::Time => self.time_of(&prompt.text).map(|time| self.halt(Goal::Time(time))),
            Ask::Filter => self.set_filter(&prompt.text),
            Ask::Policies { texts, at } => {
                texts[*at] = prompt.text.clone();
                let texts: Vec<String> =
                    texts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
                let wrong = texts.iter().find_map(|text| Policy::parse(text).err().map(|error| error.to_string()));
                match wrong {
                    Some(wrong) => Err(wrong),
                    None if texts.is_empty() => Err("give one policy at least, such as v6_10:nslabs=1024".to_owned()),
                    None => {
                        self.policies = texts;
                        self.compare.begin();
                        self.effects.push(Effect::Compare);
                        Ok(())
                    }
                }
            }
        };
        if let Err(error) = done {
            prompt.error = Some(error);
            self.prompt = Some(prompt);
        }
    }

    /// What the list on screen is filtered by, as it was written.
    pub(crate) fn filter(&self) -> Option<&str> {
        match self.screen {
            Screen::Failures => self.failure_filter.as_ref().map(ListFilter::text),
            Screen::Devices => self.device_filter.as_ref().map(ListFilter::text),
            _ => None,
        }
    }

    fn set_filter(&mut self, text: &str) -> Result<(), String> {
        let names = trace::filter::Names::new(&[], &self.names.tasks, &self.names.stacks);
        match self.screen {
            Screen::Failures => {
                self.failure_filter = ListFilter::parse(text, &names)?;
                self.failure = 0;
            }
            _ => {
                self.device_filter = ListFilter::parse(text, &names)?;
                self.device = 0;
            }
        }
        Ok(())
    }

    /// A time as people write it: from the begin, or with a minus from the end.
    fn time_of(&self, text: &str) -> Result<u64, String> {
        time_of(text, self.timeline.span)
    }
}

/// A time as people write it: `3.2s` from the begin, `-10s` from the end, `50%` of the whole.
pub(crate) fn time_of(text: &str, span: (u64, u64)) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time: write 3.2s, 250ms, -10s (from the end) or 50%");
    let text = text.trim();
    let (from, to) = span;
    if let Some(percent) = text.strip_suffix('%') {
        let share: f64 = percent.trim().parse().map_err(|_| wrong())?;
        let share = if share.is_finite() { share.clamp(0.0, 100.0) / 100.0 } else { return Err(wrong()) };
        return Ok(from + ((to - from.min(to)) as f64 * share) as u64);
    }
    let (back, number) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let units = [("ms", 1e6), ("us", 1e3), ("µs", 1e3), ("ns", 1.0), ("s", 1e9), ("m", 60e9), ("", 1e9)];
    let (digits, unit) =
        units.iter().find_map(|(unit, scale)| Some((number.strip_suffix(unit)?, *scale))).ok_or_else(wrong)?;
    let value: f64 = digits.trim().parse().map_err(|_| wrong())?;
    if !value.is_finite() || value < 0.0 {
        return Err(wrong());
    }
    let ns = (value * unit) as u64;
    Ok(if back { to.saturating_sub(ns).max(from) } else { ns.clamp(from.min(to), to.max(from)) })
}
