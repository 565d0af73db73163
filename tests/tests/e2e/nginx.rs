//! nginx with lua-nginx-module, as Debian ships it, under load.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use luaflame_tests::graph::Graph;
use luaflame_tests::legal::{Truth, check};
use luaflame_tests::luaflame::{FREQUENCY, LINES, Luaflame, stacks};
use luaflame_tests::nginx::Nginx;
use luaflame_tests::paths::root;
use luaflame_tests::programs::entry_point;
use luaflame_tests::stacks::{Frame, Stack};

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("nginx::worker::interpreter", || worker("init_by_lua_block { jit.off()")),
        test("nginx::worker::jit", || worker(INIT)),
        test("nginx::master_means_workers", master_means_workers),
        test("nginx::reload", reload),
        test("nginx::idle_time_is_not_lua", idle_time_is_not_lua),
    ]
}

/// What begins the code that the master runs, and the code that makes the response.
const INIT: &str = "init_by_lua_block {";
const CONTENT: &str = "content_by_lua_block {";

/// The way to Lua by the event loop, which nginx exports for its modules.
const EVENTS: &str = "... ngx_process_events_and_timers ...";

/// A server with two workers that are busy.
pub fn busy(test: impl FnOnce(&mut Nginx) -> Result<()>) -> Result<()> {
    served(2, INIT, INIT, test)
}

/// A server with load on it; in its configuration, `part` stands as `replacement`.
fn served(workers: usize, part: &str, replacement: &str, test: impl FnOnce(&mut Nginx) -> Result<()>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let configuration = folder.path().join("configuration");
    fs::create_dir(&configuration)?;
    let samples = root().join("tests/nginx");
    fs::copy(samples.join("app.lua"), configuration.join("app.lua"))?;
    let text = fs::read_to_string(samples.join("nginx.conf"))?;
    ensure!(text.contains(part), "{part:?} is not in the configuration");
    fs::write(configuration.join("nginx.conf"), text.replace(part, replacement))?;
    let mut nginx = Nginx::start(&configuration, &folder.path().join("nginx"), workers, "")?;
    let load = nginx.load("/", None, 8, 60)?;
    test(&mut nginx)?;
    drop(load);
    Ok(())
}

/// Checks the stacks of the server in this folder.
fn check_served(folder: &Path, stacks: &[Stack]) -> Result<()> {
    let graph = Graph::read(&[&folder.join("app.lua"), &folder.join("nginx.conf")])?;
    let truth = Truth {
        graph: &graph,
        root: entry_point(Path::new("/usr/sbin/nginx"))?,
        start: ["access_by_lua", "content_by_lua", "log_by_lua", "produce"].map(|name| (name, EVENTS)).into(),
        seen: vec![
            vec!["access_by_lua", "access", "spin"],
            vec!["content_by_lua", "content", "sorted", "ascending", "spin"],
            vec!["produce", "spin"],
            vec!["log_by_lua", "log", "spin"],
        ],
        library: Some("/resty/core/"),
        cut: Vec::new(),
        hook: None,
        outside: true,
        stripped: true,
    };
    check(stacks, &truth)
}

fn worker(init: &str) -> Result<()> {
    served(1, INIT, init, |nginx| {
        let worker = *nginx.workers().first().context("nginx has a worker")?;
        let stacks = stacks(worker, 4, &LINES)?;
        check_served(nginx.folder(), &stacks)?;
        ensure!(
            stacks.iter().any(|stack| matches!(stack.frames.last(), Some(Frame::Kernel(_)))),
            "a busy server was never seen in the kernel"
        );
        Ok(())
    })
}

/// The master itself does nothing.
fn master_means_workers() -> Result<()> {
    served(2, INIT, INIT, |nginx| check_served(nginx.folder(), &stacks(nginx.master(), 2, &LINES)?))
}

/// The new workers run other code than the old ones, so that the graph tells them apart.
fn reload() -> Result<()> {
    served(2, INIT, INIT, |nginx| {
        let master = nginx.master().to_string();
        let mut luaflame =
            Luaflame::start(&["-p", &master, "-t", "6", "-F", FREQUENCY, "-f", "folded", "-o", "-", "--lua-only"])?;
        luaflame.wait_until_attached()?;
        let app = nginx.folder().join("app.lua");
        let text = fs::read_to_string(&app)?.replace("log = log", "log = reloaded");
        fs::write(
            &app,
            text.replace(
                "return {",
                "local function reloaded()\n    local sum = spin(9000)\n    return sum\nend\n\nreturn {",
            ),
        )?;
        nginx.reload()?;
        // Connections to the old workers end with them.
        let load = nginx.load("/", None, 8, 60)?;
        let stacks = luaflame.finish()?.success()?.stacks()?;
        drop(load);
        let seen = |name: &str| {
            stacks.iter().flat_map(|stack| &stack.frames).filter_map(Frame::lua).any(|function| function.name == name)
        };
        ensure!(seen("reloaded"), "nothing was seen of the workers that the reload has started");
        Ok(())
    })
}

/// Between requests the last coroutine is still there, yielded; its Lua frames run nowhere.
fn idle_time_is_not_lua() -> Result<()> {
    served(1, CONTENT, "content_by_lua_block { ngx.sleep(0.001)", |nginx| {
        let worker = *nginx.workers().first().context("nginx has a worker")?;
        for stack in stacks(worker, 3, &[])? {
            let waits =
                stack.frames.iter().any(|frame| matches!(frame, Frame::Other(name) if name.contains("epoll_wait")));
            ensure!(!waits || stack.frames.iter().all(|frame| frame.lua().is_none()), "Lua waits for events:\n{stack}");
        }
        Ok(())
    })
}
