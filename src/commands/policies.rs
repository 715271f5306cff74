//! `swioscope policies`: what `--policy` takes.

use std::io;
use std::process::ExitCode;

use replay::GENERATIONS;

use crate::cli::PoliciesArgs;
use crate::output;

trace::record! {
    /// A policy that can be replayed.
    pub struct PolicyInfo {
        /// What `--policy` takes.
        policy: String => Text,
        /// The kernels it stands for.
        kernels: String => Text,
        /// What sets it apart from its neighbours.
        rules: String => Text,
        /// The parameters it takes, after a colon: `ID:name=value,name=value`.
        parameters: String => Text,
    }
}

pub(crate) fn run(args: &PoliciesArgs) -> anyhow::Result<ExitCode> {
    let rows: Vec<PolicyInfo> = GENERATIONS
        .iter()
        .map(|generation| PolicyInfo {
            policy: generation.id.to_owned(),
            kernels: generation.kernels.to_owned(),
            rules: generation.doc.to_owned(),
            parameters: generation.parameters().map(|p| p.name).collect::<Vec<_>>().join(" "),
        })
        .collect();
    output::print_rows(&rows, args.format)?;
    if args.format == crate::cli::Format::Table {
        output::line(
            &mut io::stdout(),
            "\nParameters, as ID:name=value,name=value, or ID+dynamic:… for pools that come and go (6.6 and newer):",
        )?;
        for parameter in replay::PARAMETERS {
            output::line(&mut io::stdout(), format_args!("  {:<16} {}", parameter.name, parameter.doc))?;
        }
        output::line(&mut io::stdout(), "\nWhat bounces, by kernel (a release as policy, or kernel=, chooses):")?;
        for era in replay::ERAS {
            output::line(&mut io::stdout(), format_args!("  {:<12} {}", era.kernels, era.doc))?;
        }
        output::line(&mut io::stdout(), "\nPlatforms, as --platform NAME:name=value,name=value:")?;
        for row in replay::PLATFORMS {
            let parameters = row.parameters.join(" ");
            output::line(&mut io::stdout(), format_args!("  {:<14} {} [{parameters}]", row.kind.name(), row.doc))?;
        }
        for parameter in replay::PLATFORM_PARAMETERS {
            output::line(&mut io::stdout(), format_args!("  {:<14} {}", parameter.name, parameter.doc))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
