//! Other programs that embed LuaJIT, as Debian ships them, at work: each runs a script of `tests/hosts` whose calls are known.

use std::net::TcpStream;
use std::os::unix::fs::symlink;

use std::process::Stdio;

use anyhow::{Result, ensure};
use luaflame_tests::graph::Graph;
use luaflame_tests::hosts::{command, path, scripts, unpacked};
use luaflame_tests::legal::{Root, Truth, check};
use luaflame_tests::load::{PATIENCE, Questions, free_port, wrk};
use luaflame_tests::luaflame::{LINES, stacks};
use luaflame_tests::process::{Running, wait_until};
use luaflame_tests::programs::{Target, entry_point};
use luaflame_tests::stacks::{Frame, Stack};

use crate::nginx::busy;
use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("hosts::wrk", load_generator),
        test("hosts::sysbench", sysbench),
        test("hosts::neovim", neovim),
        test("hosts::python", python),
        test("hosts::dnsdist", dnsdist),
        test("hosts::uwsgi", uwsgi),
    ]
}

/// What is known of a program that runs a script.
struct Host<'a> {
    /// The script.
    script: &'a str,
    /// Where each stack begins.
    root: Root,
    /// The functions that the program calls, each with the way to it.
    start: &'a [(&'a str, &'a str)],
    /// Stacks of the script that are seen for sure.
    seen: &'a [&'a [&'a str]],
    /// A part of the path of the program's own Lua files.
    library: Option<&'a str>,
}

impl Host<'_> {
    /// Profiles the process and holds what is seen against the script.
    fn check(&self, pid: u32) -> Result<()> {
        let stacks = stacks(pid, 3, &LINES)?;
        let script = scripts().join(self.script);
        let graph = Graph::read(&[&script])?;
        let truth = Truth {
            graph: &graph,
            root: self.root,
            start: self.start.to_vec(),
            seen: self.seen.iter().map(|path| path.to_vec()).collect(),
            library: self.library,
            cut: Vec::new(),
            hook: None,
            outside: true,
            stripped: true,
        };
        check(&stacks, &truth)?;
        // The loops of the script take most of the time, whatever the program does else.
        let spins = |stack: &&Stack| {
            stack
                .frames
                .iter()
                .filter_map(Frame::lua)
                .any(|function| function.is_in(self.script) && function.name == "spin")
        };
        let all: u64 = stacks.iter().map(|stack| stack.count).sum();
        let spinning: u64 = stacks.iter().filter(spins).map(|stack| stack.count).sum();
        ensure!(2 * spinning > all, "of {all} samples only {spinning} are in the script's loops");
        Ok(())
    }
}

/// A load generator, which has a VM in each of its threads and runs OpenResty's LuaJIT.
fn load_generator() -> Result<()> {
    busy(|nginx| {
        let mut load = nginx.load("/", Some(&scripts().join("wrk.lua")), 4, 60)?;
        load.wait_for_work(20)?;
        let host = Host {
            script: "wrk.lua",
            root: Root::Thread,
            start: &[
                ("request", "... aeMain aeProcessEvents ... script_request"),
                ("response", "... aeMain aeProcessEvents ... script_response"),
            ],
            seen: &[&["request", "path", "spin"], &["response", "checked", "spin"]],
            library: None,
        };
        host.check(load.id())?;
        load.end();
        Ok(())
    })
}

/// A benchmark whose own Lua code calls that of the script, in two threads, one of them without the JIT compiler.
fn sysbench() -> Result<()> {
    let mut sysbench = command("sysbench")?;
    sysbench.arg(scripts().join("sysbench.lua")).args(["--threads=2", "--time=0", "--events=0", "run"]);
    let process = Running::spawn(sysbench.stdin(Stdio::null()).stdout(Stdio::null()))?;
    process.wait_for_work(20)?;
    let host = Host {
        script: "sysbench.lua",
        root: Root::Thread,
        // Its own code is not in a file.
        start: &[("event", "... lua_pcall * pcall")],
        seen: &[&["event", "transaction", "select_row", "spin"]],
        library: None,
    };
    host.check(process.id())
}

/// An editor, of which Lua is called by the event loop, by a library in Lua, and by a command that Lua has given.
fn neovim() -> Result<()> {
    let mut nvim = command("nvim")?;
    nvim.env("VIMRUNTIME", unpacked().join("usr/share/nvim/runtime"));
    nvim.args(["--headless", "-u", "NONE", "-i", "NONE", "-n", "-S"]).arg(scripts().join("nvim.lua"));
    // It tells there that it was asked to end.
    let target = Target::start(nvim.stderr(Stdio::null()))?;
    let host = Host {
        script: "nvim.lua",
        root: entry_point(&path("nvim")?)?,
        start: &[
            ("work", "... uv_run ... lua_pcall"),
            ("edit", "... state_enter ... lua_pcall @"),
            ("@", "... state_enter ... lua_pcall"),
        ],
        seen: &[&["work", "spin"], &["edit", "in_command", "spin"]],
        library: Some("vim/"),
    };
    host.check(target.pid())
}

/// An interpreter that calls Lua, which calls it, which calls Lua, in two threads.
fn python() -> Result<()> {
    let mut python = command("python3")?;
    python.env("PYTHONPATH", unpacked().join("usr/lib/python3/dist-packages"));
    let target = Target::start(python.arg(scripts().join("host.py")).arg(scripts().join("lupa.lua")))?;
    let host = Host {
        script: "lupa.lua",
        root: Root::Thread,
        start: &[("batch", "... lua_pcall")],
        seen: &[&["batch", "spin"], &["batch", "row", "spin"]],
        library: None,
    };
    host.check(target.pid())
}

/// A load balancer for DNS in C++, which answers real questions.
fn dnsdist() -> Result<()> {
    let port = free_port()?;
    let mut dnsdist = command("dnsdist")?;
    dnsdist.current_dir(scripts()).args(["--supervised", "--disable-syslog", "--config", "dnsdist.conf", "--local"]);
    dnsdist.arg(format!("127.0.0.1:{port}"));
    let process = Running::spawn(dnsdist.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let questions = Questions::start(port)?;
    let host = Host {
        script: "dnsdist.lua",
        root: Root::Thread,
        start: &[("answer", "... lua_pcall")],
        seen: &[&["answer", "allowed", "spin"]],
        library: None,
    };
    host.check(process.id())?;
    drop(questions);
    Ok(())
}

/// An application server: the application, and the coroutine that makes the body.
fn uwsgi() -> Result<()> {
    let (folder, address) = (tempfile::tempdir()?, format!("127.0.0.1:{}", free_port()?));
    // The plugin calls itself by another name than its file has.
    symlink(unpacked().join("usr/lib/uwsgi/plugins/luajit_plugin.so"), folder.path().join("lua_plugin.so"))?;
    let mut uwsgi = command("uwsgi-core")?;
    uwsgi.arg("--plugins-dir").arg(folder.path()).args(["--plugin", "lua", "--disable-logging", "--die-on-term"]);
    // 6 is what it calls Lua.
    uwsgi.args(["--http-socket", &address, "--http-socket-modifier1", "6", "--lua"]).arg(scripts().join("uwsgi.lua"));
    let process = Running::spawn(uwsgi.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    ensure!(wait_until(PATIENCE, || TcpStream::connect(&address).is_ok()), "uWSGI does not listen on {address}");
    let load = Running::spawn(wrk(&address, "/", None, 4, 60).stdin(Stdio::null()).stdout(Stdio::null()))?;
    let host = Host {
        script: "uwsgi.lua",
        root: entry_point(&path("uwsgi-core")?)?,
        start: &[
            ("run", "... simple_loop_run ... lua_pcall"),
            ("body", "... simple_loop_run ... lua_pcall coroutine.wrap_aux"),
        ],
        seen: &[&["run", "spin"], &["body", "spin"]],
        library: None,
    };
    host.check(process.id())?;
    drop(load);
    Ok(())
}
