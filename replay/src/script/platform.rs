//! Which platform a script is for: some lines and options are of x86's PV guests only, some of ARM only.

use super::read::Fields;
use super::{Script, ScriptError, Step};
use crate::machine::{FrameTable, Platform, PlatformKind, PlatformSpec};

/// What a script's lines say about the platform.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    frames: Option<FrameTable>,
    coherent: Option<bool>,
    flush: Option<bool>,
    max_pfn: Option<u64>,
}

impl Told {
    /// A line that only one kind of frame table has.
    pub fn frames(&mut self, f: &Fields<'_>, frames: FrameTable) -> Result<(), ScriptError> {
        if *self.frames.get_or_insert(frames) == frames {
            return Ok(());
        }
        Err(f.wrong(
            "lines for x86 (p2m, ident, m2p, m2psize) and for ARM (coherent, cacheflush) do not mix in one script"
                .to_owned(),
        ))
    }

    /// An option beside `force`; `false` when it is none of these.
    pub fn option(&mut self, f: &mut Fields<'_>, name: &str) -> Result<bool, ScriptError> {
        match name {
            "maxpfn" => self.max_pfn = Some(f.hex("size")?),
            "coherent" => {
                self.coherent = Some(f.hex::<u64>("switch")? != 0);
                self.frames(f, FrameTable::Arm)?;
            }
            "cacheflush" => {
                self.flush = Some(f.hex::<u64>("switch")? != 0);
                self.frames(f, FrameTable::Arm)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether some option was given that only Xen sets have.
    pub fn is_of_xen(&self) -> bool {
        self.frames.is_some() || self.max_pfn.is_some()
    }

    /// The platform of a script that asks for whole decisions; x86's, which all kernels have, when no line tells.
    pub fn xen(&self) -> PlatformSpec {
        self.complete(PlatformSpec::new(match self.frames {
            Some(FrameTable::Arm) => PlatformKind::XenArm,
            _ => PlatformKind::XenPv,
        }))
    }

    /// A platform with what the script says about it.
    fn complete(&self, mut spec: PlatformSpec) -> PlatformSpec {
        if let Some(coherent) = self.coherent {
            spec.set_coherent(coherent);
        }
        spec.flush = self.flush.unwrap_or(spec.flush);
        spec
    }
}

impl Script {
    /// The platform the script is for.
    #[must_use]
    pub fn platform(&self) -> &PlatformSpec {
        &self.platform
    }

    /// The same requests on another platform with the same kind of frame table. Which set a script without any request is
    /// of, the platform decides.
    ///
    /// # Errors
    /// [`ScriptError::Platform`] when the script's lines are for another kind of table.
    pub fn on(mut self, platform: PlatformSpec) -> Result<Self, ScriptError> {
        let asked = platform.row().frames;
        let fits = match (self.xen, self.told.frames) {
            (false, _) => asked == FrameTable::Identity || !self.settled,
            (true, Some(told)) => asked == told,
            (true, None) => asked != FrameTable::Identity,
        };
        if !fits {
            return Err(ScriptError::Platform { asked: platform, told: self.platform.kind() });
        }
        self.xen = asked != FrameTable::Identity;
        self.platform = self.told.complete(platform);
        Ok(self)
    }

    /// The platform with its frame table as it stands before the first map. ARM's tree fills as the script goes.
    pub(super) fn initial_platform(&self) -> Platform {
        let mut platform = Platform::new(self.platform);
        if let (Some(tree), Some(max_pfn)) = (platform.tree_mut(), self.told.max_pfn) {
            tree.set_max_pfn(max_pfn);
        }
        if platform.p2m_mut().is_some() {
            for step in self.steps.iter().take_while(|s| !matches!(s, Step::Map { .. })) {
                if let Step::Change(number) = *step {
                    self.changes[number as usize].apply(&mut platform);
                }
            }
        }
        platform
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    const HEAD: &str = "pool,50000000,512,1\ndev,0,ffffffffffffffff,0,ffffffff,10000\n";

    fn answers(script: Script) -> Vec<String> {
        let mut out = String::new();
        script.answers(&Policy::parse("v6_1y").unwrap(), &mut out).unwrap();
        out.lines().map(str::to_owned).collect()
    }

    fn script(lines: &str) -> Result<Script, ScriptError> {
        Script::parse(&format!("{HEAD}{lines}"))
    }

    #[test]
    fn a_page_granted_twice_is_refused_on_arm() {
        let lines = "opt,coherent,1\nforeign,90000,60000,2\nforeign,90001,70000,1\nxmap,0,0,90000000,4096,0\nforeign,90000,80000,1\nxmap,1,0,90000000,4096,0\n";
        let out = answers(script(lines).unwrap());
        assert!(out[0].contains(" arch=arm base=50000000 "), "{}", out[0]);
        assert_eq!(out[1..], ["xmap,0,DIRECT,60000000,,0", "p2m,EEXIST", "xmap,1,DIRECT,60000000,,0", "end,0"]);
    }

    /// SPEC 10.8: a bounce for the caches' sake takes a foreign page, no hypercall and a device that is not coherent.
    #[test]
    fn caches_nobody_can_flush_are_a_reason() {
        let bounces = |coherent: u8, flush: u8, page: &str| {
            let lines = format!(
                "opt,coherent,{coherent}\nopt,cacheflush,{flush}\nforeign,90000,60000,1\nxmap,0,0,{page},64,0\n"
            );
            answers(script(&lines).unwrap())[1].contains("BOUNCE")
        };
        assert!(bounces(0, 0, "90000000"));
        assert!(!bounces(1, 0, "90000000") && !bounces(0, 1, "90000000") && !bounces(0, 0, "90001000"));
    }

    /// SPEC 10.3: a machine frame past the hypervisor's table has no guest frame, so its slots are never given back.
    #[test]
    fn a_bounce_buffer_past_the_hypervisors_table_is_not_found_again() {
        let used = |m2psize: &str| {
            let lines = format!(
                "opt,p2msize,60000\nopt,m2psize,{m2psize}\np2m,50000,70000,100\nopt,force,1\nxmap,0,0,50000000,64,0\nxunmap,0\n"
            );
            answers(script(&lines).unwrap())[1..3].to_vec()
        };
        let bounced = "xmap,0,BOUNCE,70000000,50000000,1";
        assert_eq!(used("70001"), [bounced, "xunmap,0,,,,0"]);
        assert_eq!(used("70000"), [bounced, "xunmap,0,,,,1"]);
    }

    /// The vectors' README: entries never set are invalid, also a pool's; another pool's frames nobody has told.
    #[test]
    fn a_pool_a_whole_table_does_not_name_is_at_no_machine_address() {
        let bounced = |lines: &str, policy: &str| {
            let text = format!("{HEAD}{lines}p2m,10,90,1\nopt,force,1\nxmap,0,0,10000,64,0\n");
            let mut out = String::new();
            Script::parse(&text).unwrap().answers(&Policy::parse(policy).unwrap(), &mut out).unwrap();
            out.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(bounced("opt,p2msize,60000\n", "v6_1y"), "xmap,0,BOUNCE,fffffffffffff000,50000000,1");
        assert_eq!(bounced("", "v6_1y"), "xmap,0,BOUNCE,0,50000000,1");
        assert_eq!(bounced("opt,p2msize,60000\n", "v6_1y:start=0x40000000"), "xmap,0,BOUNCE,0,40000000,1");
    }

    /// SPEC 10.8: frames are compared as 32 bits, so a foreign frame 2^44 away counts as one's own.
    #[test]
    fn frames_are_compared_as_32_bits() {
        let lines = "opt,coherent,0\nopt,cacheflush,0\nforeign,90000,100090000,1\nxmap,0,0,90000000,64,0\n";
        assert_eq!(answers(script(lines).unwrap())[1], "xmap,0,DIRECT,100090000000,,0");
    }

    /// SPEC 10.8, is_pool: what is not valid memory is in no pool, so its slots are never given back.
    #[test]
    fn a_bounce_buffer_beyond_valid_memory_is_not_found_again() {
        let lines = "opt,coherent,1\nopt,force,1\nopt,maxpfn,50000\nxmap,0,0,90000000,64,0\nxunmap,0\n";
        assert_eq!(
            answers(script(lines).unwrap())[1..],
            ["xmap,0,BOUNCE,50000000,50000000,1", "xunmap,0,,,,1", "end,1"]
        );
    }

    #[test]
    fn the_lines_tell_the_platform() {
        let kind = |lines: &str| script(&format!("{lines}xmap,0,0,1000,64,0\n")).map(|s| s.platform().kind());
        assert_eq!(kind("opt,coherent,1\n"), Ok(PlatformKind::XenArm));
        assert_eq!(kind("opt,cacheflush,1\nforeign,1,2,1\n"), Ok(PlatformKind::XenArm));
        assert_eq!(kind("p2m,1,2,1\n"), Ok(PlatformKind::XenPv));
        assert_eq!(kind("opt,m2psize,100\n"), Ok(PlatformKind::XenPv));
        assert_eq!(kind("foreign,1,2,1\nopt,maxpfn,100\n"), Ok(PlatformKind::XenPv), "both have these");
        assert!(matches!(kind("p2m,1,2,1\nopt,coherent,1\n"), Err(ScriptError::Line { line: 4, .. })));
        assert_eq!(script("map,0,0,1000,64,0,0\n").map(|s| s.platform().kind()), Ok(PlatformKind::Native));
    }

    /// A Xen file that asks nothing is one all the same; where no line tells, the asked platform does.
    #[test]
    fn a_script_without_maps_is_of_the_kind_its_other_lines_are() {
        let kind = |lines: &str| {
            let script = script(lines).unwrap();
            let head = answers(script.clone()).remove(0);
            assert_eq!(head.starts_with("# xen "), script.is_xen(), "{head}");
            (script.is_xen(), script.platform().kind())
        };
        assert_eq!(kind("p2m,1,2,1\n"), (true, PlatformKind::XenPv));
        assert_eq!(kind("foreign,1,2,1\n"), (true, PlatformKind::XenPv));
        assert_eq!(kind("opt,maxpfn,100\n"), (true, PlatformKind::XenPv));
        assert_eq!(kind("opt,coherent,1\n"), (true, PlatformKind::XenArm));
        assert_eq!(kind("opt,force,1\n"), (false, PlatformKind::Native));
        let on = |lines: &str, kind: PlatformKind| script(lines).unwrap().on(kind.into()).map(|s| answers(s).remove(0));
        assert!(on("", PlatformKind::XenPv).unwrap().starts_with("# xen swiotlb answers v1 kernel=v6_1y arch=x86-pv"));
        assert!(on("", PlatformKind::XenArm).unwrap().contains(" arch=arm "));
        assert!(on("", PlatformKind::XenAuto).unwrap().starts_with("# swiotlb answers v1"));
        assert!(on("opt,maxpfn,1\n", PlatformKind::XenArm).unwrap().contains(" arch=arm "));
        assert!(on("p2m,1,2,1\n", PlatformKind::XenArm).is_err() && on("p2m,1,2,1\n", PlatformKind::Native).is_err());
    }

    /// The vectors' README marks `m2psize` as x86's, not `p2msize`.
    #[test]
    fn the_size_of_the_p2m_does_not_tell_the_platform() {
        let lines = |more: &str| format!("opt,p2msize,1\n{more}foreign,90000,60000,1\nxmap,0,0,90000000,64,0\n");
        let arm = script(&lines("opt,coherent,1\n")).unwrap();
        assert_eq!(arm.platform().kind(), PlatformKind::XenArm);
        assert_eq!(answers(arm)[1], "xmap,0,DIRECT,60000000,,0");
        let either = script(&lines("")).unwrap();
        assert_eq!(either.platform().kind(), PlatformKind::XenPv);
        assert_eq!(answers(either)[1], "xmap,0,DIRECT,90000000,,0", "past its end frames are identity");
    }

    #[test]
    fn a_script_is_not_played_on_another_kind_of_platform() {
        let on = |lines: &str, platform: &str| {
            let asked = PlatformSpec::parse(platform).unwrap();
            script(&format!("{lines}xmap,0,0,1000,64,0\n")).unwrap().on(asked).map(|s| s.platform().to_string())
        };
        assert_eq!(on("p2m,1,2,1\n", "unified:bbase=machine_start"), Ok("hch-unified:bbase=machine_start".to_owned()));
        assert_eq!(on("opt,coherent,1\n", "stefano-arm"), Ok("stefano-arm:coherent=on".to_owned()));
        assert_eq!(on("foreign,1,2,1\n", "xen-arm"), Ok("xen-arm".to_owned()));
        let refused = on("p2m,1,2,1\n", "xen-arm").unwrap_err().to_string();
        assert_eq!(refused, "these requests are for platform xen-pv, not for xen-arm; leave --platform out");
        assert!(on("foreign,1,2,1\n", "native").is_err());
        let plain = || script("map,0,0,1000,64,0,0\n").unwrap();
        assert!(plain().on(PlatformKind::XenPv.into()).is_err());
        assert!(plain().on(PlatformKind::XenAuto.into()).is_ok());
    }
}
