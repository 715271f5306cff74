//! Kernel memory, read through /proc/kcore.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Why kernel memory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KcoreError {
    /// The file cannot be opened.
    #[error(
        "cannot open /proc/kcore: {0} (needs root, a kernel with CONFIG_PROC_KCORE and no lockdown in confidentiality mode)"
    )]
    Open(#[source] io::Error),
    /// The file is not a 64-bit ELF core.
    #[error("/proc/kcore is not a 64-bit ELF file of this machine's byte order")]
    Format,
    /// The address lies in none of its segments.
    #[error("kernel address {0:#x} is in no segment of /proc/kcore")]
    Unmapped(u64),
    /// The segment could not be read.
    #[error("cannot read {len} bytes of kernel memory at {address:#x}: {source}")]
    Read {
        /// Where.
        address: u64,
        /// How much.
        len: usize,
        /// Why not.
        source: io::Error,
    },
}

/// The kind of program header that tells of memory.
const PT_LOAD: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    len: u64,
    offset: u64,
}

/// Kernel memory by virtual address.
#[derive(Debug)]
pub struct Kcore {
    file: File,
    segments: Vec<Segment>,
}

impl Kcore {
    /// Opens /proc/kcore.
    ///
    /// # Errors
    /// See [`KcoreError`].
    pub fn open() -> Result<Self, KcoreError> {
        let file = File::open("/proc/kcore").map_err(KcoreError::Open)?;
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0).map_err(KcoreError::Open)?;
        let order = if cfg!(target_endian = "big") { 2 } else { 1 };
        if head[..6] != [0x7f, b'E', b'L', b'F', 2, order] {
            return Err(KcoreError::Format);
        }
        let table = word(&head, 32);
        let size = u64::from(u16::from_ne_bytes([head[54], head[55]]));
        let count = u64::from(u16::from_ne_bytes([head[56], head[57]]));
        let mut segments = Vec::new();
        for index in 0..count {
            let mut entry = [0; 56];
            file.read_exact_at(&mut entry, table + index * size).map_err(KcoreError::Open)?;
            if entry[..4] == PT_LOAD.to_ne_bytes() {
                let [offset, address, len] = [word(&entry, 8), word(&entry, 16), word(&entry, 32)];
                segments.push(Segment { address, len, offset });
            }
        }
        Ok(Self { file, segments })
    }

    /// A file in the place of kernel memory.
    #[cfg(test)]
    pub(crate) fn over(file: File, address: u64, len: u64) -> Self {
        Self { file, segments: vec![Segment { address, len, offset: 0 }] }
    }

    /// Fills `buffer` from the kernel's memory at `address`.
    ///
    /// # Errors
    /// See [`KcoreError`].
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), KcoreError> {
        let len = buffer.len() as u64;
        let holds = |s: &&Segment| address.checked_sub(s.address).is_some_and(|at| at + len <= s.len);
        let segment = self.segments.iter().find(holds).ok_or(KcoreError::Unmapped(address))?;
        self.file
            .read_exact_at(buffer, segment.offset + (address - segment.address))
            .map_err(|source| KcoreError::Read { address, len: buffer.len(), source })
    }

    /// Reads a name, up to its NUL or 64 bytes.
    ///
    /// # Errors
    /// See [`KcoreError`].
    pub fn text(&self, address: u64) -> Result<String, KcoreError> {
        let mut bytes = Vec::new();
        while bytes.len() < 64 {
            let mut byte = [0];
            self.read(address + bytes.len() as u64, &mut byte)?;
            if byte[0] == 0 {
                break;
            }
            bytes.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a 64-bit word.
    ///
    /// # Errors
    /// See [`KcoreError`].
    pub fn u64(&self, address: u64) -> Result<u64, KcoreError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Reads a 32-bit number, as a wide one.
    ///
    /// # Errors
    /// See [`KcoreError`].
    pub fn u32(&self, address: u64) -> Result<u64, KcoreError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u64::from(u32::from_ne_bytes(bytes)))
    }

    /// Reads a `bool`.
    ///
    /// # Errors
    /// See [`KcoreError`].
    pub fn flag(&self, address: u64) -> Result<bool, KcoreError> {
        let mut byte = [0];
        self.read(address, &mut byte)?;
        Ok(byte != [0])
    }
}

/// The word at `at`; zero beyond the end.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let array = bytes.get(at..at + 8).and_then(|b| <[u8; 8]>::try_from(b).ok());
    u64::from_ne_bytes(array.unwrap_or_default())
}
