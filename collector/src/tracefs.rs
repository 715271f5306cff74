//! Classic tracepoints as tracefs describes them: a record of plain members, each at its place. No BTF is needed.

use std::fs;
use std::path::Path;

use probe::Layout;
use probe::layout::ABSENT;

/// Where tracefs is mounted, when it is.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whether tracefs is mounted where it is looked for.
#[must_use]
pub fn is_mounted() -> bool {
    ROOTS.iter().any(|root| Path::new(root).join("events").is_dir())
}

/// How a tracepoint's record looks; nothing when tracefs or the tracepoint is not there, or may not be read.
fn format(group: &str, name: &str) -> Option<String> {
    ROOTS.iter().find_map(|root| fs::read_to_string(format!("{root}/events/{group}/{name}/format")).ok())
}

/// The byte at which a member of a record begins; of a `__data_loc` that at which its place stands.
fn place(format: &str, member: &str) -> Option<u32> {
    // "	field:__data_loc char[] dev_name;	offset:8;	size:4;	signed:0;"
    let is_member = |line: &&str| {
        let declared = line.trim_start().strip_prefix("field:").and_then(|rest| rest.split(';').next());
        declared.and_then(|declared| declared.split_whitespace().next_back()) == Some(member)
    };
    let line = format.lines().find(is_member)?;
    line.split(';').find_map(|part| part.trim().strip_prefix("offset:")?.parse().ok())
}

/// Notes where the members of `swiotlb:swiotlb_bounced` are.
pub fn discover(layout: &mut Layout) {
    if let Some(format) = format("swiotlb", "swiotlb_bounced") {
        let at = |member| place(&format, member).unwrap_or(ABSENT);
        layout.bounced_dev_name = at("dev_name");
        layout.bounced_dma_mask = at("dma_mask");
        layout.bounced_dev_addr = at("dev_addr");
        layout.bounced_size = at("size");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 6.1 shows it.
    const FORMAT: &str = "name: swiotlb_bounced\nID: 471\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:__data_loc char[] dev_name;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:u64 dma_mask;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:dma_addr_t dev_addr;\toffset:24;\tsize:8;\tsigned:0;\n\
        \tfield:size_t size;\toffset:32;\tsize:8;\tsigned:0;\n\
        \tfield:bool force;\toffset:40;\tsize:1;\tsigned:0;\n\n\
        print fmt: \"dev_name: %s dma_mask=%llx dev_addr=%llx size=%zu %s\", __get_str(dev_name)\n";

    #[test]
    fn members_are_found_by_their_name_alone() {
        let of = |member| place(FORMAT, member);
        assert_eq!(["dev_name", "dma_mask", "dev_addr", "size"].map(of), [Some(8), Some(16), Some(24), Some(32)]);
        // Neither a part of a name, nor a type, nor what the last line says.
        assert_eq!(["name", "mask", "u64", "nothing"].map(of), [None; 4]);
        assert_eq!(place("field:u64 size;\toffset:many;", "size"), None);
    }
}
