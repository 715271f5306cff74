//! The load, and what it and others use.

use std::fs;
use std::time::{Duration, Instant};

/// This machine's CPUs: the last for the load, the others for the rest.
pub(crate) struct Cpus(Vec<usize>);

impl Cpus {
    pub(crate) fn of_this_machine() -> Self {
        // SAFETY: zeroes are an empty set, and the call writes no more than its size.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
            set
        };
        // SAFETY: the number is below the set's size.
        Self((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn last(&self) -> usize {
        self.0.last().copied().unwrap_or(0)
    }

    /// This thread is the load.
    pub(crate) fn pin_load(&self) {
        pin(&[self.last()]);
    }

    /// And goes before others, so that a rate can be kept up on a busy machine. Without the right to, it may not be.
    pub(crate) fn hurry(&self) {
        // SAFETY: plain numbers; 0 is the calling thread.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -19) };
    }

    /// This thread, and those it starts, are not.
    pub(crate) fn pin_rest(&self) {
        pin(if self.0.len() > 1 { &self.0[..self.0.len() - 1] } else { &self.0 });
    }
}

fn pin(cpus: &[usize]) {
    // SAFETY: zeroes are an empty set; the numbers come from such a set; the pointer is good for the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// A map and an unmap, to the bench's program: a thread that names itself twice passes the tracepoint `task_rename` twice. System
/// calls themselves would not do: once one is traced all of them take a slower way, which DMA does not have.
fn pair() {
    for _ in 0..2 {
        // SAFETY: the name ends with a NUL; it stays the same.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"capture-cost".as_ptr()) };
    }
}

/// In CPU time: others on the machine may hold the CPU, but not the figures.
pub(crate) fn ns_a_pair(pairs: u32) -> f64 {
    let began = cpu_of_thread();
    (0..pairs).for_each(|_| pair());
    (cpu_of_thread() - began).as_nanos() as f64 / f64::from(pairs)
}

/// The kernel's number of this thread, as events have it.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: it may be called at any time, and does not fail.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// Pairs at so many a second, in small bursts; returns how many there were.
pub(crate) fn pairs_at(rate: f64, span: Duration) -> u64 {
    const BURST: u64 = 100;
    let began = Instant::now();
    let mut made = 0;
    while began.elapsed() < span {
        (0..BURST).for_each(|_| pair());
        made += BURST;
        let due = made as f64 / rate;
        while began.elapsed().as_secs_f64() < due {
            std::hint::spin_loop();
        }
    }
    made
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is good for the call; these clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

pub(crate) fn cpu_of_process() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

pub(crate) fn cpu_of_thread() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of this process's thread of a name.
pub(crate) fn cpu_of_named(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let named =
        |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name);
    // In nanoseconds, unlike those of `stat`, which are counted by the tick.
    let spent = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.filter(named).find_map(spent).unwrap_or_default()
}

/// What this process has in memory, in MiB.
pub(crate) fn memory_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let now = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    now.map_or(f64::NAN, |kib: f64| kib / 1024.0)
}

/// Gives back what was used to get the bench's own programs into the kernel, which no recorder does.
pub(crate) fn forget() {
    // SAFETY: it may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
