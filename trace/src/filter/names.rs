//! The names behind the keys that events hold.

use std::collections::BTreeMap;

use crate::{Device, StackFrame, Task};

/// Names by field and key: a device goes by its name and its driver, a thread by every name it had, a stack by each of its
/// functions.
#[derive(Clone, Debug, Default)]
pub struct Names {
    by_field: BTreeMap<&'static str, Vec<(u64, String)>>,
}

impl Names {
    /// The names in these tables, for the event columns `device`, `tid` and `stack`.
    #[must_use]
    pub fn new(devices: &[Device], tasks: &[Task], stacks: &[StackFrame]) -> Self {
        let mut names = Self::default();
        names.add("device", devices.iter().map(|device| (device.id.into(), device.name.as_str())));
        names.add("device", devices.iter().filter_map(|device| Some((device.id.into(), device.driver.as_deref()?))));
        names.add("tid", tasks.iter().map(|task| (task.tid.into(), task.comm.as_str())));
        names.add("stack", stacks.iter().filter_map(|frame| Some((frame.stack.into(), frame.symbol.as_deref()?))));
        names
    }

    /// The names in a trace.
    #[cfg(feature = "file")]
    #[must_use]
    pub fn of(trace: &crate::Trace) -> Self {
        Self::new(trace.devices(), trace.tasks(), trace.stacks())
    }

    /// More names for the keys in a field.
    pub fn add<'a>(&mut self, field: &'static str, names: impl IntoIterator<Item = (u64, &'a str)>) {
        let list = self.by_field.entry(field).or_default();
        list.extend(names.into_iter().map(|(key, name)| (key, name.to_owned())));
    }

    /// The keys with a name that is wanted; `None` for fields that are no keys.
    pub(super) fn keys(&self, field: &str, wanted: impl Fn(u64, &str) -> bool) -> Option<Vec<u64>> {
        let list = self.by_field.get(field)?;
        Some(list.iter().filter(|(key, name)| wanted(*key, name)).map(|(key, _)| *key).collect())
    }
}
