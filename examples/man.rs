//! Writes the manual pages of esper and of its commands into a folder: `cargo run --example man -- target/man`.
//! `scripts/package` has them in its packages.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("name a folder for the pages: cargo run --example man -- target/man")?;
    fs::create_dir_all(&folder)?;
    let mut esper = esper::command::command().disable_help_subcommand(true);
    esper.build();
    write(&esper, &folder)?;
    Ok(())
}

/// Writes the page of a command and those of the commands below it.
fn write(command: &Command, folder: &Path) -> io::Result<()> {
    let mut parts = command.get_subcommands().filter(|part| !part.is_hide_set()).peekable();
    let has_parts = parts.peek().is_some();
    parts.try_for_each(|part| write(part, folder))?;

    let man = Man::new(command.clone()).source(concat!("esper ", env!("CARGO_PKG_VERSION")));
    let mut page = File::create(folder.join(man.get_filename()))?;
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // As --help has it: clap_mangen would name each of the server's flags, which are more than seventy.
    let usage = command.clone().render_usage().to_string();
    lines("SYNOPSIS", usage.trim_start_matches("Usage:")).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_parts {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
        lines("NOTES", &notes.to_string()).to_writer(&mut page)?;
    }
    files().to_writer(&mut page)
}

/// Returns a section whose lines are not filled.
fn lines(name: &str, text: &str) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [name]).control("nf", []);
    for line in text.lines().map(|line| if name == "SYNOPSIS" { line.trim() } else { line }) {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section
}

/// Returns where a package has what belongs to every page.
fn files() -> Roff {
    let mut sections = Roff::new();
    sections.control("SH", ["FILES"]);
    for (path, what) in [
        (
            "/etc/esper/config.yml",
            "The configuration. Every flag is a key, by its name without the leading dashes.",
        ),
        ("/usr/lib/esper/config.yml", "What the package needs otherwise than by default, below that."),
        ("/var/lib/esper", "The events."),
        ("/usr/share/doc/esper", "The documents: docs/guide.md, flags.md, http.md and deploy.md among them."),
    ] {
        sections.control("TP", []).text([bold(path)]).text([roman(what)]);
    }
    sections
}
