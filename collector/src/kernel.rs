//! Everything that is known of the running kernel before a program is loaded; shared by `doctor` and the recorder.

use trace::Pool;
use trace::meta::{AllocatorTypes, Host, Xen};

use crate::backends::Types;
use crate::btf::{Btf, BtfError, Kind};
use crate::globals::Globals;
use crate::host;
use crate::kcore::{Kcore, KcoreError};
use crate::layout;
use crate::pools::{self, Place, PoolError, PoolLayout, Snapshot};
use crate::symbols::Symbols;
use crate::tracefs;

/// The running kernel.
pub struct Kernel {
    /// Host name, release, command line, CPUs, memory.
    pub host: Host,
    /// Xen, when under it.
    pub xen: Option<Xen>,
    /// Its types.
    pub btf: Result<Btf, BtfError>,
    /// Addresses of the symbols needed.
    pub symbols: Symbols,
    /// Its memory.
    pub memory: Result<Kcore, KcoreError>,
    /// What the probe is told.
    pub layout: probe::Layout,
    /// What BTF and symbols lack, a line each.
    pub missing: Vec<String>,
}

impl Kernel {
    /// Looks around.
    #[must_use]
    pub fn discover() -> Self {
        let (btf, symbols) = (Btf::kernel(), Symbols::read());
        let (mut layout, missing) = match &btf {
            Ok(btf) => layout::discover(btf, &symbols),
            Err(_) => (probe::Layout::EMPTY, Vec::new()),
        };
        tracefs::discover(&mut layout);
        Self { host: host::host(), xen: host::xen(), btf, symbols, memory: Kcore::open(), layout, missing }
    }

    /// What hooks are judged by; `kernel` is its BTF as aya reads it.
    #[must_use]
    pub fn types<'a>(&'a self, kernel: Option<&'a aya::Btf>) -> Types<'a> {
        Types { btf: self.btf.as_ref().map_err(|_| "it takes BTF".to_owned()), kernel, layout: &self.layout }
    }

    /// What its types tell of the bounce allocator (SPEC 1, end); nothing without BTF.
    #[must_use]
    pub fn allocator(&self) -> Option<AllocatorTypes> {
        let btf = self.btf.as_ref().ok()?;
        let has = |structure: &str, member: &str| btf.offset_of(structure, member).is_some();
        Some(AllocatorTypes {
            parameters: btf.parameters("swiotlb_tbl_map_single").map_or(0, |list| list.len() as u32),
            min_align_mask: has("device_dma_parameters", "min_align_mask"),
            device_pools: has("device", "dma_io_tlb_mem"),
            areas: btf.has(Kind::Struct, "io_tlb_area"),
            pools: btf.has(Kind::Struct, "io_tlb_pool"),
            pad_slots: has("io_tlb_slot", "pad_slots"),
        })
    }

    /// Where the pool's members are.
    ///
    /// # Errors
    /// As [`PoolLayout::discover`]; no BTF counts as an unknown structure.
    pub fn pool_layout(&self) -> Result<PoolLayout, PoolError> {
        let btf = self.btf.as_ref().map_err(|_| PoolError::Layout { structure: "io_tlb_mem", member: "BTF" })?;
        PoolLayout::discover(btf)
    }

    /// Where the default pool is, and the memory to read it from.
    fn place(&self) -> Result<(&Kcore, Place), String> {
        let memory = self.memory.as_ref().map_err(ToString::to_string)?;
        let place = match self.symbols.address("io_tlb_default_mem") {
            Some(address) => {
                let layout = self.pool_layout().map_err(|e| e.to_string())?;
                let devices = self.btf.as_ref().ok().and_then(|btf| pools::Devices::discover(btf, &self.symbols));
                Place::Object { layout, address, devices }
            }
            None => Place::Globals(Globals::discover(&self.symbols).ok_or_else(|| PoolError::NoSymbol.to_string())?),
        };
        Ok((memory, place))
    }

    /// The default pool as it is now, without its slots.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    pub fn pool(&self) -> Result<Option<Pool>, String> {
        let (memory, place) = self.place()?;
        place.pool(memory).map_err(|e| e.to_string())
    }

    /// All pools as they are now, without their slots.
    ///
    /// # Errors
    /// Why they cannot be read, for people.
    pub fn pools(&self) -> Result<Vec<Pool>, String> {
        let (memory, place) = self.place()?;
        place.all(memory).map_err(|e| e.to_string())
    }

    /// The pools and their slots in use.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    pub fn snapshot(&self) -> Result<Snapshot, String> {
        let (memory, place) = self.place()?;
        pools::snapshot(&place, memory).map_err(|e| e.to_string())
    }

    /// What debugfs and the kernel log tell of the pool: geometry only.
    #[must_use]
    pub fn pool_from_log(&self) -> Option<Pool> {
        let log = kernel_log();
        let nslabs = slots_by_debugfs();
        // "software IO TLB: area num 4."
        let nareas =
            log.lines().rev().find_map(|l| l.split_once("IO TLB: area num ")?.1.trim_end_matches('.').parse().ok());
        pools::from_log(&log, &self.host.cmdline, nslabs, nareas.unwrap_or(1))
    }
}

/// How many slots debugfs says that there are; nothing when it cannot be read.
pub(crate) fn slots_by_debugfs() -> Option<u64> {
    host::line("/sys/kernel/debug/swiotlb/io_tlb_nslabs").and_then(|slots| slots.parse().ok())
}

/// The kernel's log; empty when it may not be read.
fn kernel_log() -> String {
    const READ_ALL: libc::c_int = 3;
    let mut buffer = vec![0u8; 1 << 20];
    let room = libc::c_int::try_from(buffer.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel writes at most `room` bytes to the buffer.
    let read = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), room) };
    buffer.truncate(usize::try_from(read).unwrap_or(0));
    String::from_utf8_lossy(&buffer).into_owned()
}

/// A clock's time in nanoseconds.
pub(crate) fn clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is good for the call; these clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
