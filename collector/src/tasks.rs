//! The threads that the probe has introduced.

use std::collections::HashMap;

use trace::Task;

/// Rows kept at most; a machine that starts thousands of processes with I/O of their own would else fill the memory.
const MOST: usize = 1 << 16;

/// Threads by the time they were introduced.
#[derive(Debug, Default)]
pub struct Tasks {
    rows: Vec<Task>,
    /// Where a thread's last row is.
    last: HashMap<u32, usize>,
    changed: bool,
    forgotten: u64,
}

impl Tasks {
    /// Adds what was told of a thread, unless it is what was told last.
    pub fn add(&mut self, task: Task) {
        if let Some(known) = self.last.get(&task.tid).and_then(|&at| self.rows.get(at))
            && (known.pid, &known.comm) == (task.pid, &task.comm)
        {
            return;
        }
        if self.rows.len() == MOST {
            self.rows.drain(..MOST / 2);
            self.forgotten += MOST as u64 / 2;
            self.last = self.rows.iter().enumerate().map(|(at, row)| (row.tid, at)).collect();
        }
        self.last.insert(task.tid, self.rows.len());
        self.rows.push(task);
        self.changed = true;
    }

    /// All rows, when there are new ones since the last call.
    pub fn take(&mut self) -> Option<Vec<Task>> {
        std::mem::take(&mut self.changed).then(|| self.rows.clone())
    }

    /// Rows given up for later ones.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(tid: u32, since_ns: u64, comm: &str) -> Task {
        Task { tid, since_ns, pid: tid, comm: comm.to_owned() }
    }

    #[test]
    fn a_thread_has_a_row_for_each_name() {
        let mut tasks = Tasks::default();
        for (tid, since_ns, comm) in [(7, 1, "sh"), (8, 2, "sh"), (7, 3, "sh"), (7, 4, "dd"), (7, 5, "sh")] {
            tasks.add(task(tid, since_ns, comm));
        }
        let rows = tasks.take().unwrap();
        assert_eq!(rows, [task(7, 1, "sh"), task(8, 2, "sh"), task(7, 4, "dd"), task(7, 5, "sh")]);
        assert_eq!(tasks.take(), None);
    }

    #[test]
    fn the_oldest_are_given_up_and_counted() {
        let mut tasks = Tasks::default();
        (0..=MOST as u32).for_each(|tid| tasks.add(task(tid, 0, "x")));
        let rows = tasks.take().unwrap();
        assert_eq!((rows.len(), rows[0].tid, tasks.forgotten()), (MOST / 2 + 1, MOST as u32 / 2, MOST as u64 / 2));
        tasks.add(task(MOST as u32, 1, "x"));
        assert_eq!(tasks.take(), None);
    }
}
