//! Reading event scripts: lines into steps, with the line's number in every error.

use std::collections::HashMap;
use std::str::FromStr;

use super::platform::Told;
use super::{Ask, Asker, Change, Kind, ScriptError, Step};
use crate::machine::FrameTable;
use crate::pages::Buddy;
use crate::plan::Limits;
use crate::pool::Geometry;
use trace::pool::P2mKind;

/// What has been read so far.
#[derive(Default)]
pub(super) struct Reader {
    pub pool: Option<Geometry>,
    pub force: bool,
    pub xen: Option<bool>,
    pub region: Buddy,
    pub told: Told,
    devices: HashMap<u64, Limits>,
    pub steps: Vec<Step>,
    pub asks: Vec<Ask>,
    pub names: Vec<u64>,
    pub askers: Vec<Asker>,
    asker_numbers: HashMap<Asker, u32>,
    pub changes: Vec<Change>,
    /// Places given out so far.
    pub places: u32,
    /// Places whose mappings have been undone.
    vacant: Vec<u32>,
    /// Where each mapping is; nothing once it has been undone.
    mappings: HashMap<u64, Option<u32>>,
}

impl Reader {
    pub fn line(&mut self, f: &mut Fields<'_>) -> Result<(), ScriptError> {
        match f.fields.next().unwrap_or("") {
            "pool" => {
                let (start, nslabs, areas) = (f.hex("base")?, f.dec("slots")?, f.dec("areas")?);
                self.pool = Some(Geometry { start, nslabs, areas });
            }
            "dev" => {
                let number = f.dec("device")?;
                let (reach, min_align_mask) = (f.hex("dma_mask")?, f.hex("min_align_mask")?);
                // 0 is the kernel's default, not "none" (that is all ones).
                let boundary = match f.hex("seg_boundary_mask")? {
                    0 => 0xffff_ffff,
                    mask => mask,
                };
                f.hex::<u64>("max_seg_size")?;
                self.devices.insert(number, Limits { reach, min_align_mask, boundary, ..Limits::NONE });
            }
            "map" => self.map(f, Kind::Map)?,
            "smap" => self.map(f, Kind::Smap)?,
            "xmap" => self.map(f, Kind::Xmap)?,
            "unmap" => self.unmap(f, Kind::Map)?,
            "xunmap" => self.unmap(f, Kind::Xmap)?,
            "mark" => self.steps.push(Step::Mark),
            "opt" => self.option(f)?,
            "p2m" => {
                self.told.frames(f, FrameTable::Pv)?;
                self.frames(f, P2mKind::Own)?;
            }
            "foreign" => self.frames(f, P2mKind::Foreign)?,
            "ident" => {
                self.told.frames(f, FrameTable::Pv)?;
                let (pfn, count) = (f.hex("pfn")?, f.dec("count")?);
                self.change(f, Change::P2m { pfn, mfn: pfn, count, kind: P2mKind::Identity })?;
            }
            "m2p" => {
                self.told.frames(f, FrameTable::Pv)?;
                let (mfn, pfn, count) = (f.hex("mfn")?, f.hex("pfn")?, f.dec("count")?);
                self.change(f, Change::M2p { mfn, pfn, count })?;
            }
            "region" => {
                let (base, bytes) = (f.hex("base")?, f.dec("bytes")?);
                self.region.add(base, bytes);
            }
            "work" => self.steps.push(Step::Work),
            other => return Err(f.wrong(format!("`{other}` is not a kind of line"))),
        }
        f.end()
    }

    fn map(&mut self, f: &mut Fields<'_>, kind: Kind) -> Result<(), ScriptError> {
        self.is_of(f, kind == Kind::Xmap)?;
        let name = f.dec("id")?;
        let (cpu, orig_addr, size) = (f.dec("cpu")?, f.hex("address")?, f.dec("size")?);
        let align_mask = if kind == Kind::Map { f.hex("alignment mask")? } else { 0 };
        let device = f.dec("device")?;
        let Some(&limits) = self.devices.get(&device) else {
            return Err(f.wrong(format!("device {device} has no `dev` line before this one")));
        };
        if self.pool.is_none() {
            return Err(ScriptError::NoPool);
        }
        let asker = self.asker(f, Asker { limits, align_mask })?;
        let place = match self.mappings.get(&name) {
            // Mapped again without having been undone: what was there is forgotten.
            Some(&Some(place)) => place,
            _ => self.place(f)?,
        };
        self.mappings.insert(name, Some(place));
        self.names.push(name);
        self.steps.push(Step::Map { kind, place });
        self.asks.push(Ask { orig_addr, size, asker, cpu });
        Ok(())
    }

    fn unmap(&mut self, f: &mut Fields<'_>, kind: Kind) -> Result<(), ScriptError> {
        self.is_of(f, kind == Kind::Xmap)?;
        let name = f.dec("id")?;
        // One never made is answered as one whose map did not succeed: there is nothing to undo.
        let place = self.mappings.get_mut(&name).and_then(Option::take);
        self.vacant.extend(place);
        self.names.push(name);
        self.steps.push(place.map_or(Step::UnmapNothing(kind), |place| Step::Unmap { kind, place }));
        Ok(())
    }

    /// A place nobody has.
    fn place(&mut self, f: &Fields<'_>) -> Result<u32, ScriptError> {
        if let Some(place) = self.vacant.pop() {
            return Ok(place);
        }
        let place = self.places;
        self.places = place.checked_add(1).ok_or_else(|| f.wrong("too many mappings".to_owned()))?;
        Ok(place)
    }

    /// The number of a device and an alignment mask.
    fn asker(&mut self, f: &Fields<'_>, asker: Asker) -> Result<u32, ScriptError> {
        let next = u32::try_from(self.askers.len()).map_err(|_| f.wrong("too many devices".to_owned()))?;
        let number = *self.asker_numbers.entry(asker).or_insert(next);
        if number == next {
            self.askers.push(asker);
        }
        Ok(number)
    }

    fn change(&mut self, f: &Fields<'_>, change: Change) -> Result<(), ScriptError> {
        let number = u32::try_from(self.changes.len()).map_err(|_| f.wrong("too many frames".to_owned()))?;
        self.changes.push(change);
        self.steps.push(Step::Change(number));
        Ok(())
    }

    fn frames(&mut self, f: &mut Fields<'_>, kind: P2mKind) -> Result<(), ScriptError> {
        let (pfn, mfn, count) = (f.hex("pfn")?, f.hex("mfn")?, f.dec("count")?);
        self.change(f, Change::P2m { pfn, mfn, count, kind })
    }

    fn option(&mut self, f: &mut Fields<'_>) -> Result<(), ScriptError> {
        let name = f.fields.next().unwrap_or("");
        match name {
            "force" => self.force = f.hex::<u64>("force")? != 0,
            // Both kinds of Xen set may say it; ARM's tree has no end, so there it changes nothing.
            "p2msize" => {
                let size = f.hex("size")?;
                self.change(f, Change::P2mSize(size))?;
            }
            "m2psize" => {
                self.told.frames(f, FrameTable::Pv)?;
                let size = f.hex("size")?;
                self.change(f, Change::M2pSize(size))?;
            }
            other if self.told.option(f, other)? => {}
            other => return Err(f.wrong(format!("`{other}` is not an option"))),
        }
        Ok(())
    }

    fn is_of(&mut self, f: &Fields<'_>, xen: bool) -> Result<(), ScriptError> {
        if *self.xen.get_or_insert(xen) == xen {
            Ok(())
        } else {
            Err(f.wrong("Xen maps (`xmap`) and plain ones do not mix in one script".to_owned()))
        }
    }
}

/// The fields of a line.
pub(super) struct Fields<'a> {
    pub line: usize,
    pub fields: std::str::Split<'a, char>,
}

impl Fields<'_> {
    pub fn wrong(&self, what: String) -> ScriptError {
        ScriptError::Line { line: self.line, what }
    }

    fn dec<T: FromStr>(&mut self, name: &str) -> Result<T, ScriptError> {
        self.field(name, "a number", |text| text.parse().ok())
    }

    pub fn hex<T: TryFrom<u64>>(&mut self, name: &str) -> Result<T, ScriptError> {
        self.field(name, "a hexadecimal number", |text| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            u64::from_str_radix(digits, 16).ok().and_then(|n| n.try_into().ok())
        })
    }

    fn field<T>(&mut self, name: &str, kind: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, ScriptError> {
        let Some(text) = self.fields.next() else { return Err(self.wrong(format!("the {name} is missing"))) };
        read(text.trim()).ok_or_else(|| self.wrong(format!("the {name} `{text}` is not {kind}")))
    }

    fn end(&mut self) -> Result<(), ScriptError> {
        match self.fields.next() {
            None => Ok(()),
            Some(rest) => Err(self.wrong(format!("`{rest}` is one field too many"))),
        }
    }
}
