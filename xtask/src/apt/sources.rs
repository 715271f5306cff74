//! The Debian mirror this machine already uses, read from its apt sources.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The archive's two addresses and the keyring its signatures are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    main: String,
    security: String,
    keyring: String,
}

/// Set to a Debian mirror's address where the machine's own apt sources name none (on a derivative, say).
const OVERRIDE: &str = "SWIOSCOPE_DEBIAN_MIRROR";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Mirror {
    pub(crate) fn of_this_machine() -> Result<Mirror> {
        let entries = match std::env::var(OVERRIDE) {
            Ok(address) => vec![Entry { address, signed_by: None }],
            Err(_) => read_entries(Path::new("/etc/apt")),
        };
        Mirror::choose(&entries).with_context(|| {
            format!(
                "no Debian archive among the apt sources of this machine: set {OVERRIDE} to the address of a mirror"
            )
        })
    }

    fn choose(entries: &[Entry]) -> Option<Mirror> {
        let named = |name: &str| entries.iter().find(|entry| entry.last_part() == name);
        let main = named("debian")?;
        let security = match named("debian-security") {
            Some(entry) => entry.address.clone(),
            // Mirrors that carry both keep them side by side.
            None => format!("{}-security", main.address.trim_end_matches('/')),
        };
        // A source may carry its key inline; the archive's keyring package is then the best guess.
        let keyring = main.signed_by.clone().filter(|path| path.starts_with('/')).unwrap_or_else(|| KEYRING.to_owned());
        Some(Mirror { main: main.address.clone(), security, keyring })
    }

    pub(crate) fn sources_list(&self, suites: &[&str]) -> String {
        let line = |suite: &&str| {
            let address = if suite.ends_with("-security") { &self.security } else { &self.main };
            format!("deb [signed-by={}] {address} {suite} main\n", self.keyring)
        };
        suites.iter().map(line).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    address: String,
    signed_by: Option<String>,
}

impl Entry {
    /// `debian` of `…/debian/`, and of the `…/debian.list` that mirror+file addresses name.
    fn last_part(&self) -> &str {
        let path = self.address.trim_end_matches('/');
        let last = path.rsplit('/').next().unwrap_or(path);
        last.strip_suffix(".list").unwrap_or(last)
    }
}

fn read_entries(etc_apt: &Path) -> Vec<Entry> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(dir) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut parts: Vec<_> = dir.filter_map(|entry| Some(entry.ok()?.path())).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut entries = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => entries.extend(text.split("\n\n").flat_map(deb822)),
            Some("list") => entries.extend(text.lines().filter_map(one_line)),
            _ => {}
        }
    }
    entries
}

/// The entries of a stanza in apt's deb822 format.
fn deb822(stanza: &str) -> Vec<Entry> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"))
        || !field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"))
    {
        return Vec::new();
    }
    let signed_by = field("Signed-By").map(str::to_owned);
    field("URIs")
        .unwrap_or_default()
        .split_whitespace()
        .map(|address| Entry { address: address.to_owned(), signed_by: signed_by.clone() })
        .collect()
}

/// `deb [options] address suite component…`
fn one_line(line: &str) -> Option<Entry> {
    let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
    Some(Entry { address: rest.split_whitespace().next()?.to_owned(), signed_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(entries: &[Entry]) -> String {
        Mirror::choose(entries).unwrap().sources_list(&["bookworm", "bookworm-security"])
    }

    #[test]
    fn deb822_sources_are_read() {
        let text = "Types: deb\n# a comment: here\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /usr/share/keyrings/own.gpg\n\nTypes: deb\n\
                    URIs: http://security.invalid/debian-security/\nSuites: bookworm-security\n\nTypes: deb\nEnabled: no\n\
                    URIs: http://old.invalid/debian\n";
        let entries: Vec<_> = text.split("\n\n").flat_map(deb822).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            mirror(&entries),
            "deb [signed-by=/usr/share/keyrings/own.gpg] http://mirror.invalid/debian bookworm main\n\
             deb [signed-by=/usr/share/keyrings/own.gpg] http://security.invalid/debian-security/ bookworm-security main\n"
        );
    }

    #[test]
    fn one_line_sources_are_read() {
        let text = "# deb http://no.invalid/debian bookworm main\ndeb-src http://no.invalid/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://packages.invalid other main\ndeb http://a.invalid/debian/ bookworm main\n";
        let entries: Vec<_> = text.lines().filter_map(one_line).collect();
        assert_eq!(entries.len(), 2);
        assert!(mirror(&entries).contains(" http://a.invalid/debian/ bookworm main\n"));
        assert!(mirror(&entries).contains(" http://a.invalid/debian-security bookworm-security main\n"));
    }

    #[test]
    fn mirror_lists_of_cloud_images_count() {
        let entry = Entry { address: "mirror+file:///etc/apt/mirrors/debian.list".to_owned(), signed_by: None };
        assert!(mirror(&[entry]).contains("mirrors/debian.list bookworm main"));
    }

    #[test]
    fn without_debian_there_is_no_mirror() {
        let entry = Entry { address: "http://a.invalid/ubuntu".to_owned(), signed_by: None };
        assert_eq!(Mirror::choose(&[entry]), None);
    }
}
