//! A reader of the kernel's BTF: what member offsets, sizes and signatures this very kernel has.
//!
//! aya loads programs by BTF but keeps struct members to itself, and Rust has no CO-RE: so the few questions the probe
//! has are answered here. The format is Linux's documented BTF (Documentation/bpf/btf.rst); kinds this reader does not
//! need are skipped by their documented length.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Why BTF could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file is missing or unreadable.
    #[error(
        "cannot read {path}: {source}. The kernel must be built with CONFIG_DEBUG_INFO_BTF (all stock Debian kernels since 5.10 are)"
    )]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not BTF, or is cut short.
    #[error("{path} is not the BTF of a 64-bit kernel of this machine's byte order: {what} at byte {offset}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// Where.
        offset: usize,
    },
}

/// The kind of a named type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `struct`.
    Struct,
    /// `typedef`.
    Typedef,
    /// A function.
    Func,
}

#[derive(Clone, Debug)]
enum Type {
    Composite {
        size: u32,
        members: Vec<Member>,
    },
    /// Pointer, typedef, qualifier or function: all that matters is what it leads to.
    Reference {
        kind: u32,
        to: u32,
    },
    Proto {
        params: Vec<Param>,
    },
    /// A number or an enumeration.
    Number {
        size: u32,
    },
    Other,
}

#[derive(Clone, Debug)]
struct Member {
    name: u32,
    ty: u32,
    bits: u32,
}

#[derive(Clone, Debug)]
struct Param {
    name: u32,
    ty: u32,
}

/// The types of a kernel.
#[derive(Debug)]
pub struct Btf {
    types: Vec<Type>,
    strings: Vec<u8>,
    names: HashMap<(Kind, String), u32>,
}

const MAGIC: u16 = 0xeb9f;

/// A cursor that knows where it stands, for error messages.
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    fn u32(&mut self) -> Result<u32, (&'static str, usize)> {
        let bytes = self.data.get(self.at..self.at + 4).filter(|_| self.at + 4 <= self.end);
        let bytes = bytes.and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or(("a record is cut short", self.at))?;
        self.at += 4;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn skip(&mut self, words: u32) -> Result<(), (&'static str, usize)> {
        (0..words).try_for_each(|_| self.u32().map(drop))
    }
}

impl Btf {
    /// Where the running kernel shows its own.
    pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

    /// Reads the running kernel's BTF.
    ///
    /// # Errors
    /// See [`BtfError`].
    pub fn kernel() -> Result<Self, BtfError> {
        Self::open(Path::new(Self::KERNEL))
    }

    /// Reads a raw BTF file.
    ///
    /// # Errors
    /// See [`BtfError`].
    pub fn open(path: &Path) -> Result<Self, BtfError> {
        let data = fs::read(path).map_err(|source| BtfError::Read { path: path.into(), source })?;
        Self::parse(&data).map_err(|(what, offset)| BtfError::Format { path: path.into(), what, offset })
    }

    fn parse(data: &[u8]) -> Result<Self, (&'static str, usize)> {
        if data.get(..2) != Some(MAGIC.to_ne_bytes().as_slice()) {
            return Err(("no BTF magic", 0));
        }
        let mut head = Cursor { data, at: 4, end: data.len() };
        let header = head.u32()? as usize;
        let [type_off, type_len, str_off, str_len] = [head.u32()?, head.u32()?, head.u32()?, head.u32()?];
        let start = header + type_off as usize;
        let strings = header + str_off as usize;
        let strings = data.get(strings..strings + str_len as usize).ok_or(("strings are cut short", strings))?.to_vec();
        let mut cursor = Cursor { data, at: start, end: start + type_len as usize };
        let mut btf = Self { types: vec![Type::Other], strings, names: HashMap::new() };
        while cursor.at < cursor.end {
            btf.read_type(&mut cursor)?;
        }
        Ok(btf)
    }

    fn read_type(&mut self, cursor: &mut Cursor<'_>) -> Result<(), (&'static str, usize)> {
        let at = cursor.at;
        let [name, info, size] = [cursor.u32()?, cursor.u32()?, cursor.u32()?];
        let (kind, count, flag) = (info >> 24 & 31, info & 0xffff, info >> 31 == 1);
        let id = u32::try_from(self.types.len()).map_err(|_| ("too many types", at))?;
        let ty = match kind {
            4 | 5 => {
                let mut members = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    let [name, ty, offset] = [cursor.u32()?, cursor.u32()?, cursor.u32()?];
                    // With the flag set the upper byte is the width of a bit field.
                    members.push(Member { name, ty, bits: if flag { offset & 0xff_ffff } else { offset } });
                }
                Type::Composite { size, members }
            }
            13 => {
                let mut params = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    params.push(Param { name: cursor.u32()?, ty: cursor.u32()? });
                }
                Type::Proto { params }
            }
            // Pointer, typedef, volatile, const, restrict, function, type tag.
            2 | 8..=12 | 18 => Type::Reference { kind, to: size },
            other => {
                cursor.skip(match other {
                    1 | 14 | 17 => 1,
                    3 => 3,
                    6 => 2 * count,
                    15 | 19 => 3 * count,
                    7 | 16 => 0,
                    _ => return Err(("an unknown kind of type", at)),
                })?;
                if matches!(other, 1 | 6 | 16 | 19) { Type::Number { size } } else { Type::Other }
            }
        };
        let named = match kind {
            4 => Some(Kind::Struct),
            8 => Some(Kind::Typedef),
            12 => Some(Kind::Func),
            _ => None,
        };
        if let (Some(kind), false) = (named, name == 0) {
            self.names.entry((kind, self.text(name).to_owned())).or_insert(id);
        }
        self.types.push(ty);
        Ok(())
    }

    fn text(&self, offset: u32) -> &str {
        let bytes = self.strings.get(offset as usize..).unwrap_or_default();
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).unwrap_or_default()
    }

    fn get(&self, id: u32) -> &Type {
        self.types.get(id as usize).unwrap_or(&Type::Other)
    }

    /// Follows typedefs and qualifiers, not pointers.
    fn resolve(&self, mut id: u32) -> &Type {
        // Bounded, so that a broken file with a loop of typedefs cannot hang us.
        for _ in 0..32 {
            match self.get(id) {
                Type::Reference { kind, to } if *kind != 2 => id = *to,
                ty => return ty,
            }
        }
        &Type::Other
    }

    /// Whether a type of this kind and name exists.
    #[must_use]
    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.id(kind, name).is_some()
    }

    fn id(&self, kind: Kind, name: &str) -> Option<u32> {
        self.names.get(&(kind, name.to_owned())).copied()
    }

    /// Size of a struct in bytes.
    #[must_use]
    pub fn size_of(&self, name: &str) -> Option<u32> {
        match self.get(self.id(Kind::Struct, name)?) {
            Type::Composite { size, .. } => Some(*size),
            _ => None,
        }
    }

    /// Size in bytes of a member that is a number.
    #[must_use]
    pub fn member_size(&self, name: &str, member: &str) -> Option<u32> {
        let (_, ty) = self.member(self.id(Kind::Struct, name)?, member, 0)?;
        match self.resolve(ty) {
            Type::Number { size } => Some(*size),
            _ => None,
        }
    }

    /// Offset in bytes of a member given by its path (`kobj.name`), looking into anonymous members on the way.
    #[must_use]
    pub fn offset_of(&self, name: &str, path: &str) -> Option<u32> {
        self.bit_of(name, path).map(|bits| bits / 8)
    }

    /// The same in bits, for members that are bit fields.
    #[must_use]
    pub fn bit_of(&self, name: &str, path: &str) -> Option<u32> {
        let mut id = self.id(Kind::Struct, name)?;
        let mut offset = 0;
        for part in path.split('.') {
            let (bits, ty) = self.member(id, part, 0)?;
            offset += bits;
            id = ty;
        }
        Some(offset)
    }

    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let Type::Composite { members, .. } = self.resolve(id) else { return None };
        if let Some(member) = members.iter().find(|m| self.text(m.name) == name) {
            return Some((member.bits, member.ty));
        }
        if depth > 8 {
            return None;
        }
        members.iter().filter(|m| self.text(m.name).is_empty()).find_map(|anonymous| {
            let (bits, ty) = self.member(anonymous.ty, name, depth + 1)?;
            Some((anonymous.bits + bits, ty))
        })
    }

    /// Names of a function's parameters.
    #[must_use]
    pub fn parameters(&self, function: &str) -> Option<Vec<&str>> {
        let Type::Reference { to, .. } = self.get(self.id(Kind::Func, function)?) else { return None };
        let Type::Proto { params } = self.get(*to) else { return None };
        Some(params.iter().map(|p| self.text(p.name)).collect())
    }

    /// Whether a function's parameter is a pointer; `None` when there is no such parameter.
    #[must_use]
    pub fn is_pointer(&self, function: &str, parameter: usize) -> Option<bool> {
        let Type::Reference { to, .. } = self.get(self.id(Kind::Func, function)?) else { return None };
        let Type::Proto { params } = self.get(*to) else { return None };
        Some(matches!(self.resolve(params.get(parameter)?.ty), Type::Reference { kind: 2, .. }))
    }

    /// How many arguments a tracepoint passes to its programs, or `None` when this kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        // The typedef is a pointer to a function whose first parameter is not passed on.
        let id = self.id(Kind::Typedef, &format!("btf_trace_{tracepoint}"))?;
        let Type::Reference { to: pointer, .. } = self.get(id) else { return None };
        let Type::Reference { to: proto, .. } = self.get(*pointer) else { return None };
        let Type::Proto { params } = self.get(*proto) else { return None };
        Some(params.iter().skip(1).filter(|p| p.ty != 0).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds BTF by hand: `struct outer { int a; struct { struct inner *p; bit b:3; }; name_t in; }` and friends.
    #[derive(Default)]
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Builder {
        fn text(&mut self, text: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(text.bytes().chain([0]));
            at
        }

        fn add(&mut self, name: &str, info: u32, size: u32, words: &[u32]) -> u32 {
            let name = self.text(name);
            for word in [name, info, size].iter().chain(words) {
                self.types.extend(word.to_ne_bytes());
            }
            self.count += 1;
            self.count
        }

        fn finish(self) -> Vec<u8> {
            let mut out = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            for word in [24, 0, types, types, strings] {
                out.extend(word.to_ne_bytes());
            }
            out.extend(self.types);
            out.extend(self.strings);
            out
        }
    }

    fn sample() -> Vec<u8> {
        let mut b = Builder::default();
        let int = b.add("int", 1 << 24, 4, &[0x0100_0020]);
        let (x, y) = (b.text("x"), b.text("y"));
        let inner = b.add("inner", 4 << 24 | 2, 8, &[x, int, 0, y, int, 32]);
        let inner_t = b.add("inner_t", 8 << 24, inner, &[]);
        let (p, bit) = (b.text("p"), b.text("bit"));
        let anonymous = b.add("", 4 << 24 | 2 | 1 << 31, 16, &[p, int, 0, bit, int, 3 << 24 | 64]);
        let (a, inn) = (b.text("a"), b.text("in"));
        b.add("outer", 4 << 24 | 3, 40, &[a, int, 0, 0, anonymous, 64, inn, inner_t, 192]);
        let (dev, size) = (b.text("dev"), b.text("size"));
        let to_int = b.add("", 2 << 24, int, &[]);
        let named = b.add("handle", 8 << 24, to_int, &[]);
        let proto = b.add("", 13 << 24 | 3, 0, &[0, int, dev, named, size, int]);
        let pointer = b.add("", 2 << 24, proto, &[]);
        b.add("btf_trace_dma_map", 8 << 24, pointer, &[]);
        b.add("map_it", 12 << 24, proto, &[]);
        b.finish()
    }

    #[test]
    fn members_are_found_through_anonymous_structs_and_typedefs() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.offset_of("outer", "a"), Some(0));
        assert_eq!(btf.offset_of("outer", "p"), Some(8));
        assert_eq!(btf.offset_of("outer", "bit"), Some(16));
        assert_eq!(btf.offset_of("outer", "in.y"), Some(28));
        assert_eq!(btf.offset_of("outer", "gone"), None);
        assert_eq!(btf.offset_of("nowhere", "a"), None);
        assert_eq!(btf.size_of("outer"), Some(40));
        assert_eq!((btf.member_size("outer", "a"), btf.member_size("outer", "in")), (Some(4), None));
        assert_eq!(btf.parameters("map_it").unwrap(), ["", "dev", "size"]);
        let pointers = [0, 1, 2, 3].map(|n| btf.is_pointer("map_it", n));
        assert_eq!(pointers, [Some(false), Some(true), Some(false), None]);
        assert_eq!(btf.tracepoint_arguments("dma_map"), Some(2));
        assert_eq!(btf.tracepoint_arguments("dma_unmap"), None);
    }

    #[test]
    fn every_truncation_is_an_error_or_less_knowledge_but_never_a_panic() {
        let whole = sample();
        for end in 0..whole.len() {
            if let Ok(btf) = Btf::parse(&whole[..end]) {
                assert_eq!(btf.offset_of("outer", "gone"), None);
            }
        }
        assert!(Btf::parse(b"\x7fELF").is_err());
    }

    #[test]
    fn the_running_kernel_tells_its_device() {
        let Ok(btf) = Btf::kernel() else { return };
        let name = btf.offset_of("device", "kobj.name").unwrap();
        assert!(name < btf.size_of("device").unwrap());
        assert!(btf.offset_of("scatterlist", "page_link").is_some());
    }
}
