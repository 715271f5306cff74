//! Debian's package manager with suites of our choosing.
//!
//! A private configuration in the cache names the suites; the mirror's address and keyring come from the machine's own
//! apt sources. The machine's sources and lists are left alone.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(crate) use sources::Mirror;

use crate::{cache, process};

/// apt with a configuration of our own.
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Reads what the suites have.
    pub(crate) fn update(mirror: &Mirror, suites: &[&str]) -> Result<Apt> {
        let apt = Apt { dir: cache::lab_dir()?.join("apt").join(suites.join("+")) };
        fs::create_dir_all(apt.dir.join("lists/partial"))?;
        fs::create_dir_all(apt.dir.join("cache/archives/partial"))?;
        fs::write(apt.dir.join("sources.list"), mirror.sources_list(suites))?;
        process::output(apt.command("apt-get")?.args(["-q", "update"]))?;
        Ok(apt)
    }

    /// An apt program that knows these suites only.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(process::require(program)?);
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            "Dir::Etc::SourceParts=/nonexistent".to_owned(),
            "Dir::Etc::Preferences=/nonexistent".to_owned(),
            "Dir::Etc::PreferencesParts=/nonexistent".to_owned(),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            // apt's own user could not write to a cache in somebody's home.
            "APT::Sandbox::User=".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        Ok(command)
    }

    /// The newest package of a pattern.
    pub(crate) fn newest(&self, pattern: &str) -> Result<Option<String>> {
        let found = process::output(self.command("apt-cache")?.args(["search", "--names-only", pattern]))?;
        Ok(found
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .max_by_key(|name| numbers(name))
            .map(str::to_owned))
    }

    /// What a package cannot do without, alternatives included.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let said = process::output(self.command("apt-cache")?.args(["depends", "--important", package]))?;
        Ok(said
            .lines()
            .filter_map(|line| line.split_once("Depends:"))
            .map(|(_, name)| name.trim().to_owned())
            .collect())
    }

    /// Unpacks a package, installing nothing.
    pub(crate) fn extract(&self, package: &str, to: &Path) -> Result<()> {
        let downloads = tempfile::tempdir_in(&self.dir)?;
        // What is installed here, perhaps of a newer suite, does not count.
        let download = ["-o", "Dir::State::Status=/dev/null", "-q", "download", package];
        process::output(self.command("apt-get")?.args(download).current_dir(downloads.path()))?;
        let deb = downloads.path().join(only_entry(downloads.path())?);
        process::output(Command::new(process::require("dpkg")?).arg("-x").arg(deb).arg(to))?;
        Ok(())
    }
}

/// The numbers in a name, in order: what tells 6.1.0-9 from 6.1.0-56.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The name of the only entry of a folder.
pub(crate) fn only_entry(dir: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    match names.len() {
        1 => Ok(names.remove(0)),
        found => bail!("expected one entry in {}, found {found}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_numbers() {
        let names = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-47-amd64"];
        assert_eq!(names.into_iter().max_by_key(|name| numbers(name)), Some("linux-image-6.1.0-56-amd64"));
    }
}
