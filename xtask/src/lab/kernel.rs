//! The kernels the lab can boot, and what a fetched one consists of.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// A Debian kernel the lab boots. Exact releases are looked up in the archive when fetched, never pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Debian 11: no areas, no `dma:*` tracepoints.
    V5_10,
    /// Debian 12: areas, `swiotlb_tbl_map_single` with seven arguments, no `dma:*` tracepoints.
    V6_1,
    /// Debian 12's and 13's newer kernel: `dma:*` tracepoints, high-water marks. The lab's default.
    V6_12,
    /// Debian sid: the newest of the 7 series (7.2 when this was written), `dma_map_phys`.
    V7_2,
}

impl Kernel {
    /// All of them, oldest first.
    pub const ALL: [Kernel; 4] = [Kernel::V5_10, Kernel::V6_1, Kernel::V6_12, Kernel::V7_2];

    /// The name used on the command line and for the folder in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::V5_10 => "5.10",
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
            Kernel::V7_2 => "7.2",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Kernel::ALL
            .into_iter()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| format!("the lab has the kernels {}", Kernel::ALL.map(Kernel::name).join(", ")))
    }
}

/// A kernel unpacked in the cache.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its folder, which has `vmlinux`, `release` and `lib/modules/RELEASE`.
    pub dir: PathBuf,
    /// What `uname -r` says.
    pub release: String,
}

impl Image {
    /// The image unpacked in `dir`, if it is complete.
    pub fn open(dir: &Path) -> Option<Image> {
        let release = fs::read_to_string(dir.join("release")).ok()?.trim().to_owned();
        let image = Image { dir: dir.to_owned(), release };
        (image.vmlinux().is_file() && image.modules().join("modules.dep").is_file()).then_some(image)
    }

    /// The kernel proper, an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The folder of its modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }
}

/// Takes the ELF kernel out of a bzImage, by the header the x86 boot protocol documents. Under emulation this saves
/// the guest six to eight seconds of decompressing itself; Xen takes it as well.
pub(super) fn extract_vmlinux(vmlinuz: &Path, vmlinux: &Path) -> Result<()> {
    let image = fs::read(vmlinuz).with_context(|| format!("cannot read {}", vmlinuz.display()))?;
    let field = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        Ok(u32::from_le_bytes(bytes.with_context(|| format!("{} ends in its header", vmlinuz.display()))?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "{} is not a bzImage", vmlinuz.display());
    let setup_sectors = match image[0x1f1] {
        0 => 4, // what the protocol says zero stands for
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + field(0x248)?;
    let payload = image
        .get(start..start + field(0x24c)?)
        .with_context(|| format!("{} is shorter than its header says", vmlinuz.display()))?;
    let packed = vmlinux.with_extension("packed");
    fs::write(&packed, payload)?;
    let unpacked = unpack(&packed, vmlinux);
    fs::remove_file(&packed)?;
    unpacked
}

/// Unpacks a gzip, xz or zstd file, told apart by their first bytes, with the tool of that name; copies anything else.
pub(super) fn unpack(from: &Path, to: &Path) -> Result<()> {
    let mut magic = [0; 6];
    let got = std::io::Read::read(&mut fs::File::open(from)?, &mut magic)?;
    let tool = match &magic[..got] {
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => {
            fs::copy(from, to)?;
            return Ok(());
        }
    };
    let unpacked = std::process::Command::new(process::require(tool)?)
        .arg("-dcq")
        .arg(from)
        .stdout(fs::File::create(to)?)
        .output()
        .with_context(|| format!("cannot run {tool}"))?;
    // The kernel appends its size to the packed stream: gzip (2) and zstd (1) grumble about it after all is unpacked.
    if !unpacked.status.success() && !fs::read(to)?.starts_with(b"\x7fELF") {
        bail!("{tool} cannot unpack {}: {}", from.display(), String::from_utf8_lossy(&unpacked.stderr).trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert_eq!("6.13".parse::<Kernel>(), Err("the lab has the kernels 5.10, 6.1, 6.12, 7.2".to_owned()));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vmlinuz");
        fs::write(&file, [0; 0x300]).unwrap();
        let error = extract_vmlinux(&file, &dir.path().join("vmlinux")).unwrap_err();
        assert!(error.to_string().ends_with("is not a bzImage"), "{error}");
    }

    #[test]
    fn a_half_fetched_kernel_is_not_an_image() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("release"), "6.12.0\n").unwrap();
        assert!(Image::open(dir.path()).is_none());
    }
}
