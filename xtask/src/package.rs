//! `cargo xtask package`: what is installed elsewhere than here: a static program, its manual pages and completions, and a Debian
//! package of them, in `target/package`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use luaflame_tests::programs::{Mode, Runtime, Target};

use crate::setup;
use crate::shell::{cargo, is_root, output, root, run, target_dir};

/// The name of each shell and of the file with its completions.
const COMPLETIONS: [(&str, &str); 5] = [
    ("bash", "luaflame.bash"),
    ("zsh", "_luaflame"),
    ("fish", "luaflame.fish"),
    ("elvish", "luaflame.elv"),
    ("powershell", "_luaflame.ps1"),
];

/// Builds all of it, and tries the program.
///
/// # Errors
/// When something does not build, or the program is not static or does not work.
pub fn task() -> Result<()> {
    // Where the metadata in profiler/Cargo.toml has it.
    let folder = root().join("target/package");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("completions"))?;
    let program = folder.join("luaflame");
    fs::copy(build()?, &program)?;
    is_static(&program)?;
    run(Command::new(&program).arg("--version"))?;
    if is_root() {
        profiles(&program)?;
    } else {
        eprintln!("Whether it profiles was not tried: only root may.");
    }
    run(Command::new(&program).arg("man").arg(folder.join("man")))?;
    for (shell, file) in COMPLETIONS {
        let script = output(Command::new(&program).args(["completions", shell]))?;
        fs::write(folder.join("completions").join(file), script)?;
    }
    let mut package = Command::new(setup::cargo_deb()?);
    package.current_dir(root()).args(["--package", "luaflame", "--no-build", "--no-strip", "--output"]).arg(&folder);
    run(&mut package)?;
    eprintln!("it is in {}", folder.display());
    Ok(())
}

/// Builds the program for any Linux, and returns its path.
fn build() -> Result<PathBuf> {
    setup::static_library()?;
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "luaflame", "--target", setup::STATIC]);
    // Without its debug information it has a fifth of the size.
    build.args(["--config", "profile.release.strip=true"]);
    run(&mut build).context("the static program does not build")?;
    Ok(target_dir().join(setup::STATIC).join("release/luaflame"))
}

/// That it asks for no loader and no library.
fn is_static(program: &Path) -> Result<()> {
    let headers = output(Command::new("readelf").args(["--wide", "--program-headers", "--dynamic"]).arg(program))?;
    ensure!(!headers.contains(" INTERP ") && !headers.contains("(NEEDED)"), "the program is not static:\n{headers}");
    Ok(())
}

/// That the stacks it takes of a program have the function in them that the program is in.
fn profiles(program: &Path) -> Result<()> {
    setup::for_package()?;
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    let pid = target.pid().to_string();
    let stacks = output(Command::new(program).args(["-p", &pid, "-t", "1", "-f", "folded", "-o", "-"]))?;
    ensure!(stacks.contains(";fib"), "the program does not see what a Lua program does:\n{stacks}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debian_package_has_only_what_there_is() {
        let manifest = fs::read_to_string(root().join("profiler/Cargo.toml")).expect("there is one");
        let manifest: toml::Table = manifest.parse().expect("it is TOML");
        let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("a list of files");
        let mut packed = 0;
        for asset in assets {
            let source = asset[0].as_str().and_then(|source| source.strip_prefix("../")).expect("a path");
            let exists = match source.strip_prefix("target/package/") {
                Some("luaflame" | "man/*.1") => true,
                Some(made) => COMPLETIONS.iter().any(|(_, file)| made == format!("completions/{file}")),
                None => root().join(source).is_file(),
            };
            assert!(exists, "nothing makes {source}");
            packed += 1;
        }
        assert!(packed >= 5);
    }
}
