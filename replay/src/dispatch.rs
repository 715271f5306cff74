//! Which of `rfc64`'s two pools a request goes to, and what-ifs about that (SPEC 9, 11).

trace::words! {
    /// Where the requests of a pool that cannot serve them go; a what-if, in no kernel (SPEC 11).
    pub enum Fallback {
        /// Nowhere, as in the RFC.
        None = "none",
        /// From the 64-bit pool to the low one.
        HiLo = "hi-lo",
        /// From the low pool to the 64-bit one, if the device reaches that.
        LoHi = "lo-hi",
        /// Either way.
        Both = "both",
    }
}

/// Which of `rfc64`'s two pools a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Devices that reach this address go to the 64-bit pool. In the RFC only all 64 bits will do (SPEC 9).
    pub hi_threshold: u64,
    /// Where requests go that are refused there.
    pub fallback: Fallback,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self { hi_threshold: u64::MAX, fallback: Fallback::None }
    }
}
