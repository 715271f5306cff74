//! Records while a command runs, and says what was seen: `record TRACE COMMAND…`; without a command, `doctor`.
#![allow(clippy::print_stdout, reason = "a program")]

use std::process::Command;

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() < 2 {
        println!("{:#?}", collector::doctor());
        return;
    }
    let options = collector::Options::new(&args[0], args[1..].join(" "));
    match run(&options, &args[1..]) {
        Ok(summary) => println!("{summary:#?}"),
        Err(e) => {
            println!("error: {e}");
            std::process::exit(1);
        }
    }
}

fn run(options: &collector::Options, command: &[String]) -> Result<collector::Summary, Box<dyn std::error::Error>> {
    let mut options = options.clone();
    if let Some(ring) = std::env::var("RING").ok().and_then(|r| r.parse().ok()) {
        options.ring_bytes = ring;
    }
    let recorder = collector::Recorder::start(&options)?;
    println!("{:#?}", recorder.choices());
    Command::new(&command[0]).args(&command[1..]).status()?;
    println!("{:?}", recorder.stats());
    Ok(recorder.finish()?)
}
