//! Who maps, and who bounces: replayed under the policy, and as recorded.

use analysis::{DeviceRow, PolicyDeviceRow};
use ratatui::text::Line;
use trace::field::Record;

use crate::columns::Columns;
use crate::theme::Theme;

/// Each device's share of the policy's result.
pub(crate) fn replayed(devices: &[PolicyDeviceRow], width: usize, theme: &Theme) -> Vec<Line<'static>> {
    table("Under this policy", devices, width, theme)
}

/// What each device really did.
pub(crate) fn recorded(devices: &[DeviceRow], width: usize, theme: &Theme) -> Vec<Line<'static>> {
    table("As recorded", devices, width, theme)
}

fn table<R: Record>(title: &'static str, rows: &[R], width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let title = Line::styled(title, theme.strong);
    if rows.is_empty() {
        return vec![title, Line::styled("no device mapped anything", theme.dim)];
    }
    std::iter::once(title).chain(Columns::of(rows).lay_out(width, theme).lines(theme)).collect()
}
