//! What is left out: by device, when that is introduced, and by what an event says itself.

use core::ptr;

use aya_ebpf::Global;
use probe::{
    Settings,
    settings::{ALL_DIRECTIONS, BY_DEVICE, BY_DRIVER, Glob, Globs, ONLY_ALL, ONLY_BOUNCES},
    wire::{DRIVER_BYTES, Device, Event, NAME_BYTES, has, kind},
};

/// Overridden by user space before loading.
#[unsafe(no_mangle)]
pub static SETTINGS: Global<Settings> = Global::new(Settings::FULL);

/// Overridden by user space before loading.
#[unsafe(no_mangle)]
static GLOBS: Global<Globs> = Global::new(Globs::EMPTY);

/// One member of [`SETTINGS`]; a constant to the verifier.
macro_rules! setting {
    ($member:ident) => {
        // SAFETY: a plain read of a read-only global, volatile so that the compiler does not fold its initial value.
        unsafe {
            core::ptr::read_volatile(
                &raw const (*(&raw const crate::filter::SETTINGS).cast::<probe::Settings>()).$member,
            )
        }
    };
}
pub(crate) use setting;

/// Whether the event tells of a refusal.
#[inline(always)]
pub fn failed(event: &Event) -> bool {
    let made = matches!(event.kind, kind::MAP | kind::ALLOC | kind::SLOT_ALLOC);
    event.kind == kind::MAP_FAILED || made && event.has & has::TARGET != 0 && event.target == u64::MAX
}

/// Whether an event is wanted.
#[inline(always)]
pub fn keeps(event: &Event) -> bool {
    let bounces = matches!(event.kind, kind::SLOT_ALLOC | kind::SLOT_FREE | kind::BOUNCE);
    match setting!(only) {
        ONLY_ALL => {}
        ONLY_BOUNCES if bounces => {}
        _ if failed(event) => {}
        _ => return false,
    }
    // Neither is known of a release or a bounce.
    let directed = !matches!(event.kind, kind::SLOT_FREE | kind::BOUNCE);
    let directions = setting!(directions);
    if directions != ALL_DIRECTIONS && directed && directions >> (event.direction & 3) & 1 == 0 {
        return false;
    }
    let least = setting!(min_size);
    least == 0 || event.kind == kind::SLOT_FREE || event.size >= least
}

/// Whether a device is wanted, by the names just written into its record.
#[inline(always)]
pub fn keeps_device(record: *const Device) -> bool {
    let names = setting!(names);
    let globs = (&raw const GLOBS).cast::<Globs>();
    // SAFETY: only addresses are taken of the global, which is never written to.
    let (device, driver) = unsafe { (&raw const (*globs).device, &raw const (*globs).driver) };
    // SAFETY: the record is memory of the ring buffer, and written.
    unsafe {
        (names & BY_DEVICE == 0 || matches::<NAME_BYTES>(device, (&raw const (*record).name).cast()))
            && (names & BY_DRIVER == 0 || matches::<DRIVER_BYTES>(driver, (&raw const (*record).driver).cast()))
    }
}

/// Whether one of a glob's patterns fits a name.
///
/// # Safety
/// `glob` and `N` bytes from `name` can be read.
#[inline(always)]
unsafe fn matches<const N: usize>(glob: *const Glob, name: *const u8) -> bool {
    // SAFETY: as the caller promises; the index of `fits` is a byte. Volatile as in `setting`.
    unsafe {
        let stays = ptr::read_volatile(&raw const (*glob).stays);
        let mut state = ptr::read_volatile(&raw const (*glob).starts);
        for at in 0..N {
            let byte = ptr::read_volatile(name.add(at));
            if byte == 0 {
                break;
            }
            let fits = ptr::read_volatile((&raw const (*glob).fits).cast::<u64>().add(usize::from(byte)));
            state = Glob::next(state, fits, stays);
        }
        state & ptr::read_volatile(&raw const (*glob).ends) != 0
    }
}
