//! Cases as bytes, for the fuzzer: every byte string is a case, small changes of it are small changes of the case, and
//! recorded requests can be written as one ([`Writer`]).
//!
//! Twelve bytes of header: generation; areas and segments; the pool's start in slots (2); two bytes a device, the widths
//! of its min_align_mask and of its boundary, the latter's top bit for one that does not reach all 64 bits. Then steps: 3 bytes for an unmap (one that is even, and which), 9 for a map.

use crate::differential::{Case, Step};
use replay::{GENERATIONS, Generation, Geometry, Limits, Request};

const DEVICES: usize = 4;
const HEADER: usize = 4 + 2 * DEVICES;
/// Steps of a case at most: a case is to take milliseconds.
const STEPS: usize = 500;

/// The case a byte string stands for; what is missing at its end is zero.
pub fn case(bytes: &[u8]) -> Case {
    let mut header = [0; HEADER];
    let n = bytes.len().min(HEADER);
    header[..n].copy_from_slice(&bytes[..n]);
    let rules = &GENERATIONS[usize::from(header[0]) % GENERATIONS.len()];
    let mut steps = Vec::new();
    let mut rest = &bytes[n..];
    while let Some((step, left)) = self::step(rest)
        && steps.len() < STEPS
    {
        steps.push(step);
        rest = left;
    }
    let devices = header[4..].chunks_exact(2).map(|d| limits(d[0], d[1])).collect();
    Case {
        rules,
        pool: pool(rules, header[1], u16::from_le_bytes([header[2], header[3]])),
        segment: 128,
        devices,
        steps,
    }
}

/// One to eight segments, or one or two in each of two, four or eight areas where there are any. Without areas the last segment may be
/// cut short, and in 6.0 areas may be half a segment (SPEC 2.3).
fn pool(rules: &Generation, shape: u8, start: u16) -> Geometry {
    let start = 0x7400_0000 + u64::from(start) * 2048;
    let areas = if rules.areas { 1 << (shape & 3) } else { 1 };
    let segments = u64::from(shape >> 2 & if areas == 1 { 7 } else { 1 }) + 1;
    let nslabs = match shape >> 5 {
        cut @ 1..4 if areas == 1 => segments * 128 - u64::from(cut) * 37,
        4 if rules.id == "v6_0" && areas > 1 => 64 * u64::from(areas),
        _ => segments * 128 * u64::from(areas),
    };
    Geometry { start, nslabs, areas }
}

fn limits(align: u8, width_byte: u8) -> Limits {
    let boundary = match width_byte % 32 {
        0 => u64::MAX,
        width => ones(width.max(9)),
    };
    let reach = if width_byte >> 7 == 0 { u64::MAX } else { ones(40) };
    Limits { reach, min_align_mask: ones(align % 21), boundary, ..Limits::NONE }
}

fn ones(width: u8) -> u64 {
    (1 << width) - 1
}

fn step(bytes: &[u8]) -> Option<(Step, &[u8])> {
    match *bytes {
        [first, low, high, ref rest @ ..] if first % 2 == 0 => {
            Some((Step::Unmap(usize::from(u16::from_le_bytes([low, high]))), rest))
        }
        [first, align, o0, o1, o2, o3, s0, s1, s2, ref rest @ ..] => {
            let request = Request {
                orig_addr: u64::from(u32::from_le_bytes([o0, o1, o2, o3])),
                // Never nothing, and to four times what can be had.
                size: u64::from(u32::from_le_bytes([s0, s1, s2 % 16, 0])) + 1,
                align_mask: ones(align % 19),
                cpu: u32::from(first >> 3 & 15),
            };
            Some((Step::Map { request, device: usize::from(first >> 1) % DEVICES }, rest))
        }
        _ => None,
    }
}

/// Writes a case.
#[allow(dead_code, reason = "not everybody who reads cases writes them")]
#[derive(Clone)]
pub struct Writer(Vec<u8>);

#[allow(dead_code, reason = "not everybody who reads cases writes them")]
impl Writer {
    /// A case's header: the position of its generation, the shape byte, the start in slots, the devices' masks.
    pub fn new(generation: usize, shape: u8, start: u16, devices: &[(u64, u64)]) -> Self {
        let mut bytes = vec![generation as u8, shape];
        bytes.extend(start.to_le_bytes());
        for i in 0..DEVICES {
            let (align, boundary) = devices.get(i).copied().unwrap_or((0, u64::MAX));
            bytes.extend([align.trailing_ones() as u8, boundary.trailing_ones() as u8 % 64]);
        }
        Self(bytes)
    }

    /// Adds a map.
    pub fn map(&mut self, request: &Request, device: usize) {
        let device = (device % DEVICES) as u8;
        let first = 1 | (device << 1) | ((request.cpu as u8 & 15) << 3);
        self.0.extend([first, request.align_mask.trailing_ones() as u8]);
        self.0.extend((request.orig_addr as u32).to_le_bytes());
        self.0.extend(&(request.size - 1).to_le_bytes()[..3]);
    }

    /// Adds an unmap of the mapping at a place in the list of those alive.
    pub fn unmap(&mut self, which: usize) {
        self.0.push(0);
        self.0.extend((which as u16).to_le_bytes());
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
