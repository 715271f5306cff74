//! What the state is made of: screens, what lies over them, work in the background.

use analysis::Stage;

/// The screens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Screen {
    /// The answer, the rates, the pools.
    #[default]
    Overview,
    /// The pool as a heat map.
    Slots,
    /// Who maps, who bounces, who holds.
    Devices,
    /// What was refused, and why.
    Failures,
    /// What other policies would have done.
    Compare,
    /// How large the pool must be.
    Plan,
}

impl Screen {
    /// The screens in order.
    pub(crate) const ALL: [Self; 6] =
        [Self::Overview, Self::Slots, Self::Devices, Self::Failures, Self::Compare, Self::Plan];

    /// What its tab says.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Slots => "Slots",
            Self::Devices => "Devices",
            Self::Failures => "Failures",
            Self::Compare => "Compare",
            Self::Plan => "Plan",
        }
    }

    pub(super) fn turned(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// Speeds of play.
pub(crate) const SPEEDS: [f64; 13] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// Something that lies over the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Popup {
    /// The keys.
    Help,
    /// Text that can be scrolled, and a word on what else can be done with it.
    Text {
        /// What it is.
        title: String,
        /// Its lines.
        text: Vec<String>,
        /// First line shown.
        scroll: usize,
        /// It can be written into a file of this name.
        file: Option<String>,
    },
}

/// Something being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// What for.
    pub(crate) what: Ask,
    /// So far.
    pub(crate) text: String,
    /// What is wrong with it.
    pub(crate) error: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A time.
    Time,
    /// A condition on rows.
    Filter,
    /// Policies, of which one is being written.
    Policies {
        /// All of them.
        texts: Vec<String>,
        /// Which.
        at: usize,
    },
}

/// The most policies side by side.
pub(crate) const POLICIES: usize = 4;

/// Work in the background and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Job<T> {
    /// How far it is, while it is under way.
    pub(crate) stage: Option<Stage>,
    /// It was asked for.
    pub(crate) asked: bool,
    /// What came of it.
    pub(crate) result: Option<T>,
    /// Or why nothing did.
    pub(crate) error: Option<String>,
}

impl<T> Default for Job<T> {
    fn default() -> Self {
        Self { stage: None, asked: false, result: None, error: None }
    }
}

impl<T> Job<T> {
    /// It begins again.
    pub(super) fn begin(&mut self) {
        self.asked = true;
        self.error = None;
    }

    /// Whether it is under way.
    pub(crate) fn is_running(&self) -> bool {
        self.asked && self.result.is_none() && self.error.is_none() || self.stage.is_some()
    }
}

/// What only the application can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Replay the policies.
    Compare,
    /// Find the size.
    Plan,
    /// Report on what happened between two times.
    Report(u64, u64),
    /// Explain a refusal, by its place in the timeline.
    Explain(usize),
    /// Write text into a file.
    Write(String, String),
}
