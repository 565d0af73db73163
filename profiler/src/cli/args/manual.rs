//! `luaflame completions` and `luaflame man`.

use std::path::PathBuf;

use clap_complete::Shell;

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  luaflame completions bash | sudo tee /usr/share/bash-completion/completions/luaflame >/dev/null
  luaflame completions zsh > ~/.zfunc/_luaflame
  luaflame completions fish > ~/.config/fish/completions/luaflame.fish
";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  luaflame man | man -l -                       read it
  sudo luaflame man /usr/local/share/man/man1   install the pages of all commands
";

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Folder to write the pages of all commands into; without it, the main page goes to standard output
    #[arg(value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
}
