//! The pools beside the default one, as they come and go: those added to it, those made for one mapping (SPEC 5), those of devices
//! (SPEC 2.7). Which addresses lie in one, and whose it is.

use std::collections::{BTreeMap, HashMap};

use trace::{Device, Event, Op, Pool, PoolKind};

/// The pools there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// By where they begin: their kind, and where they end.
    ranges: BTreeMap<u64, (PoolKind, u64)>,
    /// Devices with pools of their own, and whether everything bounces into them.
    owners: HashMap<u32, bool>,
}

impl Beside {
    /// Those found when the recording began.
    pub(crate) fn new(pools: &[Pool], devices: &[Device]) -> Self {
        let mut this = Self::default();
        pools.iter().filter(|pool| pool.kind != PoolKind::Default).for_each(|pool| this.add(pool));
        let own = |device: &Device| {
            let name = device.own_pool()?;
            let pool = pools.iter().find(|pool| pool.kind == PoolKind::Own && pool.name == name)?;
            Some((device.id, pool.force_bounce))
        };
        this.owners = devices.iter().filter_map(own).collect();
        this
    }

    fn add(&mut self, pool: &Pool) {
        let end = pool.end();
        // What was there before is gone.
        while let Some((&start, &(_, last))) = self.ranges.range(..end).next_back()
            && last > pool.start
        {
            self.ranges.remove(&start);
        }
        self.ranges.insert(pool.start, (pool.kind, end));
    }

    /// Takes one more event.
    pub(crate) fn see(&mut self, event: &Event) {
        match (event.op, event.tlb_addr) {
            (Op::PoolAdded, _) => Pool::added(event).iter().for_each(|pool| self.add(pool)),
            (Op::SlotFree, Some(tlb)) => {
                // Its only mapping goes.
                if let Some((start, (PoolKind::Transient, _))) = self.range_over(tlb) {
                    self.ranges.remove(&start);
                }
            }
            _ => {}
        }
    }

    fn range_over(&self, addr: u64) -> Option<(u64, (PoolKind, u64))> {
        let (&start, &range) = self.ranges.range(..=addr).next_back()?;
        (addr < range.1).then_some((start, range))
    }

    /// Whether a CPU address lies in one of them.
    pub(crate) fn holds(&self, addr: u64) -> bool {
        self.range_over(addr).is_some()
    }

    /// Whether the device has a pool of its own.
    pub(crate) fn owns(&self, device: u32) -> bool {
        self.owners.contains_key(&device)
    }

    /// Whether the device has a pool of its own, and everything it maps goes there.
    pub(crate) fn forces(&self, device: u32) -> bool {
        self.owners.get(&device).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::event::NO_DEVICE;
    use trace::pool::SLOT_BYTES;

    fn added(start: u64, slots: u64, device: u32) -> Event {
        Event {
            tlb_addr: Some(start),
            size: Some(slots * SLOT_BYTES),
            count: Some(1),
            ..Event::new(Op::PoolAdded, 1, 0, 0, device)
        }
    }

    #[test]
    fn a_pool_for_one_mapping_goes_with_it_and_others_stay() {
        let mut beside = Beside::default();
        beside.see(&added(0x10_0000, 256, NO_DEVICE));
        beside.see(&added(0x20_0000, 10, 3));
        assert!(beside.holds(0x10_0000 + 256 * SLOT_BYTES - 1) && !beside.holds(0x10_0000 + 256 * SLOT_BYTES));
        assert!(beside.holds(0x20_0800) && !beside.holds(0x1f_ffff));
        for tlb in [0x10_0800, 0x20_0000] {
            beside.see(&Event { tlb_addr: Some(tlb), ..Event::new(Op::SlotFree, 2, 0, 0, 3) });
        }
        assert!(beside.holds(0x10_0000) && !beside.holds(0x20_0000));
        // The memory of one that is gone unseen is another's.
        beside.see(&added(0x30_0000, 10, 3));
        beside.see(&added(0x2f_f000, 20, 3));
        assert!(beside.holds(0x2f_f000) && beside.holds(0x30_3fff) && beside.holds(0x30_4000));
    }

    #[test]
    fn a_device_with_a_pool_of_its_own() {
        let pool =
            Pool { kind: PoolKind::Own, name: "0x77".to_owned(), start: 0x10_0000, nslabs: 128, ..Pool::default() };
        let device = |id, pool: &str| Device { pool: Some(pool.to_owned()), ..Device::new(id, "x") };
        let devices = [device(0, "default"), device(1, "0x77")];
        let beside = Beside::new(&[Pool::default(), Pool { force_bounce: true, ..pool.clone() }], &devices);
        assert_eq!((beside.forces(0), beside.forces(1), beside.holds(0x10_0000)), (false, true, true));
        assert!(!Beside::new(&[pool], &devices).forces(1));
    }
}
