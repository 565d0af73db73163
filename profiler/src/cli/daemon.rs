//! `luaflame daemon`: from the command line to the configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use luaflame::daemon::config::Config;
use luaflame::daemon::{self, logging};
use luaflame::format::label::printable;

use super::args::DaemonArgs;

/// The configuration where none is named.
const DEFAULT: &str = "/etc/luaflame/luaflame.toml";
/// Most characters of what the configuration calls something.
const NAME_LIMIT: usize = 200;

/// Profiles all processes until a signal comes.
///
/// # Errors
/// When the configuration cannot be used, or what the daemon cannot do without fails.
pub fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    logging::install().context("nothing can be logged")?;
    let (path, config) = read(args)?;
    logging::configure(config.log);
    daemon::run::run(path, config)?;
    Ok(ExitCode::SUCCESS)
}

/// What a configuration does, if it can be used.
///
/// # Errors
/// When it cannot be used; all that is wrong with it is told.
pub fn check(args: &DaemonArgs) -> anyhow::Result<String> {
    let (path, config) = read(args)?;
    Ok(summary(path.as_deref(), &config))
}

/// The configuration, and the file that it is in, if there is one.
fn read(args: &DaemonArgs) -> anyhow::Result<(Option<PathBuf>, Config)> {
    let default = || Path::new(DEFAULT).exists().then(|| PathBuf::from(DEFAULT));
    let Some(path) = args.config.clone().or_else(default) else { return Ok((None, Config::default())) };
    let config = Config::read(&path)?;
    Ok((Some(path), config))
}

fn summary(path: Option<&Path>, config: &Config) -> String {
    let named = |text: &str| printable(text, NAME_LIMIT);
    let mut lines = vec![match path {
        Some(path) => format!("{} can be used:", path.display()),
        None => format!("There is no {DEFAULT}, and every setting has its default:"),
    }];
    let sampling = &config.sampling;
    lines.push(format!(
        "  samples   {} in a second on each CPU, in windows of {:?}",
        sampling.frequency, sampling.window
    ));
    let otherwise = if config.discovery.otherwise { "profiled" } else { "left out" };
    lines.push(match config.discovery.rule.len() {
        0 => format!("  rules     none: all processes are {otherwise}"),
        rules => format!("  rules     {rules}; processes that none fits are {otherwise}"),
    });
    let store = &config.store;
    lines.push(if store.directory.as_os_str().is_empty() {
        "  store     none".to_owned()
    } else {
        format!(
            "  store     {}, at most {} and {}",
            named(&store.directory.to_string_lossy()),
            store.max_size,
            humantime::format_duration(store.max_age)
        )
    });
    for export in &config.export {
        lines.push(format!("  export    {} by {:?} to {}", named(&export.name), export.protocol, named(&export.url)));
    }
    if config.export.is_empty() {
        lines.push("  exports   none".to_owned());
    }
    lines.push(match &config.listen {
        listen if !listen.enabled => "  listens   not at all".to_owned(),
        listen => format!("  listens   on {}", listen.address),
    });
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_summed_up() {
        let config = Config::default();
        assert_eq!(
            summary(Some(Path::new("/a.toml")), &config),
            "/a.toml can be used:\n  \
             samples   19 in a second on each CPU, in windows of 15s\n  \
             rules     none: all processes are profiled\n  \
             store     /var/lib/luaflame/profiles, at most 1.0 GiB and 7days\n  \
             exports   none\n  \
             listens   on 127.0.0.1:7117\n"
        );
    }
}
