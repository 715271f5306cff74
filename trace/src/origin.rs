//! Who did it, and by which way: threads and kernel stacks, each told once and named by key in the events.

crate::record! {
    /// A thread seen while recording. A `tid` has a row for each name it had and each thread it stood for: an event
    /// belongs to the last one that is not later than itself, or to the first.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Task {
        /// Thread, as in the events. The idle task, 0, has no row.
        tid: u32 => Id,
        /// From when on the row is true.
        since_ns: u64 => Time,
        /// Its process (thread group).
        pid: u32 => Id,
        /// Its name, at most 15 bytes.
        comm: String => Text,
    }
}

crate::record! {
    /// One call of a kernel stack.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StackFrame {
        /// The stack, as in the events.
        stack: u32 => Id,
        /// Place in the stack: 0 is the innermost call.
        frame: u32 => Index,
        /// Return address.
        address: u64 => Address,
        /// Function it lies in; absent when /proc/kallsyms does not say.
        symbol: Option<String> => Text,
        /// Bytes from the function's start.
        offset: Option<u32> => Bytes,
    }
}
