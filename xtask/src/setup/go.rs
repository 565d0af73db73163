//! Programs that tests send profiles to and read them with, built from their published Go modules in `target/tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{have, output, run, target_dir};

/// The version of the Collector's modules, and that of those of them which are stable.
const COLLECTOR: (&str, &str) = ("v0.154.0", "v1.60.0");
/// The version of `pprof`, which has no releases.
const PPROF: &str = "v0.0.0-20261105003125-4bf881d7fb0b";
/// The first version of Go that fetches the version that a module asks for by itself.
const GO: (u32, u32) = (1, 21);

/// Builds what is not there yet.
///
/// # Errors
/// When there is no Go, or something cannot be fetched or built.
pub fn programs() -> Result<()> {
    collector()?;
    pprof()
}

/// An OpenTelemetry Collector that takes profiles, logs what it has taken, and passes it on.
fn collector() -> Result<()> {
    let (version, stable) = COLLECTOR;
    let module = |kind: &str, name: &str, version: &str| {
        format!("  - gomod: go.opentelemetry.io/collector/{kind}/{name} {version}\n")
    };
    let manifest = [
        "dist:\n  name: otelcol\n  output_path: .\n",
        "receivers:\n",
        &module("receiver", "otlpreceiver", version),
        "exporters:\n",
        &module("exporter", "debugexporter", version),
        &module("exporter", "otlphttpexporter", version),
        "providers:\n",
        &module("confmap/provider", "fileprovider", stable),
        &module("confmap/provider", "yamlprovider", stable),
        "conf_resolver:\n  default_uri_scheme: file\n",
    ]
    .concat();
    let purpose = "a real OpenTelemetry Collector, to send profiles to";
    build("otelcol", version, &manifest, purpose, |folder| {
        fs::write(folder.join("builder.yaml"), &manifest)?;
        let builder = format!("go.opentelemetry.io/collector/cmd/builder@{version}");
        run(Command::new("go").current_dir(folder).args(["run", &builder, "--config", "builder.yaml"]))
    })
}

fn pprof() -> Result<()> {
    let purpose = "the program that profiles in its format are for";
    build("pprof", PPROF, PPROF, purpose, |folder| {
        let module = format!("github.com/google/pprof@{PPROF}");
        run(Command::new("go").current_dir(folder).env("GOBIN", folder).args(["install", &module]))
    })
}

/// Puts `target/tools/bin/NAME` in place, which `make` makes in an empty folder, unless what is there was made of the same.
fn build(name: &str, version: &str, made_of: &str, purpose: &str, make: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let programs = target_dir().join("tools/bin");
    let (program, note) = (programs.join(name), programs.join(format!("{name}.made-of")));
    if program.exists() && fs::read_to_string(&note).is_ok_and(|note| note == made_of) {
        return Ok(());
    }
    check_go(name)?;
    eprintln!("{name} {version} will be built with Go and put in target/tools: {purpose}");
    let folder = empty(target_dir().join("tools").join(format!("{name}.partial")))?;
    make(&folder)?;
    fs::create_dir_all(&programs)?;
    fs::rename(folder.join(name), &program).with_context(|| format!("{name} has not been built"))?;
    fs::write(note, made_of)?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn empty(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn check_go(name: &str) -> Result<()> {
    let (major, minor) = GO;
    if !have("go") {
        bail!(
            "{name} is built with Go, and there is no `go` here: install Go {major}.{minor} or newer from https://go.dev/dl/ or as \
             a package (Debian's golang-go where it is new enough)"
        );
    }
    let version = output(Command::new("go").args(["env", "GOVERSION"]))?;
    let known: Option<(u32, u32)> = (|| {
        let mut numbers = version.trim().strip_prefix("go")?.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })();
    if known.is_some_and(|known| known < GO) {
        bail!("{name} is built with Go {major}.{minor} or newer, and here is {}: install a newer one", version.trim());
    }
    Ok(())
}
