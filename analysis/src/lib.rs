//! Answers computed from traces and replays.
