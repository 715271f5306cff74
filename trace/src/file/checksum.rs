//! Checksums over a Parquet file.
//!
//! Parquet's pages and footer have none by default, so a changed byte can read as another number, or send a reader
//! astray. Ours stands in the footer's key-value metadata, where other programs pass over it:
//!
//! ```text
//! swioscope.checksum = crc32:DDDDDDDD:FFFFFFFF:LENGTH
//! ```
//!
//! D is the CRC-32 (hex) of the first LENGTH bytes, the data; F that of all bytes behind them, the footer, computed
//! with eight zeros in the place of F itself. A table rewritten by another program has no checksum and is not checked.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crc32fast::Hasher;

/// Key of the checksum in the footer's metadata.
pub(super) const KEY: &str = "swioscope.checksum";
/// What the checksum begins with.
const MARK: &[u8] = b"crc32:";
/// Where F is, counted from the end of the mark.
const FOOTER_DIGITS: std::ops::Range<usize> = 9..17;

/// The file being written: passes data on and sums it up, keeps the footer back until its own checksum is known.
pub(super) struct Checksummed<W> {
    out: W,
    data: Data,
    footer: Option<Vec<u8>>,
}

/// The data part of a file: its checksum and its length.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    crc: Hasher,
    bytes: u64,
}

impl<W: Write> Checksummed<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, data: Data::default(), footer: None }
    }

    /// The data is complete: returns the checksum to put into the footer, which comes next.
    pub(super) fn begin_footer(&mut self) -> String {
        self.footer = Some(Vec::new());
        self.data.to_string()
    }

    /// The footer is complete: writes it with its checksum.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let mut footer = self.footer.take().unwrap_or_default();
        if let Some(at) = footer_digits(&footer) {
            let crc = format!("{:08x}", crc32fast::hash(&footer));
            footer[at..at + crc.len()].copy_from_slice(crc.as_bytes());
        }
        self.out.write_all(&footer)?;
        self.out.flush()
    }
}

impl<W: Write> Write for Checksummed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(footer) = &mut self.footer {
            footer.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let written = self.out.write(bytes)?;
        self.data.crc.update(&bytes[..written]);
        self.data.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crc32:{:08x}:00000000:{}", self.crc.clone().finalize(), self.bytes)
    }
}

/// Where in a footer its own checksum stands.
fn footer_digits(footer: &[u8]) -> Option<usize> {
    let key = footer.windows(KEY.len()).rposition(|w| w == KEY.as_bytes())?;
    let mark = footer[key..].windows(MARK.len()).position(|w| w == MARK)?;
    let at = key + mark + MARK.len() + FOOTER_DIGITS.start;
    footer.get(at..at + FOOTER_DIGITS.len()).map(|_| at)
}

/// What the footer of a file says about its checksum.
pub(super) enum Footer {
    /// It has none.
    Unknown,
    /// It is whole; this is what the data should come to.
    Whole(String),
    /// It was changed.
    Damaged,
}

/// Checks the footer of a file, which has to happen before anything in it is believed.
pub(super) fn check_footer(mut file: &File) -> io::Result<Footer> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(tail) = length.checked_sub(8) else { return Ok(Footer::Unknown) };
    file.seek(SeekFrom::Start(tail))?;
    let mut size = [0; 4];
    file.read_exact(&mut size)?;
    let Some(start) = tail.checked_sub(u64::from(u32::from_le_bytes(size))) else { return Ok(Footer::Unknown) };
    file.seek(SeekFrom::Start(start))?;
    let mut footer = Vec::new();
    file.read_to_end(&mut footer)?;
    let Some(at) = footer_digits(&footer) else { return Ok(Footer::Unknown) };
    let stated = footer[at..at + FOOTER_DIGITS.len()].to_vec();
    footer[at..at + FOOTER_DIGITS.len()].fill(b'0');
    if format!("{:08x}", crc32fast::hash(&footer)).as_bytes() != stated {
        return Ok(Footer::Damaged);
    }
    // From the mark to the end of the length's digits: what `Data` would print.
    let begin = at - FOOTER_DIGITS.start - MARK.len();
    let is_part = |&&b: &&u8| b == b':' || b.is_ascii_digit();
    let rest = footer[at..].iter().take_while(is_part).count();
    Ok(Footer::Whole(String::from_utf8_lossy(&footer[begin..at + rest]).into_owned()))
}

/// Whether the data of a file comes to what its footer says.
pub(super) fn data_is_whole(mut file: &File, stated: &str) -> io::Result<bool> {
    let Some(length) = stated.rsplit(':').next().and_then(|digits| digits.parse().ok()) else { return Ok(false) };
    file.seek(SeekFrom::Start(0))?;
    let mut sum = Checksummed::new(io::sink());
    io::copy(&mut file.take(length), &mut sum)?;
    Ok(sum.data.to_string() == stated)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `check_footer` makes of a file of these bytes.
    fn check(bytes: &[u8]) -> Footer {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check_footer(&file).unwrap()
    }

    /// A file as it is written, with text in the place of Parquet's structures.
    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Checksummed::new(&mut bytes);
        out.write_all(b"PAR1data").unwrap();
        let sum = out.begin_footer();
        let footer = format!("schema {KEY}=={sum};");
        let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
        out.write_all(&[footer.as_bytes(), &length, b"PAR1"].concat()).unwrap();
        out.finish().unwrap();
        bytes
    }

    #[test]
    fn data_and_footer_are_told_apart() {
        let whole = written();
        let Footer::Whole(stated) = check(&whole) else { panic!("not whole") };
        for (at, fits) in [(0, false), (7, false), (8, true)] {
            let mut file = tempfile::tempfile().unwrap();
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            file.write_all(&bytes).unwrap();
            assert_eq!(data_is_whole(&file, &stated).unwrap(), fits, "byte {at}");
            assert_eq!(matches!(check(&bytes), Footer::Whole(_)), !fits, "byte {at}");
        }
    }

    #[test]
    fn a_footer_cut_anywhere_is_never_whole() {
        let whole = written();
        for cut in 8..whole.len() - 8 {
            // The same tail behind fewer bytes: lengths and digits end where they should not.
            let length = u32::try_from(cut - 8).unwrap().to_le_bytes();
            let bytes = [&whole[..cut], &length, b"PAR1"].concat();
            assert!(!matches!(check(&bytes), Footer::Whole(_)), "cut at {cut}");
        }
        assert!(matches!(check(b""), Footer::Unknown));
        assert!(matches!(check(b"\xff\xff\xff\xffPAR1"), Footer::Unknown));
    }
}
