//! What the programs are asked to do. Like the [`Layout`](crate::Layout) it travels as globals of the object, so that
//! what is switched off is dead code to the verifier and costs nothing.

/// No kernel stacks.
pub const STACKS_NONE: u32 = 0;
/// Stacks of refused mappings.
pub const STACKS_FAILURES: u32 = 1;
/// Stacks of all mappings and slot allocations.
pub const STACKS_ALL: u32 = 2;

/// Everything is kept.
pub const ONLY_ALL: u32 = 0;
/// What the bounce allocator does, and refused mappings.
pub const ONLY_BOUNCES: u32 = 1;
/// What was refused.
pub const ONLY_FAILURES: u32 = 2;

/// A bit for each `enum dma_data_direction`.
pub const ALL_DIRECTIONS: u32 = 0xf;

/// Bit of [`Settings::names`]: devices are chosen by name.
pub const BY_DEVICE: u32 = 1;
/// Bit of [`Settings::names`]: devices are chosen by driver.
pub const BY_DRIVER: u32 = 2;

/// The object's global `SETTINGS`, overridden before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Settings {
    /// Events of fewer bytes are left out.
    pub min_size: u64,
    /// Directions kept, a bit each.
    pub directions: u32,
    /// One of `ONLY_*`.
    pub only: u32,
    /// One of `STACKS_*`.
    pub stacks: u32,
    /// 1: sums in maps instead of records in the ring buffer.
    pub aggregate: u32,
    /// `BY_*`: which of [`Globs`] are to be asked.
    pub names: u32,
    /// 1: copies of all programs are attached, to tell of hits that the kernel skips; 0: of that for releases only.
    pub copies: u32,
    /// How many devices can have sums.
    pub devices: u32,
    /// Keeps the structure free of implicit padding.
    pub reserved: u32,
}

impl Settings {
    /// Every event, with stacks of failures.
    pub const FULL: Self = Self {
        min_size: 0,
        directions: ALL_DIRECTIONS,
        only: ONLY_ALL,
        stacks: STACKS_FAILURES,
        aggregate: 0,
        names: 0,
        copies: 0,
        devices: 0,
        reserved: 0,
    };
}

/// Patterns as an automaton: which bits of the state a byte leads on from. All patterns run at once, side by side in
/// the bits of one number, so that matching a name takes the same few steps a byte and no going back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Glob {
    /// For each byte, the states whose next element it fits.
    pub fits: [u64; 256],
    /// States before anything was read.
    pub starts: u64,
    /// States that any byte keeps alive: those before a `*`.
    pub stays: u64,
    /// States in which a pattern is through.
    pub ends: u64,
}

impl Glob {
    /// No pattern.
    pub const EMPTY: Self = Self { fits: [0; 256], starts: 0, stays: 0, ends: 0 };

    /// The state after a byte that `fits` belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn next(state: u64, fits: u64, stays: u64) -> u64 {
        // A pattern's last state fits nothing, so nothing is shifted into its neighbour.
        (state & fits) << 1 | state & stays
    }
}

/// The object's global `GLOBS`, overridden before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Globs {
    /// For names of devices.
    pub device: Glob,
    /// For names of drivers.
    pub driver: Glob,
}

impl Globs {
    /// No patterns.
    pub const EMPTY: Self = Self { device: Glob::EMPTY, driver: Glob::EMPTY };
}
