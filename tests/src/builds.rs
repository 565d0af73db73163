//! Builds of LuaJIT, each linked into our own program `tests/hosts/host.c`. They are made when they are first asked for, and kept
//! under `target/truth`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::paths::{copy_folder, root, target_dir};

/// Where the LuaJIT of a build is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The sources in this version of the crate `luajit-src`.
    Crate(&'static str),
    /// Debian's package `libluajit-5.1-2`, unpacked under `target/luajit`: upstream's LuaJIT.
    Debian,
    /// Debian's package `libluajit2-5.1-2`, as it is installed: OpenResty's LuaJIT.
    DebianLuajit2,
}

/// The versions of `luajit-src` that are built: the first is upstream's, then come four of OpenResty's, then rolling releases of
/// upstream.
pub const VERSIONS: [&str; 8] =
    ["210.0.0", "210.1.4", "210.2.0", "210.3.4", "210.4.8", "210.5.12", "210.6.6", "210.7.4"];

/// A build. As text, the source and what differs from the default, such as `210.4.8-nogc64-dualnum-shared-stripped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// The LuaJIT.
    pub source: Source,
    /// With 64-bit references, which is the default.
    pub gc64: bool,
    /// With numbers that are integers when they can be, which is not the default on x86-64.
    pub dualnum: bool,
    /// Linked as a shared library.
    pub shared: bool,
    /// Without symbols, in the library and in the program.
    pub stripped: bool,
}

impl Build {
    /// A version of `luajit-src` with its default flags, linked statically, with symbols.
    pub const fn plain(version: &'static str) -> Build {
        Build { source: Source::Crate(version), gc64: true, dualnum: false, shared: false, stripped: false }
    }

    /// The builds that Debian's packages make.
    pub const DEBIAN: [Build; 2] = [
        Build { source: Source::Debian, shared: true, stripped: true, ..Build::plain("") },
        Build { source: Source::DebianLuajit2, shared: true, stripped: true, ..Build::plain("") },
    ];

    /// One build of each version with each set of flags, and Debian's. The four ways to link go round, so that each is met with every
    /// flag and in most of the versions.
    pub fn matrix() -> Vec<Build> {
        let mut builds = Build::DEBIAN.to_vec();
        for (row, version) in VERSIONS.into_iter().enumerate() {
            for (column, (gc64, dualnum)) in
                [(true, false), (true, true), (false, false), (false, true)].into_iter().enumerate()
            {
                let link = row + column;
                let (shared, stripped) = (link % 2 == 1, link / 2 % 2 == 1);
                builds.push(Build { gc64, dualnum, shared, stripped, ..Build::plain(version) });
            }
        }
        builds
    }

    /// The program, made if it is not there yet.
    ///
    /// # Errors
    /// When the LuaJIT or the program cannot be built.
    pub fn program(&self) -> Result<PathBuf> {
        self.link().with_context(|| format!("{self} could not be built"))
    }

    fn link(&self) -> Result<PathBuf> {
        let host = root().join("tests/hosts/host.c");
        let folder = target_dir().join("truth/hosts").join(self.to_string());
        let program = folder.join("host");
        let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        if modified(&program) > modified(&host) {
            return Ok(program);
        }
        fs::create_dir_all(&folder)?;
        let (headers, library) = match self.source {
            Source::Crate(version) => {
                let built = self.luajit(version)?;
                let library = built.join(self.library());
                (built, library)
            }
            // The API is the same in all of them.
            Source::Debian => (sources("210.4.8")?.join("src"), of_debian(&root().join("target/luajit"))?),
            Source::DebianLuajit2 => (sources("210.4.8")?.join("src"), of_debian(Path::new("/"))?),
        };
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", "-pthread", "-o"]).arg(&program).arg("-I").arg(headers);
        if self.shared {
            // Beside the program, so that it is this library that is found, and under the name that it has for the linker.
            let shared = folder.join("libluajit-5.1.so.2");
            fs::copy(&library, &shared)?;
            cc.arg(&host).arg(&shared).arg("-Wl,-rpath,$ORIGIN");
        } else {
            cc.arg(&host).arg(&library);
        }
        run(cc.args(["-lm", "-ldl"]))?;
        if self.stripped {
            let mut strip = Command::new("strip");
            strip.arg("--strip-all").arg(&program);
            if self.shared {
                strip.arg(folder.join("libluajit-5.1.so.2"));
            }
            run(&mut strip)?;
        }
        Ok(program)
    }

    /// What the library is called in the folder that it is made in.
    fn library(&self) -> &'static str {
        if self.shared { "libluajit.so" } else { "libluajit.a" }
    }

    /// Builds the LuaJIT, once, and returns the folder with its headers and the library, which has symbols.
    fn luajit(&self, version: &str) -> Result<PathBuf> {
        let name = Build { stripped: false, ..*self }.to_string();
        let all = target_dir().join("truth/luajit");
        let folder = all.join(&name);
        let src = folder.join("src");
        if src.is_dir() {
            return Ok(src);
        }
        let source = sources(version)?;
        // Put in its place when it is whole.
        let partial = all.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        copy_folder(&source, &partial)?;
        // The version of a rolling release is in a file beside the sources that git would make.
        if let Ok(release) = fs::read(source.with_file_name("luajit_relver.txt")) {
            fs::write(partial.join(".relver"), release)?;
        }
        let mut flags = Vec::new();
        if !self.gc64 {
            flags.push("-DLUAJIT_DISABLE_GC64");
        }
        if self.dualnum {
            flags.push("-DLUAJIT_NUMMODE=2");
        }
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.arg("-C").arg(partial.join("src")).arg(format!("-j{jobs}")).arg(format!("XCFLAGS={}", flags.join(" ")));
        make.arg(format!("BUILDMODE={}", if self.shared { "dynamic" } else { "static" }));
        // The makefile would strip the shared library.
        run(make.args(["TARGET_STRIP=@:", self.library()]))?;
        fs::rename(&partial, &folder)?;
        Ok(src)
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::Crate(version) => version,
            Source::Debian => return f.write_str("debian"),
            Source::DebianLuajit2 => return f.write_str("debian2"),
        })?;
        for (said, flag) in
            [(!self.gc64, "nogc64"), (self.dualnum, "dualnum"), (self.shared, "shared"), (self.stripped, "stripped")]
        {
            if said {
                write!(f, "-{flag}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Build {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Build> {
        let known = Build::DEBIAN.into_iter().chain(VERSIONS.map(Build::plain));
        let mut words = text.split('-');
        let source = words.next().unwrap_or_default();
        let build = known.into_iter().find(|build| build.to_string() == source);
        let mut build = build.with_context(|| format!("there is no LuaJIT `{source}`"))?;
        for word in words {
            match word {
                "nogc64" => build.gc64 = false,
                "dualnum" => build.dualnum = true,
                "shared" => build.shared = true,
                "stripped" => build.stripped = true,
                _ => bail!("a build is not `{word}`, but may be nogc64, dualnum, shared or stripped"),
            }
        }
        ensure!(build.to_string() == text, "there is no build `{text}`, but perhaps `{build}`");
        Ok(build)
    }
}

/// The library of Debian's package below a root folder.
fn of_debian(root: &Path) -> Result<PathBuf> {
    let path = root.join("usr/lib/x86_64-linux-gnu/libluajit-5.1.so.2");
    ensure!(path.is_file(), "there is no {}: run `cargo xtask setup`", path.display());
    Ok(path)
}

/// The LuaJIT in a version of `luajit-src`.
fn sources(version: &str) -> Result<PathBuf> {
    let package = unpacked(version)?;
    let found = ["luajit2", "luajit"].map(|name| package.join(name)).into_iter().find(|folder| folder.is_dir());
    found.with_context(|| format!("there is no LuaJIT in {}", package.display()))
}

/// The folder that cargo has unpacked a version of `luajit-src` in; it downloads it first when it must.
fn unpacked(version: &str) -> Result<PathBuf> {
    let folder = target_dir().join("truth/sources").join(version);
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"source\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             [dependencies]\nluajit-src = \"={version}\"\n\n[workspace]\n"
        ),
    )?;
    fs::write(folder.join("lib.rs"), "")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let tree = output(cargo.current_dir(&folder).args(["metadata", "--format-version", "1", "--quiet"]))?;
    let (before, _) = tree
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split_once("/Cargo.toml\""))
        .find(|(folder, _)| folder.contains("/luajit-src-"))
        .context("cargo does not say where it has unpacked luajit-src")?;
    Ok(PathBuf::from(before))
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    // What cargo sets for this program is about another package.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("OUT_DIR").env_remove("MAKEFLAGS").stdin(Stdio::null());
    let out = command.output().with_context(|| format!("{} could not be started", command.get_program().display()))?;
    ensure!(out.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    String::from_utf8(out.stdout).context("its output is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_by_its_name() {
        for build in Build::matrix() {
            let name = build.to_string();
            assert_eq!(name.parse::<Build>().unwrap_or_else(|error| panic!("{name}: {error}")), build);
        }
        assert_eq!("210.7.4".parse::<Build>().unwrap(), Build::plain("210.7.4"));
        for name in ["", "210.9.9", "210.7.4-fast", "210.7.4-stripped-shared", "debian-nogc64"] {
            assert!(name.parse::<Build>().is_err(), "{name}");
        }
    }

    #[test]
    fn every_way_to_link_meets_every_set_of_flags() {
        let mut met: Vec<_> = Build::matrix()
            .into_iter()
            .filter(|build| matches!(build.source, Source::Crate(_)))
            .map(|build| (build.gc64, build.dualnum, build.shared, build.stripped))
            .collect();
        assert_eq!(met.len(), 32);
        met.sort_unstable();
        met.dedup();
        assert_eq!(met.len(), 16);
    }
}
