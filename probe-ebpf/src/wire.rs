//! The records the programs write into the ring buffer: fixed sizes, no padding, the kind in the first byte.
//!
//! ```text
//!      0    1    2         4                   8
//!     ┌────┬────┬─────────┬───────────────────┐
//!   0 │kind│dir │ cpu     │ tid               │
//!   8 │ time_ns                               │
//!  16 │ device                                │
//!  24 │ orig_addr                             │  an Event: 72 bytes
//!  32 │ target (dma_addr, or tlb_addr)        │
//!  40 │ size                                  │
//!  48 │ attrs             │ align_mask        │
//!  56 │ sg_index│ has     │ more              │
//!  64 │ latency_ns        │ stack             │
//!     └─────────┴─────────┴───────────────────┘
//! ```
//!
//! The kinds are the version: a record whose meaning changes gets a new kind, and an unknown kind is counted, not
//! guessed. Both halves are built from this file together, so no older object can be met.

/// What an [`Event`] tells; [`kind::DEVICE`] marks a [`Device`] and [`kind::TASK`] a [`Task`] instead.
pub mod kind {
    /// A device's limits, before its first event and whenever they changed.
    pub const DEVICE: u8 = 1;
    /// A streaming mapping was made, or refused when `target` is all ones.
    pub const MAP: u8 = 2;
    /// A streaming mapping was refused.
    pub const MAP_FAILED: u8 = 3;
    /// A streaming mapping was undone.
    pub const UNMAP: u8 = 4;
    /// A mapping was handed to the CPU.
    pub const SYNC_FOR_CPU: u8 = 5;
    /// A mapping was handed to the device.
    pub const SYNC_FOR_DEVICE: u8 = 6;
    /// A coherent buffer was allocated.
    pub const ALLOC: u8 = 7;
    /// A coherent buffer was freed.
    pub const FREE: u8 = 8;
    /// Slots were taken, or refused when `target` is all ones.
    pub const SLOT_ALLOC: u8 = 9;
    /// Slots are about to be given back.
    pub const SLOT_FREE: u8 = 10;
    /// The kernel is about to bounce.
    pub const BOUNCE: u8 = 11;
    /// `size` records were lost on this CPU between `orig_addr` (a time) and `time_ns`.
    pub const LOST: u8 = 12;
    /// A pool was made: `target` is its start, `size` its bytes, `more` its areas; `device` whose it alone is, 0 of one for all.
    pub const POOL_ADDED: u8 = 14;
    /// A thread, before its first event and whenever its name has changed; marks a [`Task`](super::Task).
    pub const TASK: u8 = 13;
}

/// A kind in the first byte of a word, where an [`Event`] has it.
#[inline(always)]
#[must_use]
pub const fn marked(kind: u8) -> u64 {
    (kind as u64).to_le()
}

/// Bits of [`Event::has`]: which of the fields that an event of this kind may lack are there.
pub mod has {
    /// `orig_addr` is known.
    pub const ORIG: u16 = 1;
    /// `target` is known.
    pub const TARGET: u16 = 2;
    /// The event is one element of a scatterlist.
    pub const SG: u16 = 4;
    /// `latency_ns` is known.
    pub const LATENCY: u16 = 8;
    /// `stack` is known.
    pub const STACK: u16 = 16;
    /// `more` is known, of refused slots.
    pub const USED: u16 = 32;
}

/// Longest scatterlist that is walked; of longer ones the rest is counted in [`Event::more`].
pub const SG_MAX: u32 = 256;
/// The same where the kernel's verifier has to go through every step.
pub const SG_BOUNDED: u32 = 128;

/// Something happened to a mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Event {
    /// One of [`kind`].
    pub kind: u8,
    /// `enum dma_data_direction`.
    pub direction: u8,
    /// CPU the program ran on.
    pub cpu: u16,
    /// Thread that was running.
    pub tid: u32,
    /// CLOCK_MONOTONIC, ns.
    pub time_ns: u64,
    /// Address of the `struct device`, or what stands for it; see [`Device::device`].
    pub device: u64,
    /// CPU-physical address of the caller's buffer.
    pub orig_addr: u64,
    /// DMA address; of slot events the CPU-physical address in the pool.
    pub target: u64,
    /// Bytes.
    pub size: u64,
    /// DMA_ATTR_* bits.
    pub attrs: u32,
    /// alloc_align_mask of a slot allocation.
    pub align_mask: u32,
    /// Position in the scatterlist.
    pub sg_index: u16,
    /// Bits of [`has`].
    pub has: u16,
    /// Of a scatterlist's first record, its elements that were not walked; of refused slots, those in use then, when
    /// [`has::USED`]; of a pool, its areas.
    pub more: u32,
    /// How long the call took, where both its ends are seen, of a scatterlist with its first record; all ones when longer than
    /// fits.
    pub latency_ns: u32,
    /// Key of the kernel stack in the map `STACKS`.
    pub stack: u32,
}

impl Event {
    /// Notes how long the call took that began and ended then.
    #[inline(always)]
    #[must_use]
    pub fn took(self, ended_ns: u64, began_ns: u64) -> Self {
        let took = ended_ns.wrapping_sub(began_ns);
        let latency_ns = if took < u64::from(u32::MAX) { took as u32 } else { u32::MAX };
        Self { latency_ns, has: self.has | has::LATENCY, ..self }
    }
}

/// The limits the DMA code knows of a device. Compared bytewise to see whether they changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Limits {
    /// Address of the name: a new one means that the memory now belongs to another device.
    pub name: u64,
    /// Streaming mask; 0 when the device has none.
    pub dma_mask: u64,
    /// Coherent mask.
    pub coherent_dma_mask: u64,
    /// Bus limit, 0 when none.
    pub bus_dma_limit: u64,
    /// Segment boundary mask, 0 when none was set.
    pub seg_boundary_mask: u64,
    /// Longest segment, 0 when none was set.
    pub max_segment_size: u32,
    /// Low bits to be kept.
    pub min_align_mask: u32,
}

/// Bytes kept of a device's name.
pub const NAME_BYTES: usize = 64;
/// Bytes kept of a driver's name.
pub const DRIVER_BYTES: usize = 32;

/// Set in what stands for a device that is not known by its address: no address of a `struct device` is odd.
pub const BY_NAME: u64 = 1;

/// A device without sums.
pub const NO_NUMBER: u64 = 0xffff;

/// A device is introduced, or its limits have changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Device {
    /// Always [`kind::DEVICE`], as [`marked`].
    pub kind: u64,
    /// CLOCK_MONOTONIC, ns.
    pub time_ns: u64,
    /// Address of the `struct device`; with [`BY_NAME`] a hash of its name, where that is all the kernel tells of it.
    pub device: u64,
    /// Its limits.
    pub limits: Limits,
    /// Its number among those that have sums; [`NO_NUMBER`] of all others.
    pub number: u64,
    /// Its name, NUL-terminated.
    pub name: [u8; NAME_BYTES],
    /// Its driver's name, NUL-terminated; empty when it has none.
    pub driver: [u8; DRIVER_BYTES],
}

/// Bytes of a thread's name, as the kernel keeps it.
pub const COMM_BYTES: usize = 16;

/// A thread is introduced, or its name has changed. Events name it by `tid` alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Task {
    /// Always [`kind::TASK`], as [`marked`].
    pub kind: u64,
    /// CLOCK_MONOTONIC, ns.
    pub time_ns: u64,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// Its name, NUL-terminated.
    pub comm: [u8; COMM_BYTES],
}

/// What became of one CPU's records (the map `LOSSES`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CpuLoss {
    /// Records lost since loading.
    pub lost: u64,
    /// How many of them were told by a [`kind::LOST`] record.
    pub reported: u64,
    /// When the first unreported one was lost, ns.
    pub since_ns: u64,
    /// When the last one was lost, ns.
    pub last_ns: u64,
    /// Events there were to tell of, the lost ones and those left out included.
    pub seen: u64,
    /// Events that a filter left out; a list of a device that is left out counts as one.
    pub filtered: u64,
    /// Stacks that found no place.
    pub stacks_missed: u64,
    /// Hits that the kernel skipped a program for and whose copy told of them.
    pub recovered: u64,
    /// Calls of which a kprobe pair saw one end and not the other.
    pub unpaired: u64,
}

const _: () = assert!(size_of::<Event>() == 72 && size_of::<Limits>() == 48 && size_of::<Device>() == 176);
const _: () = assert!(size_of::<Task>() == 40);
