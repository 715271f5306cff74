//! Patterns for names of devices and drivers, as the automaton the probe runs.

use probe::settings::Glob;

/// Why patterns cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing would fit.
    #[error("an empty pattern fits no name")]
    Empty,
    /// A set without its end.
    #[error("`{pattern}` has a `[` without its `]`")]
    Unclosed {
        /// The pattern.
        pattern: String,
    },
    /// Too many states.
    #[error(
        "the patterns are too long: together they may have 63 characters, `*` and one for each pattern not counted in"
    )]
    TooLong,
}

/// Makes one automaton of patterns, any of which may fit: `*` stands for any characters, `?` for one, `[a-f]` for one of a
/// set, `[!a-f]` for one outside it.
///
/// # Errors
/// See [`GlobError`].
pub fn compile<S: AsRef<str>>(patterns: &[S]) -> Result<Glob, GlobError> {
    let mut glob = Glob::EMPTY;
    let mut state = 0;
    for pattern in patterns {
        let pattern = pattern.as_ref();
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        let bit = |state: u32| 1_u64.checked_shl(state).ok_or(GlobError::TooLong);
        glob.starts |= bit(state)?;
        let mut rest = pattern.bytes();
        while let Some(byte) = rest.next() {
            let set = match byte {
                b'*' => {
                    glob.stays |= bit(state)?;
                    continue;
                }
                b'?' => [true; 256],
                b'[' => set(&mut rest).ok_or_else(|| GlobError::Unclosed { pattern: pattern.to_owned() })?,
                byte => one_of(&[byte]),
            };
            for (fits, _) in glob.fits.iter_mut().zip(set).filter(|(_, inside)| *inside) {
                *fits |= bit(state)?;
            }
            state += 1;
        }
        glob.ends |= bit(state)?;
        state += 1;
    }
    Ok(glob)
}

fn one_of(bytes: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    bytes.iter().for_each(|byte| set[usize::from(*byte)] = true);
    set
}

/// What stands behind a `[`, up to its `]`.
fn set(rest: &mut impl Iterator<Item = u8>) -> Option<[bool; 256]> {
    let mut inside = Vec::new();
    loop {
        match rest.next()? {
            b']' if !inside.is_empty() => break,
            byte => inside.push(byte),
        }
    }
    let (outside, mut bytes) = match inside.as_slice() {
        [b'!', bytes @ ..] if !bytes.is_empty() => (true, bytes),
        bytes => (false, bytes),
    };
    let mut set = [false; 256];
    while let [first, rest @ ..] = bytes {
        let (last, after) = match rest {
            [b'-', last, after @ ..] => (last, after),
            _ => (first, rest),
        };
        (*first..=*last).for_each(|byte| set[usize::from(byte)] = true);
        bytes = after;
    }
    Some(set.map(|found| found != outside))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the probe does with a name.
    fn fits(patterns: &[&str], name: &str) -> bool {
        let glob = compile(patterns).unwrap();
        let last = name.bytes().fold(glob.starts, |s, b| Glob::next(s, glob.fits[usize::from(b)], glob.stays));
        last & glob.ends != 0
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fit) in [
            ("nvme", "nvme", true),
            ("nvme", "nvme0", false),
            ("nvme", "nvm", false),
            ("*", "", true),
            ("*", "anything", true),
            ("0000:00:0?.0", "0000:00:04.0", true),
            ("0000:*.1", "0000:00:04.1", true),
            ("0000:*.1", "0000:00:04.0", false),
            ("*a*b", "xaab", true),
            ("*a*b", "xbba", false),
            ("[0-3]x", "2x", true),
            ("[!0-3]x", "2x", false),
            ("[]a]", "]", true),
            ("a-z", "a-z", true),
        ] {
            assert_eq!(fits(&[pattern], name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn several_patterns_do_not_run_into_each_other() {
        let patterns = ["ab", "*c", "0000:00:02.0"];
        for (name, fit) in
            [("ab", true), ("xc", true), ("0000:00:02.0", true), ("abc", true), ("abx", false), ("b", false)]
        {
            assert_eq!(fits(&patterns, name), fit, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_a_pattern_is_said() {
        assert_eq!(compile(&[""]), Err(GlobError::Empty));
        assert_eq!(compile(&["a["]), Err(GlobError::Unclosed { pattern: "a[".to_owned() }));
        assert_eq!(compile(&["x".repeat(64)]), Err(GlobError::TooLong));
        assert!(compile(&["x".repeat(63)]).is_ok());
        assert_eq!(compile(&["x".repeat(40), "x".repeat(40)]), Err(GlobError::TooLong));
    }
}
