//! `cargo xtask ebpf`: builds the probe and puts it where its loader includes it, or checks the one that is there.
//!
//! The compiled probe is committed, so that everything else builds with stable Rust alone. Beside it lies a note of the
//! sources and the compilers that it was made from: with the same compilers the same bytes must come out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::setup;
use crate::shell::{have, output, root, run, target_dir};

/// What the task is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Build, and check that what is committed is what comes out, instead of replacing it
    #[arg(long)]
    pub check: bool,
}

const OBJECT: &str = "profiler/src/probe/luaflame-probe.o";
const NOTE: &str = "profiler/src/probe/luaflame-probe.toml";

/// What the committed probe was made from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// SHA-256 over the names and contents of the probe's sources.
    sources: String,
    /// The programs that made it.
    compilers: Compilers,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Compilers {
    rustc: String,
    cargo: String,
    linker: String,
    llvm: String,
}

/// Builds the probe, and puts it in place or checks the one that is there.
///
/// # Errors
/// When there is no compiler for it, when it does not build, or when the check finds a difference.
pub fn task(arguments: &Arguments) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let built = toolchain.build()?;
    let note = Note { sources: sources()?, compilers: toolchain.compilers()? };
    let (object, note_file) = (root().join(OBJECT), root().join(NOTE));
    if arguments.check {
        return check(&built, &note, &object, &note_file);
    }
    fs::create_dir_all(object.parent().context("the probe lies in a folder")?)?;
    fs::write(&object, &built).with_context(|| format!("{OBJECT} could not be written"))?;
    let text = format!("# What {OBJECT} was made from, by `cargo xtask ebpf`.\n{}", toml::to_string(&note)?);
    fs::write(&note_file, text).with_context(|| format!("{NOTE} could not be written"))?;
    eprintln!("{OBJECT}: {} bytes, {}", built.len(), note.compilers.rustc);
    Ok(())
}

fn check(built: &[u8], note: &Note, object: &Path, note_file: &Path) -> Result<()> {
    let again = "run `cargo xtask ebpf` and commit what it writes";
    let recorded = fs::read_to_string(note_file).with_context(|| format!("there is no {NOTE}: {again}"))?;
    let recorded: Note = toml::from_str(&recorded).with_context(|| format!("{NOTE} cannot be read: {again}"))?;
    ensure!(recorded.sources == note.sources, "the committed probe was made from other sources: {again}");
    let committed = fs::read(object).with_context(|| format!("there is no {OBJECT}: {again}"))?;
    if recorded.compilers != note.compilers {
        eprintln!(
            "The probe builds, and the committed one says that it was made from these sources. Whether it was cannot be \
             compared here, byte for byte, since the compilers differ:\n  recorded {:?}\n  here     {:?}",
            recorded.compilers, note.compilers
        );
        return Ok(());
    }
    ensure!(
        committed == built,
        "the committed probe is not what its sources make with the recorded compilers: {again}"
    );
    eprintln!("the committed probe is, byte for byte, what its sources make");
    Ok(())
}

/// SHA-256 over everything that the probe is made from, in a fixed order.
fn sources() -> Result<String> {
    let folder = root().join("profiler-ebpf");
    let mut files = vec![folder.join("Cargo.toml"), folder.join("Cargo.lock")];
    let mut folders = vec![folder.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&folder)?.to_str().context("a source's name is not UTF-8")?;
        let content = fs::read(&file).with_context(|| format!("{} could not be read", file.display()))?;
        // Lengths, so that no two sets of files give the same bytes.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A Rust compiler for the BPF target, with the source of its library.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Stable compilers build a library from source only when told so.
    bootstrap: bool,
    linker: PathBuf,
    strip: PathBuf,
}

impl Toolchain {
    /// Debian's compiler where Debian has it, else rustup's nightly one.
    fn find() -> Result<Toolchain> {
        if setup::has_debian_compiler() {
            setup::for_probe()?;
            return Ok(Toolchain {
                // Not the cargo that runs this: how it names things is part of what comes out.
                cargo: "/usr/bin/cargo".into(),
                rustc: "/usr/bin/rustc".into(),
                bootstrap: true,
                linker: setup::bpf_linker()?,
                strip: Path::new(setup::LLVM).join("bin/llvm-strip"),
            });
        }
        let which = |program: &str| {
            output(Command::new("rustup").args(["which", "--toolchain", "nightly", program]))
                .map(|path| PathBuf::from(path.trim()))
        };
        let (Ok(cargo), Ok(rustc)) = (which("cargo"), which("rustc")) else {
            bail!(
                "the probe needs Debian's packages of a recent Rust (rustc-web), which this machine does not have, or \
                 rustup's nightly: run `rustup toolchain install nightly --component rust-src`, and install llvm-strip"
            );
        };
        let library = sysroot(&rustc)?.join("lib/rustlib/src/rust/library/core");
        ensure!(library.is_dir(), "run `rustup component add --toolchain nightly rust-src`: the probe needs it");
        ensure!(have("llvm-strip"), "the probe needs llvm-strip: install your distribution's package of LLVM");
        Ok(Toolchain { cargo, rustc, bootstrap: false, linker: setup::bpf_linker()?, strip: "llvm-strip".into() })
    }

    fn compilers(&self) -> Result<Compilers> {
        let version =
            |program: &Path| output(Command::new(program).arg("--version")).map(|text| text.trim().to_owned());
        let strip = version(&self.strip)?;
        let llvm = strip.lines().find(|line| line.contains("LLVM version")).unwrap_or(&strip).trim().to_owned();
        Ok(Compilers {
            rustc: version(&self.rustc)?,
            cargo: version(&self.cargo)?,
            linker: version(&self.linker)?,
            llvm,
        })
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(&self.cargo);
        cargo.env("RUSTC", &self.rustc);
        // What the person or the cargo above us set is for another compiler.
        for name in
            ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
        {
            cargo.env_remove(name);
        }
        if self.bootstrap {
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }

    /// Builds the probe and returns the object's bytes.
    fn build(&self) -> Result<Vec<u8>> {
        let target = target_dir().join("ebpf");
        let probe = root().join("profiler-ebpf");
        run(self.cargo().current_dir(&probe).args(["fetch", "--locked"]))?;
        let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
        for (path, name) in self.private_paths()? {
            let path = path.to_str().context("a path of the probe's compiler is not UTF-8")?.to_owned();
            flags.push(format!("--remap-path-prefix={path}={name}"));
        }
        let mut build = self.cargo();
        build
            .current_dir(&probe)
            .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target=bpfel-unknown-none"])
            .args(["--features=probe", "--bin=luaflame-probe", "--target-dir"])
            .arg(&target)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        run(&mut build).context("the probe does not build")?;
        let object = target.join("luaflame-probe.o");
        // The loader and the kernel use the BTF; the DWARF that it was made from is ten times its size.
        run(Command::new(&self.strip)
            .args(["--strip-debug", "-o"])
            .arg(&object)
            .arg(target.join("bpfel-unknown-none/release/luaflame-probe")))?;
        fs::read(&object).context("the probe was built and cannot be read")
    }

    /// Paths of this machine that would get into the object, and what stands there instead.
    fn private_paths(&self) -> Result<Vec<(PathBuf, &'static str)>> {
        let library = sysroot(&self.rustc)?.join("lib/rustlib/src/rust");
        let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(
            || {
                std::env::home_dir()
                    .context("there is no home folder to look for cargo's files in")
                    .map(|home| home.join(".cargo"))
            },
            |home| Ok(home.into()),
        )?;
        let mut paths = vec![(root().to_owned(), "/luaflame"), (library, "/rust")];
        // One folder for each registry, named after it: with a mirror configured the crates are the same, the name is not.
        for registry in fs::read_dir(cargo_home.join("registry/src"))? {
            paths.push((registry?.path(), "/crates"));
        }
        // The compiler sees some of them by their real place.
        for (path, name) in paths.clone() {
            match path.canonicalize() {
                Ok(real) if real != path => paths.push((real, name)),
                _ => {}
            }
        }
        Ok(paths)
    }
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    output(Command::new(rustc).args(["--print", "sysroot"])).map(|path| PathBuf::from(path.trim()))
}
