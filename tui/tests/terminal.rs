//! The application in a real terminal (tmux): it starts, takes keys, and gives the terminal back on quit and on panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A tmux server of our own with one window.
struct Tmux {
    socket: String,
}

impl Tmux {
    /// Runs a shell command in a window of this size.
    fn start(name: &str, size: (u16, u16), command: &str) -> Self {
        let tmux = Self { socket: format!("swioscope-{name}-{}", std::process::id()) };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, command]);
        tmux
    }

    fn run(&self, arguments: &[&str]) -> String {
        let out = Command::new("tmux").args(["-L", &self.socket]).args(arguments).output();
        let out = out.expect("tmux can be started: `cargo xtask setup` installs it");
        assert!(out.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// The screen once it has some text.
    fn screen_with(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let screen = self.run(&["capture-pane", "-p"]);
            if screen.contains(text) {
                return screen;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "`{text}` does not come:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Alternate screen, mouse and cursor, as the terminal has them.
    fn modes(&self) -> String {
        self.run(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"]).trim().to_owned()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

/// The example that opens the application, built beside this test.
fn look() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    profile.join("examples/look")
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/dom0-nvme.swio")
}

/// Runs it between two looks at the terminal's settings; `rest` follows the trace on the command line.
fn between(folder: &Path, rest: &str) -> String {
    let (look, sample) = (look(), sample());
    let (before, after) = (folder.join("before"), folder.join("after"));
    format!(
        "echo still here; stty -g > {}; RUST_BACKTRACE=0 {} {} {rest}; echo ended with $?; stty -g > {}; echo settled; sleep 60",
        before.display(),
        look.display(),
        sample.display(),
        after.display()
    )
}

fn given_back(tmux: &Tmux, folder: &Path) -> String {
    let screen = tmux.screen_with("settled");
    assert!(screen.contains("still here"), "the old screen is back:\n{screen}");
    assert_eq!(tmux.modes(), "0 0 1", "no alternate screen, no mouse, a cursor");
    let settings = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(settings("before"), settings("after"), "stty");
    screen
}

#[test]
fn it_starts_takes_keys_and_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let tmux = Tmux::start("keys", (80, 24), &between(folder.path(), ""));
    tmux.screen_with("Nothing refused");
    assert_eq!(tmux.modes(), "1 1 0");
    tmux.keys(&["3"]);
    tmux.screen_with("▸3 Devices");
    tmux.keys(&[":", "5", "0", "%", "Enter"]);
    tmux.screen_with("5.446283 s");
    tmux.run(&["resize-window", "-x", "120", "-y", "40"]);
    let wide = tmux.screen_with("m M peak");
    assert_eq!(wide.lines().count(), 40);
    tmux.keys(&["?"]);
    tmux.screen_with("any key closes");
    tmux.keys(&["Escape"]);
    tmux.keys(&["q"]);
    let screen = given_back(&tmux, folder.path());
    assert!(screen.contains("ended with 0"), "{screen}");
}

#[test]
fn a_panic_gives_the_terminal_back_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let tmux = Tmux::start("panic", (100, 30), &between(folder.path(), "panic"));
    tmux.screen_with("Overview");
    let screen = given_back(&tmux, folder.path());
    assert!(screen.contains("ended with 101") && screen.contains("asked for on the command line"), "{screen}");
}
