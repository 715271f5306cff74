//! Writes the fuzzer's seeds from the vectors: `cargo run --release -p replay --example fuzz-seeds -- DIR` fills
//! DIR/differential and DIR/script. Run again it writes the same files again.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers")]

#[path = "../tests/reference/bytes.rs"]
mod bytes;
#[allow(dead_code, reason = "only its types are used here")]
#[path = "../tests/reference/differential.rs"]
mod differential;
#[allow(dead_code, reason = "only its types are used here")]
#[path = "../tests/reference/mod.rs"]
mod literal;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use replay::{Allocator, GENERATIONS, Request};

/// Lines taken of a file: enough to fill a pool of a few segments, few enough to be played thousands of times a second.
const LINES: usize = 400;

fn main() {
    let out = std::env::args().nth(1).expect("usage: fuzz-seeds DIR");
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/kernel");
    for kind in ["differential", "script"] {
        fs::create_dir_all(Path::new(&out).join(kind)).unwrap();
    }
    let mut written = 0;
    for set in ["events", "events-dyn", "xen-x86", "xen-arm"] {
        let Ok(files) = fs::read_dir(vectors.join(set)) else { continue };
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        for (i, path) in files.iter().enumerate() {
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(name) = name.strip_suffix(".events.csv.gz") else { continue };
            let mut text = String::new();
            flate2::read::MultiGzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).take(LINES).collect();
            fs::write(Path::new(&out).join("script").join(name), lines.join("\n")).unwrap();
            written += 1;
            if set == "events" {
                // Every file with two generations, every generation with some file.
                for generation in [i % GENERATIONS.len(), (i * 5 + 7) % GENERATIONS.len()] {
                    let name = format!("{name}-{}", GENERATIONS[generation].id);
                    fs::write(Path::new(&out).join("differential").join(name), seed(&lines, generation)).unwrap();
                    written += 1;
                }
            }
        }
    }
    println!("{written} seeds in {out}");
}

/// A file's requests to a smaller pool, as a case.
fn seed(lines: &[&str], generation: usize) -> Vec<u8> {
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut devices = vec![(0, u64::MAX); 4];
    for line in lines {
        if let ["dev", n, _, align, boundary, _] = line.split(',').collect::<Vec<_>>()[..]
            && let Some(device) = devices.get_mut(n.parse::<usize>().unwrap())
        {
            *device = (hex(align), hex(boundary));
        }
    }
    // Four segments, in two areas where there are any.
    let areas = GENERATIONS[generation].areas;
    let mut writer = bytes::Writer::new(generation, if areas { 0b101 } else { 0b1100 }, 0, &devices);
    let case = bytes::case(&writer.clone().into_bytes());
    let mut allocator = Allocator::new(case.rules, &[case.pool]);
    let mut alive: Vec<(&str, u64, usize)> = Vec::new();
    for line in lines {
        match line.split(',').collect::<Vec<_>>()[..] {
            ["map" | "smap", id, cpu, orig, size, ref rest @ ..] if size != "0" => {
                let (align, device) = match *rest {
                    [align, device] => (hex(align), device),
                    _ => (0, rest[0]),
                };
                let (cpu, size): (u32, u64) = (cpu.parse().unwrap(), size.parse().unwrap());
                let request = Request { orig_addr: hex(orig) & 0xffff_ffff, size, align_mask: align, cpu: cpu % 16 };
                let device = device.parse::<usize>().unwrap() % devices.len();
                writer.map(&request, device);
                if let Ok(taken) = allocator.map(&request, &case.devices[device]) {
                    alive.push((id, taken.tlb_addr, device));
                }
            }
            ["unmap", id] => {
                if let Some(at) = alive.iter().position(|a| a.0 == id) {
                    writer.unmap(at);
                    let (_, tlb_addr, device) = alive.swap_remove(at);
                    allocator.unmap(tlb_addr, &case.devices[device]);
                }
            }
            _ => {}
        }
    }
    writer.into_bytes()
}
