//! What the tasks need of the machine: Debian packages, programs that are unpacked and not installed, and the probe's linker.
//!
//! Says what it installs and why before it does; what is there already is left as it is.

mod go;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, have, is_root, output, root, run, target_dir};

/// Debian packages, and what they are for.
struct Packages {
    names: &'static [&'static str],
    purpose: &'static str,
}

const NGINX: Packages = Packages {
    names: &["nginx-light", "libnginx-mod-http-lua", "wrk"],
    purpose: "nginx with lua-nginx-module, the program that is profiled, and the load for it",
};
const MODULES: Packages =
    Packages { names: &["lua-cjson"], purpose: "a Lua module in C, whose functions the tests look for by name" };
const PRIVILEGES: Packages =
    Packages { names: &["libcap2-bin"], purpose: "setcap, to try luaflame without root's privileges" };
const COMPILER: Packages = Packages {
    names: &["gcc", "make", "libc6-dev"],
    purpose: "a C compiler, for the LuaJIT builds that the tests profile",
};
const BROWSER: Packages = Packages {
    names: &["chromium", "chromium-driver"],
    purpose: "a browser and its driver, to try the page of the daemon in",
};
const CLOCK: Packages =
    Packages { names: &["libfaketime"], purpose: "a wall clock that can be set for one program, the daemon" };
const FUZZING: Packages = Packages { names: &["g++"], purpose: "a C++ compiler, for the engine of the fuzz targets" };
const MEASURING: Packages = Packages { names: &["linux-perf"], purpose: "perf, the profiler to compare with" };
const STATIC_C: Packages =
    Packages { names: &["musl-tools"], purpose: "a C compiler for static programs, for the cryptography of TLS" };
const LUAJIT: Packages = Packages {
    names: &["luajit", "libluajit-5.1-2", "libluajit-5.1-common"],
    purpose: "the LuaJIT command line of the upstream project, to be profiled",
};
const HOSTS: Packages = Packages {
    names: &["sysbench", "neovim", "python3-lupa", "dnsdist", "uwsgi-core", "uwsgi-plugin-luajit"],
    purpose: "programs that embed LuaJIT, to be profiled",
};
const PROBE: Packages = Packages {
    names: &["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev", "llvm-22", "libzstd-dev", "zlib1g-dev"],
    purpose: "a Rust compiler with the source of its library and the matching LLVM, for the probe",
};

/// The target of programs that are linked statically.
pub const STATIC: &str = "x86_64-unknown-linux-musl";
/// Version of cargo-deb that packages are made with.
const CARGO_DEB: &str = "3.8.0";
/// Version of bpf-linker that the committed probe is made with.
pub const BPF_LINKER: &str = "0.13.0";

/// Installs everything that any task needs.
///
/// # Errors
/// When something is missing and cannot be installed.
pub fn everything() -> Result<()> {
    install(&[NGINX, MODULES, PRIVILEGES, COMPILER, BROWSER, CLOCK, FUZZING, MEASURING, PROBE])?;
    luajit()?;
    hosts()?;
    go::programs()?;
    bpf_linker()?;
    static_library()?;
    cargo_deb()?;
    eprintln!("everything that the tasks need is there");
    Ok(())
}

/// What `cargo xtask demo` needs.
///
/// # Errors
/// As [`everything`].
pub fn for_demo() -> Result<()> {
    install(&[NGINX])
}

/// What `cargo xtask test` needs, without the probe's compiler.
///
/// # Errors
/// As [`everything`].
pub fn for_tests() -> Result<()> {
    install(&[NGINX, MODULES, PRIVILEGES, COMPILER, BROWSER, CLOCK])?;
    luajit()?;
    hosts()?;
    go::programs()
}

/// What `cargo xtask fuzz` needs.
///
/// # Errors
/// As [`everything`].
pub fn for_fuzzing() -> Result<()> {
    install(&[FUZZING])
}

/// What `cargo xtask bench` needs.
///
/// # Errors
/// As [`everything`].
pub fn for_bench() -> Result<()> {
    install(&[NGINX, MEASURING])?;
    luajit().map(drop)
}

/// What `cargo xtask package` tries the program on.
///
/// # Errors
/// As [`everything`].
pub fn for_package() -> Result<()> {
    luajit().map(drop)
}

/// The probe's compiler as Debian has it, and its linker.
///
/// # Errors
/// As [`everything`].
pub fn for_probe() -> Result<()> {
    install(&[PROBE])?;
    bpf_linker().map(drop)
}

/// Whether Debian's packages can be used here for the probe: apt knows them or they are installed.
pub fn has_debian_compiler() -> bool {
    if !have("apt-get") {
        return false;
    }
    let installed = missing(&[PROBE]).is_ok_and(|missing| missing.is_empty());
    if !installed && is_root() && update().is_err() {
        return false;
    }
    let known = |name: &&str| output(Command::new("apt-cache").args(["show", name])).is_ok_and(|text| !text.is_empty());
    installed || PROBE.names.iter().all(known)
}

/// Has apt learn what packages there are, once in a run of this program.
fn update() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::Relaxed) {
        run(Command::new("apt-get").args(["-q", "update"]))?;
    }
    Ok(())
}

/// The names in `wanted` of packages that are not installed.
fn missing(wanted: &[Packages]) -> Result<Vec<&'static str>> {
    // dpkg-query fails when it does not know one of the names, and still prints what it knows of the others.
    let names = wanted.iter().flat_map(|packages| packages.names);
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(names.clone())
        .stderr(Stdio::null())
        .output()
        .context("dpkg-query could not be started: set-up knows only Debian and its derivatives")?;
    let known = String::from_utf8_lossy(&known.stdout);
    let installed: Vec<&str> = known.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(names.copied().filter(|name| !installed.contains(name)).collect())
}

/// Installs what is missing of the packages `wanted`.
fn install(wanted: &[Packages]) -> Result<()> {
    let list = wanted.iter().flat_map(|packages| packages.names).copied().collect::<Vec<_>>().join(" ");
    if !have("apt-get") {
        bail!(
            "set-up installs Debian packages, and there is no apt-get here. On another distribution install what \
             corresponds to: {list}"
        );
    }
    let mut missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "these packages are missing, and only root can install them: run `sudo apt-get install {}`",
            missing.join(" ")
        );
    }
    eprintln!("These Debian packages are missing and will be installed:");
    for packages in wanted {
        let here: Vec<_> = packages.names.iter().filter(|name| missing.contains(name)).copied().collect();
        if !here.is_empty() {
            eprintln!("  {}: {}", here.join(" "), packages.purpose);
        }
    }
    let brings_nginx = missing.iter().any(|name| name.contains("nginx"));
    // wrk and the module accept either LuaJIT package. The one that OpenResty makes is what nginx servers run; if the other
    // is installed it stays, since removing it could break a program of this machine.
    if brings_nginx && !is_installed("libluajit-5.1-2") {
        missing.push("libluajit2-5.1-2");
    }
    let fresh_nginx = brings_nginx && !is_installed("nginx-common");
    let policy = if fresh_nginx { Some(NoServices::new()?) } else { None };

    update()?;
    let options = ["-q", "install", "--yes", "--no-install-recommends", "--no-remove"];
    run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(options).args(&missing))
        .context("the packages above could not be installed")?;
    drop(policy);
    if fresh_nginx && Path::new("/run/systemd/system").exists() {
        run(Command::new("systemctl").args(["disable", "--quiet", "nginx.service"]))?;
        eprintln!("nginx is installed, not started, and disabled at boot; the tasks start their own and stop it again");
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// While this lives, Debian's packages of nginx do not start it as a service of the machine.
///
/// `policy-rc.d` is Debian's way to say so. One that is there already is an administrator's word and stays.
struct NoServices {
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Made by luaflame's set-up and removed at its end.\n\
                           case \"$*\" in *nginx*) exit 101 ;; esac\nexit 0\n";

impl NoServices {
    fn new() -> Result<NoServices> {
        let there = fs::read_to_string(POLICY).is_ok_and(|text| text != POLICY_TEXT);
        if !there {
            fs::write(POLICY, POLICY_TEXT)
                .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("{POLICY} could not be written"))?;
        }
        Ok(NoServices { made: !there })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Upstream's LuaJIT as Debian builds it, unpacked under `target/luajit` and not installed: as a package it excludes
/// the one that nginx uses. Returns that folder.
///
/// # Errors
/// When the packages cannot be downloaded or unpacked.
pub fn luajit() -> Result<PathBuf> {
    let folder = root().join("target/luajit");
    unpack(&folder, &LUAJIT, || Ok(Vec::new()))?;
    Ok(folder)
}

/// Programs with LuaJIT in them, unpacked under `target/programs` with the libraries that this machine lacks: installed,
/// some of them would run as services of it.
fn hosts() -> Result<()> {
    unpack(&root().join("target/programs"), &HOSTS, || {
        let options = ["-q", "--simulate", "install", "--no-install-recommends"];
        let plan = output(Command::new("apt-get").args(options).args(HOSTS.names))?;
        let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
        Ok(lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    })
}

/// Unpacks packages in a folder, and those that `more` names; what there is of an earlier list is replaced.
fn unpack(folder: &Path, packages: &Packages, more: impl Fn() -> Result<Vec<String>>) -> Result<()> {
    // What it was made of.
    const LIST: &str = "packages";
    let list = packages.names.join(" ");
    if fs::read_to_string(folder.join(LIST)).is_ok_and(|made| made == list) {
        return Ok(());
    }
    eprintln!("These Debian packages will be unpacked in {}, not installed:", folder.display());
    eprintln!("  {list}: {}", packages.purpose);
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let download = || {
        let mut names: Vec<String> = packages.names.iter().map(|name| (*name).to_owned()).chain(more()?).collect();
        names.sort_unstable();
        names.dedup();
        // As root, apt would otherwise warn that its own user may not write here.
        let sandbox = ["-q", "-o", "APT::Sandbox::User=root", "download"];
        run(Command::new("apt-get").current_dir(&partial).args(sandbox).args(names))
    };
    if download().is_err() {
        if !is_root() {
            bail!("apt does not know where to get {list}: run `sudo apt-get update` and try again");
        }
        update()?;
        download()?;
    }
    for entry in fs::read_dir(&partial)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&path).arg(&partial))?;
            fs::remove_file(&path)?;
        }
    }
    fs::write(partial.join(LIST), list)?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(&partial, folder).with_context(|| format!("{} could not be put in place", folder.display()))
}

/// Rust's library for programs that are linked statically.
///
/// # Errors
/// When it is neither there nor can rustup install it.
pub fn static_library() -> Result<()> {
    install(&[STATIC_C])?;
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(STATIC).is_dir() {
        return Ok(());
    }
    eprintln!(
        "rustup will install Rust's library for {STATIC}: the program that `cargo xtask package` builds is linked with it"
    );
    run(Command::new("rustup").args(["target", "add", STATIC]).current_dir(root()))
        .with_context(|| format!("there is no Rust library for {STATIC}: install it, with rustup or another way"))
}

/// What makes Debian packages, built in `target/tools` unless it is there. Returns its path.
///
/// # Errors
/// When it cannot be built.
pub fn cargo_deb() -> Result<PathBuf> {
    let tools = target_dir().join("tools");
    let program = tools.join("bin/cargo-deb");
    if output(Command::new(&program).arg("--version")).is_ok_and(|version| version.trim().ends_with(CARGO_DEB)) {
        return Ok(program);
    }
    eprintln!("cargo-deb {CARGO_DEB} will be built and put in target/tools: it makes the Debian package");
    let mut build = cargo();
    build.current_dir("/").args(["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--root"]).arg(&tools);
    run(&mut build)?;
    Ok(program)
}

/// The linker of the probe, built in `target/tools` unless `PATH` has the right version. Returns its path.
///
/// # Errors
/// When it cannot be built.
pub fn bpf_linker() -> Result<PathBuf> {
    let tools = target_dir().join("tools");
    for candidate in [tools.join("bin/bpf-linker"), PathBuf::from("bpf-linker")] {
        let version = output(Command::new(&candidate).arg("--version"));
        if version.is_ok_and(|version| version.trim() == format!("bpf-linker {BPF_LINKER}")) {
            return Ok(candidate);
        }
    }
    eprintln!("bpf-linker {BPF_LINKER} will be built and put in target/tools: it links the probe");
    let mut build = cargo();
    build
        // Elsewhere than in the checkout, or its own .cargo/config.toml and lints would apply.
        .current_dir("/")
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--root"])
        .arg(&tools);
    if Path::new(LLVM).is_dir() {
        build
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM)
            .env("RUSTFLAGS", format!("-L {LLVM}/lib"));
    }
    run(&mut build)?;
    Ok(tools.join("bin/bpf-linker"))
}

/// Where Debian's llvm-22 lives.
pub const LLVM: &str = "/usr/lib/llvm-22";
