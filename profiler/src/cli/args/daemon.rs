//! `luaflame daemon`.

use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "\
Examples:
  sudo luaflame daemon                                    with /etc/luaflame/luaflame.toml, or without it with the defaults
  luaflame daemon --check-config --config luaflame.toml   say what is wrong with a configuration, or what it does

Signals:
  SIGHUP   reads the configuration again; one that is wrong changes nothing
  SIGTERM  sends what there is, within a time that the configuration gives, and ends

Exit codes:
  0  ended by a signal, or the configuration can be used
  1  an error, or the configuration cannot be used
  2  the command line is wrong
";

#[derive(Debug, clap::Args)]
pub struct DaemonArgs {
    /// The configuration; without it /etc/luaflame/luaflame.toml if that exists, and else every setting has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Only say whether the configuration can be used: all that is wrong with it, or what would be done
    #[arg(long)]
    pub check_config: bool,
}
