//! The tables of a trace that are kept whole: everything but events.

use std::path::Path;

use super::table::write_table;
use super::{DEVICES, HISTOGRAMS, META, OCCUPANCY, P2M, SNAPSHOT, STACKS, SUMS, TASKS, TraceError, replace_bytes};
use crate::sums::{Bucket, Occupancy, Sum};
use crate::{Device, Meta, P2mRun, SnapshotSlot, StackFrame, Task};

/// A value and the state of its file.
#[derive(Debug, Default)]
pub(super) struct Kept<T> {
    value: T,
    changed: bool,
    bytes: u64,
}

impl<T: PartialEq + Clone + Default> Kept<T> {
    pub(super) fn value(&self) -> &T {
        &self.value
    }

    /// Saving syncs the disk, so what is the same already is not saved again.
    pub(super) fn set(&mut self, value: T) {
        self.changed |= self.bytes == 0 || self.value != value;
        self.value = value;
    }

    /// Has it saved again.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    fn save(&mut self, write: impl FnOnce(&T) -> Result<u64, TraceError>) -> Result<(), TraceError> {
        if self.changed {
            self.bytes = write(&self.value)?;
            self.changed = false;
        }
        Ok(())
    }

    /// A copy to save elsewhere; an empty one of what is saved already.
    fn take_changed(&mut self) -> Self {
        if !std::mem::take(&mut self.changed) {
            return Self::default();
        }
        Self { value: self.value.clone(), changed: true, bytes: self.bytes }
    }

    /// What became of such a copy.
    fn take_back(&mut self, copy: &Self) {
        self.changed |= copy.changed;
        self.bytes = if copy.bytes > 0 { copy.bytes } else { self.bytes };
    }
}

/// One line a table, so that none is forgotten where all are gone through.
macro_rules! tables {
    ($($name:ident: $type:ty = $file:expr,)*) => {
        /// All of them, each with the state of its file.
        #[derive(Debug, Default)]
        pub(super) struct Tables {
            $(pub(super) $name: Kept<Vec<$type>>,)*
            pub(super) meta: Kept<Meta>,
        }

        impl Tables {
            /// Saves those that have changed, metadata last: a trace that says it is closed is complete.
            pub(super) fn save(&mut self, root: &Path) -> Result<(), TraceError> {
                $(self.$name.save(|rows| write_table(&root.join($file), rows))?;)*
                self.meta.save(|meta| save_meta(root, meta))
            }

            /// Copies of those that have changed, which count as saved from now on.
            pub(super) fn take_changed(&mut self) -> Option<Self> {
                let changed = self.meta.changed $(|| self.$name.changed)*;
                changed.then(|| Self { $($name: self.$name.take_changed(),)* meta: self.meta.take_changed() })
            }

            /// Takes note of what was saved of such copies; the others have changed still.
            pub(super) fn take_back(&mut self, copies: &Self) {
                $(self.$name.take_back(&copies.$name);)*
                self.meta.take_back(&copies.meta);
            }

            /// Has all that are there saved again.
            pub(super) fn touch_all(&mut self) {
                $(self.$name.changed |= !self.$name.value.is_empty();)*
                self.meta.touch();
            }

            /// Bytes on disk.
            pub(super) fn bytes(&self) -> u64 {
                self.meta.bytes $(+ self.$name.bytes)*
            }
        }
    };
}

tables! {
    devices: Device = DEVICES,
    tasks: Task = TASKS,
    stacks: StackFrame = STACKS,
    snapshot: SnapshotSlot = SNAPSHOT,
    p2m: P2mRun = P2M,
    sums: Sum = SUMS,
    histograms: Bucket = HISTOGRAMS,
    occupancy: Occupancy = OCCUPANCY,
}

fn save_meta(root: &Path, meta: &Meta) -> Result<u64, TraceError> {
    let path = root.join(META);
    let mut text = serde_json::to_vec_pretty(meta).map_err(|reason| TraceError::Meta { path: path.clone(), reason })?;
    text.push(b'\n');
    replace_bytes(&path, &text)
}
