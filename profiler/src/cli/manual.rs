//! What is made of the definition of the command line: completions for shells, and manual pages.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use luaflame::format::output::Output;

use super::args::Args;

/// The script that completes command lines in a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "luaflame", &mut script);
    script
}

/// The manual page of luaflame itself.
///
/// # Errors
/// None that is known.
pub fn main_page() -> io::Result<Vec<u8>> {
    page(&built()).map(|(_, page)| page)
}

/// Writes the pages of luaflame and of each of its commands into a folder, which is made if it is not there.
///
/// # Errors
/// When they cannot be written.
pub fn write_pages(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let luaflame = built();
    let shown = luaflame.get_subcommands().filter(|command| !command.is_hide_set());
    for command in [&luaflame].into_iter().chain(shown) {
        let (name, page) = page(command)?;
        Output::at(&folder.join(name))?.write(&page)?;
    }
    Ok(())
}

/// The definition with all that is derived from it.
fn built() -> clap::Command {
    let mut command = Args::command();
    command.build();
    command
}

fn page(command: &clap::Command) -> io::Result<(String, Vec<u8>)> {
    let source = concat!("luaflame ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("luaflame");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    closing(command).to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}

/// What stands at the end of the help, which has a heading for each list, in lines that stay as they are.
fn closing(command: &clap::Command) -> Roff {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    for part in text.trim_end().split("\n\n").filter(|part| !part.is_empty()) {
        match part.split_once(":\n") {
            Some((heading, lines)) => {
                roff.control("SH", [heading.to_uppercase().as_str()]).control("nf", []);
                for line in lines.lines() {
                    roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
                }
                roff.control("fi", []);
            }
            None => {
                roff.control("PP", []).text([roman(part)]);
            }
        }
    }
    roff
}
