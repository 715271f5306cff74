//! The emulated devices a guest can be given something to do with.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An emulated device with its driver loaded. Disks are found in the guest as `/dev/load/NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// An NVMe disk with up to this many I/O queues. 64-bit: bounces only when forced to.
    Nvme {
        /// Pairs of I/O queues the controller offers. The driver uses one for reading and one for writing a CPU.
        queues: u32,
    },
    /// A SATA disk on the AHCI of the Q35 chipset.
    Ahci,
    /// An IDE disk on PIIX: 32-bit, so it bounces by itself when memory lies above 4 GiB.
    Ide,
    /// A 32-bit network card.
    E1000,
    /// A 64-bit network card.
    E1000e,
    /// QEMU's teaching device, which the lab's module drives: what is mapped is what a job commands, and counted.
    Edu,
    /// A virtio disk that goes through the DMA API (`iommu_platform=on`).
    Virtio,
}

impl Load {
    /// The names `FromStr` takes; `nvme` may have a number of queues, as in `nvme:4`.
    pub const NAMES: [&str; 7] = ["nvme", "ahci", "ide", "e1000", "e1000e", "virtio", "edu"];

    /// The name used on the command line and under `/dev/load`.
    pub fn name(self) -> &'static str {
        match self {
            Load::Nvme { .. } => "nvme",
            Load::Ahci => "ahci",
            Load::Ide => "ide",
            Load::E1000 => "e1000",
            Load::E1000e => "e1000e",
            Load::Virtio => "virtio",
            Load::Edu => "edu",
        }
    }

    /// Whether it is a disk, which is to say needs a backing file.
    pub fn is_disk(self) -> bool {
        !matches!(self, Load::E1000 | Load::E1000e | Load::Edu)
    }

    /// Modules to load, as `NAME` or `NAME:PARAMETER=VALUE`, on a machine of so many CPUs.
    pub(super) fn modules(self, cpus: u32) -> Vec<String> {
        match self {
            // The driver takes one queue a CPU, whatever the controller offers, unless told to keep some for writing,
            // of which it again takes one a CPU at most.
            Load::Nvme { queues: 0 | 1 } => vec!["nvme".to_owned()],
            Load::Nvme { queues } => vec![format!("nvme:write_queues={}", queues.div_ceil(2).min(cpus))],
            Load::Ahci => vec!["ahci".to_owned(), "sd_mod".to_owned()],
            Load::Ide => vec!["ata_piix".to_owned(), "sd_mod".to_owned()],
            Load::E1000 => vec!["e1000".to_owned()],
            Load::E1000e => vec!["e1000e".to_owned()],
            Load::Virtio => vec!["virtio_blk".to_owned()],
            // Its module takes parameters that the job knows.
            Load::Edu => Vec::new(),
        }
    }

    /// QEMU's arguments. The backing file is `NAME.raw` in QEMU's working folder.
    pub(super) fn qemu_args(self, disk_iops: Option<u32>) -> Vec<String> {
        let name = self.name();
        let device = match self {
            Load::Nvme { queues } => {
                format!("nvme,serial=swioscope-nvme,drive=nvme,max_ioqpairs={}", queues.max(1))
            }
            // The controller is part of the q35 machine.
            Load::Ahci => "ide-hd,bus=ide.0,drive=ahci".to_owned(),
            Load::Ide => "piix4-ide,id=pata -device ide-hd,bus=pata.0,drive=ide".to_owned(),
            Load::E1000 | Load::E1000e => format!("{name},netdev={name}"),
            Load::Virtio => "virtio-blk-pci,drive=virtio,iommu_platform=on,disable-legacy=on".to_owned(),
            Load::Edu => name.to_owned(),
        };
        let backend = if self == Load::Edu {
            String::new()
        } else if self.is_disk() {
            let limit = disk_iops.map(|limit| format!(",throttling.iops-total={limit}")).unwrap_or_default();
            format!("-drive if=none,format=raw,cache=unsafe,id={name},file={}{limit}", self.backing().display())
        } else {
            format!("-netdev user,restrict=on,id={name}")
        };
        format!("{backend} -device {device}").split_whitespace().map(str::to_owned).collect()
    }

    pub(super) fn backing(self) -> PathBuf {
        PathBuf::from(format!("{}.raw", self.name()))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, queues) = match text.split_once(':') {
            Some((name, queues)) => (name, Some(queues)),
            None => (text, None),
        };
        let load = match name {
            "nvme" => {
                let queues = queues.unwrap_or("4").parse();
                let queues = queues.ok().filter(|queues| (1..=256).contains(queues));
                return queues
                    .map(|queues| Load::Nvme { queues })
                    .ok_or_else(|| "nvme:N takes a number of queues from 1 to 256".to_owned());
            }
            "ahci" => Load::Ahci,
            "ide" => Load::Ide,
            "e1000" => Load::E1000,
            "e1000e" => Load::E1000e,
            "virtio" => Load::Virtio,
            "edu" => Load::Edu,
            _ => return Err(format!("the lab's loads are {}", Load::NAMES.join(", "))),
        };
        match queues {
            None => Ok(load),
            Some(_) => Err(format!("only nvme takes a number of queues, {name} does not")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for name in Load::NAMES {
            assert_eq!(name.parse::<Load>().unwrap().name(), name);
        }
        assert_eq!("nvme:7".parse(), Ok(Load::Nvme { queues: 7 }));
    }

    #[test]
    fn wrong_loads_say_what_is_right() {
        assert!("floppy".parse::<Load>().unwrap_err().contains("ahci, ide"));
        assert!("nvme:0".parse::<Load>().unwrap_err().contains("1 to 256"));
        assert!("ahci:2".parse::<Load>().unwrap_err().contains("only nvme"));
    }
}
