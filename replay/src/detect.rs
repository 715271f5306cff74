//! Which generation a recorded kernel follows. Stable branches change generation inside the branch, so the version alone
//! does not tell (SPEC 1, "stable trap"): its types leave one to three candidates (SPEC 1, end; 13.6), and where they leave
//! several its slot choices decide, by [`verify`](crate::verify()).

use trace::Meta;
use trace::meta::AllocatorTypes;

use crate::machine::PlatformKind;
use crate::rules::Generation;

/// The generations a kernel with these types can follow, oldest first; none for types nobody has described.
#[must_use]
pub fn candidates(types: &AllocatorTypes) -> Vec<&'static Generation> {
    let &AllocatorTypes { parameters, min_align_mask, device_pools, areas, pools, pad_slots } = types;
    let ids: &[&str] = match (pools, areas, pad_slots, parameters) {
        (true, _, true, 7) => &["v6_6y", "v6_9"],
        (true, _, true, _) => &["v6_10"],
        (true, _, false, _) => &["v6_6", "v6_8"],
        (false, true, ..) => &["v6_0", "v6_1y", "v6_3"],
        (false, false, _, 7) => &["v5_16"],
        (false, false, _, 0) => &[],
        (false, false, ..) if device_pools => &["v5_15"],
        (false, false, ..) if min_align_mask => &["v5_12"],
        _ => &["legacy"],
    };
    ids.iter().filter_map(|id| Generation::by_id(id)).collect()
}

impl PlatformKind {
    /// The address translation of the machine a trace was recorded on: on ARM every domain of Xen's is auto-translated
    /// and has the tree of foreign pages (SPEC 10.8).
    #[must_use]
    pub fn of_recorded(meta: &Meta) -> Self {
        let arm = ["aarch64", "arm"].iter().any(|name| meta.host.machine.starts_with(name));
        match &meta.xen {
            Some(_) if arm => Self::XenArm,
            Some(xen) if xen.mode == "pv" => Self::XenPv,
            Some(_) => Self::XenAuto,
            None => Self::Native,
        }
    }
}

impl Generation {
    /// The generation of the kernel a trace was recorded on, as far as its types and its version tell, and what must be
    /// said about the choice.
    #[must_use]
    pub fn of_recorded(meta: &Meta) -> Option<(&'static Self, String)> {
        let version = meta.host.kernel_version();
        let by_version = Self::of_release(version);
        let Some(types) = &meta.allocator else { return by_version.map(|(rules, caveat)| (rules, caveat.to_owned())) };
        let candidates = candidates(types);
        match (candidates.as_slice(), by_version) {
            ([], by_version) => by_version.map(|(rules, _)| (rules, "its types are none that are known".to_owned())),
            ([only], Some((rules, _))) if rules.id == only.id => Some((only, String::new())),
            ([only], _) => Some((only, "by its types; its version would say otherwise".to_owned())),
            (several, Some((rules, _))) if several.iter().any(|g| g.id == rules.id) => {
                let ids: Vec<_> = several.iter().map(|g| g.id).collect();
                Some((rules, format!("by its version; its types leave {}", ids.join(", "))))
            }
            ([.., last], _) => Some((last, "the newest its types leave; its version would say otherwise".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::meta::Xen;

    fn ids(types: AllocatorTypes) -> Vec<&'static str> {
        candidates(&types).iter().map(|g| g.id).collect()
    }

    #[test]
    fn types_tell_the_family() {
        // As read from the BTF of Debian's 5.10.262, 6.1.192, 6.12.117 and 7.2.13.
        let v5_10 = AllocatorTypes { parameters: 6, min_align_mask: true, ..AllocatorTypes::default() };
        let v6_1 = AllocatorTypes { parameters: 7, device_pools: true, areas: true, ..v5_10 };
        let v6_12 = AllocatorTypes { parameters: 6, pools: true, pad_slots: true, ..v6_1 };
        assert_eq!(ids(v5_10), ["v5_12"]);
        assert_eq!(ids(v6_1), ["v6_0", "v6_1y", "v6_3"]);
        assert_eq!(ids(v6_12), ["v6_10"]);
        assert_eq!(ids(AllocatorTypes { min_align_mask: false, ..v5_10 }), ["legacy"]);
        assert_eq!(ids(AllocatorTypes { device_pools: true, ..v5_10 }), ["v5_15"]);
        assert_eq!(ids(AllocatorTypes { parameters: 7, device_pools: true, ..v5_10 }), ["v5_16"]);
        assert_eq!(ids(AllocatorTypes { pad_slots: false, parameters: 7, ..v6_12 }), ["v6_6", "v6_8"]);
        assert_eq!(ids(AllocatorTypes { parameters: 7, ..v6_12 }), ["v6_6y", "v6_9"]);
        assert_eq!(ids(AllocatorTypes::default()), [""; 0]);
    }

    #[test]
    fn the_platform_is_the_machines() {
        let kind = |machine: &str, mode: Option<&str>| {
            let mut meta = Meta::new();
            meta.host.machine = machine.to_owned();
            meta.xen = mode.map(|mode| Xen { mode: mode.to_owned(), version: String::new(), dom0: true });
            PlatformKind::of_recorded(&meta)
        };
        assert_eq!(kind("x86_64", Some("pv")), PlatformKind::XenPv);
        assert_eq!(
            (kind("x86_64", Some("hvm")), kind("x86_64", Some("pvh"))),
            (PlatformKind::XenAuto, PlatformKind::XenAuto)
        );
        assert_eq!(
            (kind("aarch64", Some("arm")), kind("aarch64_be", Some("pvh"))),
            (PlatformKind::XenArm, PlatformKind::XenArm)
        );
        assert_eq!(kind("armv7l", Some("arm")), PlatformKind::XenArm, "32 bits, as uname has it");
        assert_eq!((kind("aarch64", None), kind("x86_64", None)), (PlatformKind::Native, PlatformKind::Native));
    }

    #[test]
    fn types_weigh_more_than_the_version() {
        let mut meta = Meta::new();
        meta.host.release = "6.1.20".to_owned();
        let found = |meta: &Meta| Generation::of_recorded(meta).map(|(g, why)| (g.id, why));
        assert_eq!(found(&meta).unwrap().0, "v6_0", "as the version has it");
        let types = AllocatorTypes { parameters: 7, areas: true, ..AllocatorTypes::default() };
        meta.allocator = Some(types);
        assert_eq!(found(&meta), Some(("v6_0", "by its version; its types leave v6_0, v6_1y, v6_3".to_owned())));
        meta.allocator = Some(AllocatorTypes { parameters: 6, pools: true, pad_slots: true, ..types });
        assert_eq!(found(&meta), Some(("v6_10", "by its types; its version would say otherwise".to_owned())));
        meta.host.release = "6.12.3".to_owned();
        assert_eq!(found(&meta), Some(("v6_10", String::new())));
        meta.host.release = "of another kind".to_owned();
        assert_eq!(found(&meta).unwrap().0, "v6_10");
    }
}
