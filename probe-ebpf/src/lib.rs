//! The eBPF programs; the library half is the wire record shared with user space.
