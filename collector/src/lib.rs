//! Finds what this kernel offers, loads and drains the probe, writes a trace.
