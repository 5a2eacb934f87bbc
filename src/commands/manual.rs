//! `image-store completions` and `image-store man`, which are generated from the definition of the command line.

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{self, Write};
use std::process::ExitCode;

use super::Outcome;

/// Prints a shell's completion script.
///
/// # Errors
/// Returns an error if the output cannot be written.
pub fn completions(mut command: Command, shell: Shell) -> Outcome {
    let (name, mut script) = (command.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

/// Prints the manual page of the program, or of one of its commands, in the format of man(7).
///
/// # Errors
/// Returns an error if there is no such command, or if the output cannot be written.
pub fn man(mut program: Command, name: Option<&str>) -> Outcome {
    // Commands get the settings and their full names when the definition is complete.
    program.build();
    let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
    let command = match name {
        Some(name) => program.find_subcommand(name).ok_or_else(|| unknown(&program, name))?.clone(),
        None => program,
    };
    let mut page = Vec::new();
    Man::new(command).source(source).render(&mut page)?;
    print(&page)
}

fn unknown(program: &Command, name: &str) -> String {
    let known: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
    format!("'{name}' is not a command; use one of {}", known.join(", "))
}

fn print(text: &[u8]) -> Outcome {
    io::stdout().write_all(text)?;
    Ok(ExitCode::SUCCESS)
}
