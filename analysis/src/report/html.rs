//! The report as one page for a browser: no scripts, nothing loaded from elsewhere, light or dark as the reader has it, and
//! fit for paper.
