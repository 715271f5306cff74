//! The thread that writes a dump, one at a time, and what became of each.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use trace::TraceError;

use super::Flown;
use crate::error::chain;

/// Why a dump is not on disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum DumpError {
    /// The trace could not be written.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// There was nobody to write it.
    #[error(
        "no thread to write with could be started: check the limits on processes (`ulimit -u`, the cgroup's pids.max)"
    )]
    NoThread(#[source] io::Error),
    /// Whoever wrote it is gone.
    #[error("the thread that wrote it died ({0}); please report this")]
    Died(String),
}

/// Dumps on their way to the disk.
pub(super) struct Dumps {
    /// What their names begin with.
    base: PathBuf,
    /// The one being written, and what it was triggered by.
    writing: Option<(String, JoinHandle<Result<PathBuf, TraceError>>)>,
    /// What became of the others.
    pub(super) flown: Flown,
}

impl Dumps {
    /// No dump so far.
    pub(super) fn new(base: PathBuf) -> Self {
        Self { base, writing: None, flown: Flown::default() }
    }

    /// What the names of dumps begin with.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Has a dump written by `work`, which returns its path, in a thread of its own, so that events are taken meanwhile.
    /// Waits for an earlier one first: two would compete for the disk, and for the memory of one window each.
    pub(super) fn start(
        &mut self,
        trigger: String,
        work: impl FnOnce() -> Result<PathBuf, TraceError> + Send + 'static,
    ) {
        self.wait();
        match thread::Builder::new().name("dump".to_owned()).spawn(work) {
            Ok(thread) => self.writing = Some((trigger, thread)),
            Err(why) => self.failed(trigger, &DumpError::NoThread(why)),
        }
    }

    /// Takes note of a dump that has come to its end.
    pub(super) fn look(&mut self) {
        if self.writing.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            self.wait();
        }
    }

    /// Waits for the dump being written, if there is one.
    pub(super) fn wait(&mut self) {
        let Some((trigger, thread)) = self.writing.take() else { return };
        let written = match thread.join() {
            Ok(written) => written.map_err(DumpError::from),
            Err(panic) => Err(DumpError::Died(said(&*panic))),
        };
        match written {
            Ok(path) => {
                self.flown.dumps.push(path);
                self.flown.unwritten = None;
            }
            Err(why) => self.failed(trigger, &why),
        }
    }

    /// Counts a dump that is not on disk, and says so at once: by the end its cause may long be gone.
    fn failed(&mut self, trigger: String, why: &DumpError) {
        let (why, base) = (chain(why), self.base.display());
        tracing::warn!(
            "the dump `{base}` for `{trigger}` is not on disk: {why}. The flight recorder goes on and tries again at the next trigger and at its end, with what is in memory then: make room, or see to what is said here"
        );
        self.flown.failed += 1;
        self.flown.last_failure = Some(why);
        self.flown.unwritten = Some(trigger);
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use trace::held::samples::{alloc, meta};

    use super::super::dump::Dump;
    use super::super::window::Window;
    use super::*;

    /// Looks as the recorder does, until the dump has come to its end.
    fn look_until_done(dumps: &mut Dumps) {
        let began = Instant::now();
        while dumps.writing.is_some() {
            assert!(began.elapsed() < Duration::from_secs(60), "the dump never ends");
            thread::sleep(Duration::from_millis(1));
            dumps.look();
        }
    }

    fn start(dumps: &mut Dumps, window: &Window, trigger: &str) {
        let (window, base) = (window.clone(), dumps.base().to_owned());
        let (meta, tables) = (meta(512, 1), (Vec::new(), Vec::new(), Vec::new()));
        let dump = Dump { window, meta, devices: tables.0, tasks: tables.1, frames: tables.2, p2m: None };
        dumps.start(trigger.to_owned(), move || dump.write(&base));
    }

    #[test]
    fn a_failed_dump_is_noticed_counted_and_made_good_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("later");
        let mut dumps = Dumps::new(folder.join("f.swio"));
        let mut window = Window::new(1 << 20, &meta(512, 1), &[]);
        window.push(&alloc(1, 0, 4));
        start(&mut dumps, &window, "failure: slot_failed");
        look_until_done(&mut dumps);
        assert_eq!((dumps.flown.failed, dumps.flown.dumps.len()), (1, 0));
        assert_eq!(dumps.flown.unwritten.as_deref(), Some("failure: slot_failed"));
        let why = dumps.flown.last_failure.clone().unwrap();
        assert!(why.contains("later/f-0001-") && why.contains("create that first"), "{why}");
        // What was not written is still there when the folder is.
        std::fs::create_dir(&folder).unwrap();
        window.push(&alloc(2, 4, 4));
        start(&mut dumps, &window, "signal");
        look_until_done(&mut dumps);
        assert_eq!((dumps.flown.failed, dumps.flown.dumps.len(), dumps.flown.unwritten.clone()), (1, 1, None));
        let trace = trace::Trace::open(&dumps.flown.dumps[0]).unwrap();
        assert_eq!(trace.events().count(), 2);
    }

    #[test]
    fn a_thread_that_panics_takes_its_dump_along_and_nothing_else() {
        let mut dumps = Dumps::new(PathBuf::from("f.swio"));
        dumps.start("signal".to_owned(), || panic!("no such slot"));
        look_until_done(&mut dumps);
        let why = dumps.flown.last_failure.clone().unwrap();
        assert!(why.contains("died (no such slot)"), "{why}");
        dumps.start("signal".to_owned(), || Ok(PathBuf::from("f-0001.swio")));
        // One still under way is waited for at the end, and before the next.
        dumps.start("signal".to_owned(), || Ok(PathBuf::from("f-0002.swio")));
        dumps.wait();
        assert_eq!((dumps.flown.failed, dumps.flown.dumps.len()), (1, 2));
    }

    #[test]
    fn a_failure_says_what_the_system_said() {
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        let mut dumps = Dumps::new(PathBuf::from("f.swio"));
        let full = TraceError::Io { doing: "write", path: PathBuf::from("f-0001.swio/events.open"), source };
        dumps.start("signal".to_owned(), move || Err(full));
        dumps.wait();
        let why = dumps.flown.last_failure.unwrap();
        assert_eq!(why, "cannot write `f-0001.swio/events.open`: No space left on device (os error 28)");
    }
}
