//! The Xen hypervisors a kernel can be booted under.

use std::fmt;
use std::str::FromStr;

/// A Debian Xen that makes a guest a dom0. Exact releases are looked up in the archive when fetched, never pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Xen {
    /// Debian 12.
    V4_17,
    /// Debian 13.
    V4_20,
}

impl Xen {
    /// All of them, oldest first.
    pub const ALL: [Xen; 2] = [Xen::V4_17, Xen::V4_20];

    /// The one that is taken where none is named.
    pub const DEFAULT: Xen = Xen::V4_17;

    /// The name used on the command line, which is how the hypervisor's own version begins.
    pub fn name(self) -> &'static str {
        match self {
            Xen::V4_17 => "4.17",
            Xen::V4_20 => "4.20",
        }
    }

    /// The folder in the cache, beside those of the kernels.
    pub fn folder(self) -> String {
        format!("xen-{self}")
    }
}

impl fmt::Display for Xen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Xen {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Xen::ALL
            .into_iter()
            .find(|xen| xen.name() == name)
            .ok_or_else(|| format!("the lab has Xen {}", Xen::ALL.map(Xen::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for xen in Xen::ALL {
            assert_eq!(xen.to_string().parse(), Ok(xen));
        }
        assert_eq!("4.19".parse::<Xen>(), Err("the lab has Xen 4.17, 4.20".to_owned()));
    }
}
