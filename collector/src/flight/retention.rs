//! Which dumps stay: so many, so many bytes, so long.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use trace::TraceError;

/// How many dumps are kept. The newest always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many.
    pub count: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Not longer than this.
    pub age: Duration,
}

/// A dump on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dump {
    number: u32,
    path: PathBuf,
    bytes: u64,
    age: Duration,
}

/// The name of dump `number` of a flight recorder whose path is `base`, written at this second of 1970:
/// `load.swio` gives `load-0001-20261126T115600Z.swio`.
#[must_use]
pub fn name(base: &Path, number: u32, seconds: u64) -> PathBuf {
    let (stem, extension) = parts(base);
    base.with_file_name(format!("{stem}-{number:04}-{}{extension}", stamp(seconds)))
}

/// The number of the next dump: one more than that of any there is.
#[must_use]
pub fn next_number(base: &Path) -> u32 {
    dumps(base).iter().map(|dump| dump.number).max().map_or(1, |last| last.saturating_add(1))
}

/// Removes the dumps that are too many, too large or too old, among those beside `newest` that belong to the same flight
/// recorder. What cannot be removed stays, and is said on the log.
pub fn clear(newest: &Path, keep: &Keep) {
    let Some(base) = base(newest) else { return };
    for dump in surplus(dumps(&base), keep) {
        match trace::file::remove(&dump.path) {
            Ok(()) => tracing::info!("{} was removed to make room", dump.path.display()),
            // Half of another program's folder is no dump of ours.
            Err(TraceError::NotATrace { .. } | TraceError::OtherTool { .. }) => {}
            Err(why) => tracing::warn!("{why}"),
        }
    }
}

/// Those that go, given all.
fn surplus(mut dumps: Vec<Dump>, keep: &Keep) -> Vec<Dump> {
    dumps.sort_by_key(|dump| std::cmp::Reverse(dump.number));
    let mut bytes = 0_u64;
    let mut kept = 0;
    dumps.retain(|dump| {
        let newest = kept == 0;
        let fits = kept < keep.count && bytes.saturating_add(dump.bytes) <= keep.bytes && dump.age <= keep.age;
        let stays = newest || fits;
        if stays {
            kept += 1;
            bytes += dump.bytes;
        }
        !stays
    });
    dumps
}

/// All dumps of a flight recorder.
fn dumps(base: &Path) -> Vec<Dump> {
    let folder = base.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let number = number(base, &entry.file_name().to_string_lossy())?;
            let modified = entry.metadata().ok()?.modified().ok()?;
            let files = fs::read_dir(entry.path()).ok()?.flatten();
            Some(Dump {
                number,
                path: entry.path(),
                bytes: files.filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum(),
                age: SystemTime::now().duration_since(modified).unwrap_or_default(),
            })
        })
        .collect()
}

/// A path's name before and with its extension.
fn parts(base: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(base.extension());
    (text(base.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

/// The number in the name of a dump; nothing of any other name.
fn number(base: &Path, name: &str) -> Option<u32> {
    let (stem, extension) = parts(base);
    let rest = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
    let (number, stamp) = rest.split_once('-')?;
    let shape = |c: (usize, char)| match c.0 {
        8 => c.1 == 'T',
        15 => c.1 == 'Z',
        _ => c.1.is_ascii_digit(),
    };
    let stamped = stamp.len() == 16 && stamp.chars().enumerate().all(shape);
    (stamped && number.len() >= 4 && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().ok())?
}

/// The flight recorder's path that a dump is named after.
fn base(dump: &Path) -> Option<PathBuf> {
    let (stem, extension) = parts(dump);
    let mut words = stem.rsplitn(3, '-');
    let (_, _, name) = (words.next()?, words.next()?, words.next()?);
    Some(dump.with_file_name(format!("{name}{extension}")))
}

/// Seconds since 1970 as `20261126T115600Z`.
fn stamp(seconds: u64) -> String {
    // The last second that can be written so; a clock beyond it is wrong anyway.
    const LAST: u64 = 253_402_300_799;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(number: u32, bytes: u64, days: u64) -> Dump {
        Dump { number, path: PathBuf::from(number.to_string()), bytes, age: Duration::from_secs(days * 86_400) }
    }

    fn left(dumps: Vec<Dump>, keep: &Keep) -> Vec<u32> {
        let gone = surplus(dumps.clone(), keep);
        dumps.iter().filter(|dump| !gone.contains(dump)).map(|dump| dump.number).collect()
    }

    #[test]
    fn the_newest_stay_as_far_as_number_size_and_age_allow() {
        let dumps = vec![dump(1, 10, 9), dump(2, 10, 6), dump(4, 50, 1), dump(3, 10, 2)];
        let keep = Keep { count: 10, bytes: 1000, age: Duration::from_secs(7 * 86_400) };
        assert_eq!(left(dumps.clone(), &keep), [2, 4, 3]);
        assert_eq!(left(dumps.clone(), &Keep { count: 2, ..keep }), [4, 3]);
        assert_eq!(left(dumps.clone(), &Keep { bytes: 60, ..keep }), [4, 3]);
        // The last one written stays whatever it is.
        assert_eq!(left(dumps, &Keep { count: 0, bytes: 0, age: Duration::ZERO }), [4]);
    }

    #[test]
    fn a_dump_is_known_by_its_name() {
        let base_path = Path::new("/var/log/load.swio");
        let path = name(base_path, 7, 1_795_694_160);
        assert_eq!(path, Path::new("/var/log/load-0007-20261126T115600Z.swio"));
        assert_eq!(base(&path).as_deref(), Some(base_path));
        assert_eq!(number(base_path, "load-0007-20261126T115600Z.swio"), Some(7));
        assert_eq!(number(base_path, "load-12345-20261126T115600Z.swio"), Some(12_345));
        for other in [
            "load.swio",
            "load-0007.swio",
            "load-1-20261126T115600Z.swio",
            "load-0007-x.swio",
            "lo-0007-20261126T115600Z.swio",
        ] {
            assert_eq!(number(base_path, other), None, "{other}");
        }
        assert_eq!(name(Path::new("plain"), 1, 951_782_400), Path::new("plain-0001-20000229T000000Z"));
    }

    #[test]
    fn only_dumps_of_the_same_recorder_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("load.swio");
        let made: Vec<_> = (1..=3).map(|number| name(&base, number, 1_795_694_160 + u64::from(number))).collect();
        let other = name(&folder.path().join("other.swio"), 1, 1_795_694_160);
        for path in made.iter().chain([&other]) {
            let meta = trace::Meta::new();
            trace::Writer::create(path, meta.clone()).unwrap().close(meta).unwrap();
        }
        // Named like one, but somebody's folder.
        let foreign = folder.path().join("load-0000-20000229T000000Z.swio");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("letter"), "x").unwrap();
        assert_eq!(next_number(&base), 4);
        clear(&made[2], &Keep { count: 2, bytes: u64::MAX, age: Duration::MAX });
        let there: Vec<_> = made.iter().chain([&other, &foreign]).map(|path| path.exists()).collect();
        assert_eq!(there, [false, true, true, true, true]);
    }
}
