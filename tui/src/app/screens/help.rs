//! What lies over the rest of the screen: the keys, text to read, policies to write.
//!
//! ```text
//! ┌ Help · Failures ───────────────────────────────────────────────────┐
//! │ Enter   explain the refusal, with its arithmetic                   │
//! │ t       go to the moment of the refusal                            │
//! │ …                                                                  │
//! └──────────────────────────────────────────────────── any key closes ┘
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Widget as _};

use crate::app::action::KEYS;
use crate::app::state::{Ask, POLICIES, Popup, Prompt, State};
use crate::text::{cut, fold};
use crate::theme::Theme;

/// What the drawing means, for somebody who sees it for the first time.
const LEGEND: [(&str, &str); 2] =
    [("▁▄█", "timeline: most slots in use; ▲ the moment shown"), ("× !", "on it: requests refused; records lost")];

/// Draws what lies over the screen, if anything.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    match (&state.prompt, &state.popup) {
        (Some(prompt), _) => {
            if let Ask::Policies { texts, at } = &prompt.what {
                policies(texts, *at, prompt, area, buf, theme);
            }
        }
        (None, Some(Popup::Help)) => keys(state, area, buf),
        (None, Some(Popup::Text { title, text, scroll, file })) => {
            let hint = if file.is_some() {
                " ↑↓ scroll  w write to a file  Esc close "
            } else {
                " ↑↓ scroll  Esc close "
            };
            let width = usize::from(area.width.saturating_sub(6)).clamp(20, 110);
            let lines: Vec<Line<'static>> = text
                .iter()
                .flat_map(|line| {
                    let line = line.trim_end();
                    // Tables keep their columns; sentences are folded.
                    if line.is_empty() {
                        vec![Line::default()]
                    } else {
                        fold(line, width, 2, ratatui::style::Style::new())
                    }
                })
                .collect();
            let room = usize::from(area.height.saturating_sub(4)).max(1);
            let last = lines.len().saturating_sub(room);
            popup(&format!(" {title} "), hint, lines, (*scroll).min(last), area, buf, theme);
        }
        (None, None) => {}
    }
}

fn keys(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let told: Vec<_> = KEYS.iter().filter(|key| !key.long.is_empty() && key.is_on(state.screen)).collect();
    let wide = told.iter().map(|key| key.keys.chars().count()).max().unwrap_or(0);
    let entry = |what: &str, means: &str| {
        Line::from(vec![Span::styled(format!("{what:<wide$}  "), theme.strong), Span::raw(means.to_owned())])
    };
    let mut lines: Vec<Line<'static>> = told.iter().map(|key| entry(key.keys, key.long)).collect();
    lines.extend(LEGEND.map(|(what, means)| entry(what, means)));
    popup(&format!(" Help · {} ", state.screen.title()), " any key closes ", lines, 0, area, buf, theme);
}

fn policies(texts: &[String], at: usize, prompt: &Prompt, area: Rect, buf: &mut Buffer, theme: &Theme) {
    let width = usize::from(area.width.saturating_sub(6)).clamp(20, 90);
    let mut lines = Vec::new();
    for i in 0..POLICIES {
        let text = if i == at { prompt.text.as_str() } else { texts.get(i).map_or("", String::as_str) };
        let mark = if i == at { "▸ " } else { "  " };
        let style = if i == at { theme.selected } else { theme.dim };
        // The end is what is being written.
        let room = width.saturating_sub(5);
        let skip = text.chars().count().saturating_sub(room);
        let shown: String = text.chars().skip(skip).collect();
        let cursor = if i == at { "▏" } else { "" };
        lines.push(Line::from(vec![
            Span::styled(mark, theme.strong),
            Span::styled(format!("{} {shown}{cursor}", i + 1), style),
        ]));
    }
    lines.push(Line::default());
    if let Some(error) = &prompt.error {
        lines.extend(fold(error, width, 2, theme.bad));
    } else {
        let ids: Vec<_> = replay::GENERATIONS.iter().map(|rules| rules.id).collect();
        let help = [
            format!("A policy is one of {}, or a kernel's release.", ids.join(" ")),
            "With parameters: v6_10:nslabs=1024,areas=2 or rfc64:swiotlb=1024,32768,force".to_owned(),
            "An empty line takes its policy away.".to_owned(),
        ];
        lines.extend(help.iter().flat_map(|line| fold(line, width, 2, theme.dim)));
    }
    popup(" Policies ", " ↑↓ line  Enter replay  Esc leave ", lines, 0, area, buf, theme);
}

/// Draws `lines` in the middle of `area`.
pub(crate) fn popup(
    title: &str,
    hint: &str,
    lines: Vec<Line<'static>>,
    scroll: usize,
    area: Rect,
    buf: &mut Buffer,
    theme: &Theme,
) {
    let widest = lines.iter().map(Line::width).max().unwrap_or(0).max(title.chars().count()).max(hint.chars().count());
    let size = |n: usize| Constraint::Length(u16::try_from(n).unwrap_or(u16::MAX));
    let popup = area.centered(size(widest + 4), size(lines.len() + 2));
    let hidden = lines.len().saturating_sub(usize::from(popup.height.saturating_sub(2)) + scroll);
    Clear.render(popup, buf);
    let hint = if hidden > 0 { format!(" {hidden} more ·{hint}") } else { hint.to_owned() };
    let block = Block::bordered()
        .border_style(theme.dim)
        .padding(Padding::horizontal(1))
        .title_top(Line::styled(cut(title, usize::from(popup.width.saturating_sub(4))), theme.strong))
        .title_bottom(Line::styled(hint, theme.dim).right_aligned());
    let scroll = u16::try_from(scroll).unwrap_or(u16::MAX);
    Paragraph::new(lines).scroll((scroll, 0)).block(block).render(popup, buf);
}
