//! The daemon with no more privileges than its unit gives it.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use luaflame_tests::luaflame::program;
use luaflame_tests::paths::root;
use luaflame_tests::process::{Running, wait_until};
use luaflame_tests::programs::{Mode, Runtime, Target};

use crate::{Test, test};

/// The user and group `nobody`.
const NOBODY: &str = "65534";
/// How long the first profile may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![test("daemon_privileges::unit", unit), test("daemon_privileges::manifest", manifest)]
}

/// The capabilities that a setting of the unit lists.
fn listed(unit: &str, setting: &str) -> Result<Vec<String>> {
    let value = unit.lines().find_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    let value = value.with_context(|| format!("the unit has no {setting}"))?;
    Ok(value.split_whitespace().map(str::to_owned).collect())
}

/// With the capabilities of the unit, and as another user than root, it profiles a process of root; and only the thread that samples
/// keeps them.
fn unit() -> Result<()> {
    let unit = fs::read_to_string(root().join("samples/daemon/luaflame.service"))?;
    let capabilities = listed(&unit, "AmbientCapabilities")?;
    ensure!(capabilities == listed(&unit, "CapabilityBoundingSet")?, "the unit lists two sets");
    let names: Vec<String> =
        capabilities.iter().map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    let (given, bounding) = (names.join(","), format!("-all,{}", names.join(",")));

    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
    let copy = folder.path().join("luaflame");
    fs::copy(program(), &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    let (store, config) = (folder.path().join("profiles"), folder.path().join("luaflame.toml"));
    fs::write(
        &config,
        format!(
            "[sampling]\nfrequency = 99\nwindow = \"1s\"\n[store]\ndirectory = {store:?}\n[spool]\ndirectory = \"\"\n\
             [listen]\naddress = \"127.0.0.1:0\"\n[kill_switch]\nfile = {:?}\n",
            folder.path().join("off")
        ),
    )?;
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    let log = folder.path().join("log");
    let mut daemon = Running::spawn(
        Command::new("setpriv")
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"])
            .args(["--inh-caps", &given, "--ambient-caps", &given, "--bounding-set", &bounding])
            .arg(&copy)
            .args(["daemon", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(File::create(&log)?),
    )?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let found = wait_until(PATIENCE, || shows(&store, "fib") || !matches!(daemon.ended(), Ok(None)));
    ensure!(found && daemon.ended()?.is_none(), "no profile of process {}; it logged:\n{}", target.pid(), said());

    for task in fs::read_dir(format!("/proc/{}/task", daemon.id()))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let has_none =
            ["CapEff:", "CapPrm:", "CapAmb:", "CapInh:"].map(|set| field(set).trim_start_matches('0').is_empty());
        match field("Name:") {
            "sampler" => ensure!(!has_none[0], "the sampler has no capabilities:\n{status}"),
            name => ensure!(has_none == [true; 4], "the thread {name} has capabilities:\n{status}"),
        }
    }
    daemon.end();
    ensure!(daemon.ended()?.is_some_and(|status| status.success()), "it did not end well:\n{}", said());
    Ok(())
}

/// Whether a finished profile in this directory, or below it, holds this text.
fn shows(directory: &Path, text: &str) -> bool {
    let entries: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.iter().any(|path| {
        let mut bytes = Vec::new();
        let is_profile = path.extension().is_some_and(|extension| extension == "gz" || extension == "pprof");
        path.is_dir() && shows(path, text)
            || is_profile
                && File::open(path).is_ok_and(|file| GzDecoder::new(file).read_to_end(&mut bytes).is_ok())
                && bytes.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

/// The manifest for Kubernetes gives the capabilities of the unit, and holds a configuration of ours.
fn manifest() -> Result<()> {
    let unit = fs::read_to_string(root().join("samples/daemon/luaflame.service"))?;
    let manifest = fs::read_to_string(root().join("samples/daemon/kubernetes.yaml"))?;
    let added =
        manifest.lines().find_map(|line| line.trim().strip_prefix("add: ")).context("it adds no capabilities")?;
    let added: Vec<String> = serde_json::from_str(added)?;
    let added: Vec<String> = added.iter().map(|name| format!("CAP_{name}")).collect();
    ensure!(added == listed(&unit, "AmbientCapabilities")?, "the manifest adds {added:?}");
    let (_, config) = manifest.split_once("luaflame.toml: |\n").context("it has no configuration")?;
    let lines = config.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef\n")?;
    let text: String = lines.map(|line| line.trim_start().to_owned() + "\n").collect();
    let text = text.replace("/run/secrets/luaflame/token", &token.to_string_lossy());
    let file = folder.path().join("luaflame.toml");
    fs::write(&file, &text)?;
    let checked = Command::new(program()).args(["daemon", "--check-config", "--config"]).arg(&file).output()?;
    ensure!(checked.status.success(), "{}\n{text}", String::from_utf8_lossy(&checked.stderr));
    Ok(())
}
