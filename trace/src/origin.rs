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

/// How a thread is told apart from its later namesakes.
impl Task {
    /// The row that was true of a thread at a time, or its first.
    #[must_use]
    pub fn at(tasks: &[Self], tid: u32, time_ns: u64) -> Option<&Self> {
        let of_tid = || tasks.iter().filter(|task| task.tid == tid);
        of_tid().rfind(|task| task.since_ns <= time_ns).or_else(|| of_tid().next())
    }
}

/// Functions that every mapping goes through and that say nothing about whose it is.
const COMMON: [&str; 6] = ["swiotlb", "dma_", "__dma_", "xen_swiotlb", "iommu_", "debug_dma"];
/// Functions of the probe itself, and what the kernel puts around it.
const PROBE: [&str; 3] = ["bpf_", "trampoline_", "kretprobe_"];

impl StackFrame {
    /// The calls of one stack, innermost first. The probe's own, which say nothing of the kernel's, are left out.
    #[must_use]
    pub fn calls(frames: &[Self], stack: u32) -> Vec<&Self> {
        let mut calls: Vec<_> = frames.iter().filter(|frame| frame.stack == stack).collect();
        calls.sort_by_key(|frame| frame.frame);
        Self::without_probe(&calls)
    }

    /// Of the calls of one stack, those that are not the probe's.
    #[must_use]
    pub fn without_probe<'a>(calls: &[&'a Self]) -> Vec<&'a Self> {
        calls.iter().copied().filter(|call| !call.is(&PROBE)).collect()
    }

    /// Of these calls, those that tell whose a mapping is; all of them, when none does.
    #[must_use]
    pub fn telling<'a>(calls: &[&'a Self]) -> Vec<&'a Self> {
        let telling: Vec<_> = calls.iter().copied().filter(|call| !call.is(&COMMON)).collect();
        if telling.is_empty() { calls.to_vec() } else { telling }
    }

    fn is(&self, any: &[&str]) -> bool {
        self.symbol.as_deref().is_some_and(|symbol| any.iter().any(|start| symbol.starts_with(start)))
    }

    /// The function, or the address when there is no name for it.
    #[must_use]
    pub fn function(&self) -> String {
        self.symbol.clone().unwrap_or_else(|| format!("{:#x}", self.address))
    }

    /// The function and the place in it.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.symbol, self.offset) {
            (Some(symbol), Some(offset)) => format!("{symbol}+{offset:#x}"),
            _ => self.function(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stack: u32, frame: u32, symbol: &str) -> StackFrame {
        let symbol = (!symbol.is_empty()).then(|| symbol.to_owned());
        StackFrame { stack, frame, address: 0x1000 + u64::from(frame), offset: symbol.as_ref().map(|_| 0x1f), symbol }
    }

    #[test]
    fn of_a_stack_the_calls_of_drivers_tell() {
        let frames = [
            frame(7, 2, "dma_map_sgtable"),
            frame(7, 0, "bpf_prog_2b93_map"),
            frame(7, 1, "bpf_trampoline_64"),
            frame(8, 0, "dma_map_page_attrs"),
            frame(7, 4, ""),
            frame(7, 3, "nvme_prep_rq"),
        ];
        let calls = StackFrame::calls(&frames, 7);
        let places: Vec<_> = calls.iter().map(|call| call.place()).collect();
        assert_eq!(places, ["dma_map_sgtable+0x1f", "nvme_prep_rq+0x1f", "0x1004"]);
        let telling: Vec<_> = StackFrame::telling(&calls).iter().map(|call| call.function()).collect();
        assert_eq!(telling, ["nvme_prep_rq", "0x1004"]);
        assert_eq!(StackFrame::telling(&StackFrame::calls(&frames, 8)).len(), 1, "better than nothing");
        assert!(StackFrame::calls(&frames, 9).is_empty());
    }

    #[test]
    fn a_thread_has_the_name_it_had_then() {
        let task = |since_ns, comm: &str| Task { tid: 5, since_ns, pid: 5, comm: comm.to_owned() };
        let tasks = [task(10, "bash"), task(20, "fio")];
        let at = |time| Task::at(&tasks, 5, time).map(|task| task.comm.as_str());
        assert_eq!([at(5), at(10), at(25)], [Some("bash"), Some("bash"), Some("fio")]);
        assert_eq!(Task::at(&tasks, 6, 30), None);
    }
}
