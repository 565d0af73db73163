//! nginx with lua-nginx-module, as Debian ships it, under load.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use luaflame_tests::graph::{Graph, MAIN};
use luaflame_tests::legal::{Truth, check};
use luaflame_tests::load::free_port;
use luaflame_tests::luaflame::{FREQUENCY, LINES, Luaflame, run, stacks};
use luaflame_tests::nginx::Nginx;
use luaflame_tests::paths::{copy_folder, root};
use luaflame_tests::process::{cpu_time_of_children, wait_for_work};
use luaflame_tests::programs::entry_point;
use luaflame_tests::stacks::{Frame, Stack};
use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("nginx::worker::interpreter", || worker("init_by_lua_block { jit.off()")),
        test("nginx::worker::jit", || worker(INIT)),
        test("nginx::phases::interpreter", || phases("init_by_lua_block { jit.off()")),
        test("nginx::phases::jit", || phases(INIT)),
        test("nginx::vm_for_each_request", vm_for_each_request),
        test("nginx::master_means_workers", master_means_workers),
        test("nginx::one_service_of_a_name", one_service_of_a_name),
        test("nginx::reload", reload),
        test("nginx::idle_time_is_not_lua", idle_time_is_not_lua),
        test("nginx::waiting_is_not_lua", waiting_is_not_lua),
    ]
}

/// What begins the code that the master runs, and the code that makes the response.
const INIT: &str = "init_by_lua_block {";
const CONTENT: &str = "content_by_lua_block {";

/// The way to Lua by the event loop, which nginx exports for its modules.
const EVENTS: &str = "... ngx_process_events_and_timers ...";

/// A server with two workers that are busy.
pub fn busy(test: impl FnOnce(&mut Nginx) -> Result<()>) -> Result<()> {
    served("", 2, &[], test)
}

/// A server with load on it, of a configuration in `tests/nginx` in which each part stands as its replacement.
fn served(
    configuration: &str,
    workers: usize,
    replacements: &[(&str, &str)],
    test: impl FnOnce(&mut Nginx) -> Result<()>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nginx = start(folder.path(), configuration, workers, replacements)?;
    let load = nginx.load("/", None, 8, 60)?;
    test(&mut nginx)?;
    drop(load);
    Ok(())
}

/// A server without load, as [`served`] has it, in a folder. It has a certificate, and of the address for TLS the port is a free one.
pub fn start(folder: &Path, configuration: &str, workers: usize, replacements: &[(&str, &str)]) -> Result<Nginx> {
    let copy = folder.join("configuration");
    copy_folder(&root().join("tests/nginx").join(configuration), &copy)?;
    let file = copy.join("nginx.conf");
    let mut text = fs::read_to_string(&file)?;
    for (part, replacement) in replacements {
        ensure!(text.contains(part), "{part:?} is not in the configuration");
        text = text.replace(part, replacement);
    }
    fs::write(&file, text.replace("127.0.0.1:8443", &format!("127.0.0.1:{}", free_port()?)))?;
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(copy.join("certificate.pem"), cert.pem())?;
    fs::write(copy.join("key.pem"), signing_key.serialize_pem())?;
    Nginx::start(&copy, &folder.join("nginx"), workers, "")
}

/// The only worker.
fn only_worker(nginx: &Nginx) -> Result<u32> {
    nginx.workers().first().copied().context("nginx has a worker")
}

/// What is known of nginx with these functions.
fn truth<'a>(graph: &'a Graph, start: &[&'a str], seen: &[&[&'a str]]) -> Result<Truth<'a>> {
    Ok(Truth {
        graph,
        root: entry_point(Path::new("/usr/sbin/nginx"))?,
        start: start.iter().map(|name| (*name, EVENTS)).collect(),
        seen: seen.iter().map(|path| path.to_vec()).collect(),
        library: Some("/lua/5.1/"),
        cut: Vec::new(),
        hook: None,
        outside: true,
        stripped: true,
    })
}

/// What is called, and what was seen for sure, of the application in `tests/nginx`.
const START: [&str; 4] = ["access_by_lua", "content_by_lua", "log_by_lua", "produce"];
const SEEN: [&[&str]; 4] = [
    &["access_by_lua", "access", "spin"],
    &["content_by_lua", "content", "sorted", "ascending", "spin"],
    &["produce", "spin"],
    &["log_by_lua", "log", "spin"],
];

/// The calls of the application that is served from this folder.
fn calls(folder: &Path) -> Result<Graph> {
    Graph::read(&[&folder.join("app.lua"), &folder.join("nginx.conf")])
}

fn worker(init: &str) -> Result<()> {
    served("", 1, &[(INIT, init)], |nginx| {
        let stacks = stacks(only_worker(nginx)?, 4, &LINES)?;
        check(&stacks, &truth(&calls(nginx.folder())?, &START, &SEEN)?)?;
        ensure!(
            stacks.iter().any(|stack| matches!(stack.frames.last(), Some(Frame::Kernel(_)))),
            "a busy server was never seen in the kernel"
        );
        Ok(())
    })
}

/// Every phase of a request and of a TLS handshake, and what is resumed from C: subrequests, light threads, coroutines and timers.
fn phases(init: &str) -> Result<()> {
    served("phases", 1, &[(INIT, init)], |nginx| {
        let stacks = stacks(only_worker(nginx)?, 4, &LINES)?;
        let files = ["sub.lua", "app.lua", "nginx.conf"].map(|name| nginx.folder().join(name));
        let graph = Graph::read(&files.each_ref().map(|file| file.as_path()))?;
        let start = [
            "ssl_client_hello_by_lua",
            "ssl_session_fetch_by_lua",
            "ssl_certificate_by_lua",
            "ssl_session_store_by_lua",
            "set_by_lua",
            "rewrite_by_lua",
            "access_by_lua",
            "content_by_lua",
            "balancer_by_lua",
            "header_filter_by_lua",
            "body_filter_by_lua",
            "log_by_lua",
            MAIN,
            "light",
            "produce",
            "in_time",
            "tick",
        ];
        let seen: [&[&str]; 17] = [
            &["ssl_client_hello_by_lua", "client_hello", "spin"],
            &["ssl_session_fetch_by_lua", "fetch", "spin"],
            &["ssl_certificate_by_lua", "certificate", "spin"],
            &["ssl_session_store_by_lua", "store", "spin"],
            &["set_by_lua", "set", "spin"],
            &["rewrite_by_lua", "rewrite", "spin"],
            &["access_by_lua", "access", "spin"],
            &["content_by_lua", "content", "spin"],
            &["balancer_by_lua", "balance", "spin"],
            &["content_by_lua", "content", "header_filter_by_lua", "header_filter", "spin"],
            &["content_by_lua", "content", "body_filter_by_lua", "body_filter", "spin"],
            &["log_by_lua", "log", "spin"],
            &["sub", "spin"],
            &["light", "spin"],
            &["produce", "spin"],
            &["in_time", "spin"],
            &["tick", "spin"],
        ];
        check(&stacks, &truth(&graph, &start, &seen)?)
    })
}

/// With the code cache off, each request has a VM of its own, which is gone when the request is done.
fn vm_for_each_request() -> Result<()> {
    served("", 1, &[("access_log off;", "access_log off; lua_code_cache off;")], |nginx| {
        let stacks = stacks(only_worker(nginx)?, 4, &LINES)?;
        let graph = calls(nginx.folder())?;
        let mut truth = truth(&graph, &START, &SEEN)?;
        let made = "... ngx_http_lua_init_vm ...";
        truth.start.extend([("init_by_lua", EVENTS), ("@", made)]);
        check(&stacks, &truth)
    })
}

/// The master itself does nothing.
fn master_means_workers() -> Result<()> {
    busy(|nginx| check(&stacks(nginx.master(), 2, &LINES)?, &truth(&calls(nginx.folder())?, &START, &SEEN)?))
}

/// Master and workers have one name, which means them all.
fn one_service_of_a_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let name = "nginx-by-name";
    let program = folder.path().join(name);
    fs::copy("/usr/sbin/nginx", &program)?;
    let nginx = Nginx::start_program(&program, &root().join("tests/nginx"), &folder.path().join("nginx"), 2, "")?;
    let load = nginx.load("/", None, 8, 60)?;
    let record = ["-p", name, "-t", "2", "-F", FREQUENCY, "-f", "folded", "-o", "-", "--by", "process"];
    let stacks = run(&record)?.success()?.stacks()?;
    drop(load);
    // With few connections one worker may have them all.
    let workers: Vec<String> = nginx.workers().iter().map(u32::to_string).collect();
    let of_worker = |stack: &Stack| matches!(&stack.frames[..], [Frame::Other(process), ..] if workers.iter().any(|worker| process.contains(worker)));
    ensure!(stacks.iter().all(of_worker), "it has stacks of others than the workers of {name}");
    ensure!(stacks.iter().any(|stack| stack.frames.iter().any(|frame| frame.lua().is_some())), "no Lua was seen");
    Ok(())
}

/// A reload under load: of the workers that it starts no time is missing, and each is seen in its own code, since the new ones call
/// another function.
fn reload() -> Result<()> {
    /// Seconds of CPU time that may be missing: until the new workers are watched, and after luaflame has stopped.
    const MISSING: f64 = 1.0;
    served("", 2, &[("app.log() --> log", "app.log() --> log, access")], |nginx| {
        let master = nginx.master().to_string();
        let mut arguments = vec!["-p", &master, "-t", "6", "-F", FREQUENCY, "-f", "folded", "-o", "-"];
        arguments.extend(LINES);
        let mut luaflame = Luaflame::start(&arguments)?;
        luaflame.wait_until_attached()?;
        let before = cpu_time_of_children(nginx.master()).context("nginx runs")?;
        let configuration = nginx.folder().join("nginx.conf");
        fs::write(&configuration, fs::read_to_string(&configuration)?.replace("app.log()", "app.access()"))?;
        nginx.reload()?;
        // Connections to the old workers end with them.
        let load = nginx.load("/", None, 8, 60)?;
        let finished = luaflame.finish()?.success()?;
        let after = cpu_time_of_children(nginx.master()).context("nginx runs")?;
        drop(load);

        let stacks = finished.stacks()?;
        let mut seen = SEEN.to_vec();
        seen.push(&["log_by_lua", "access", "spin"]);
        check(&stacks, &truth(&calls(nginx.folder())?, &START, &seen)?)?;
        let samples: u64 = stacks.iter().map(|stack| stack.count).sum();
        let (used, sampled) = ((after - before) as f64 / 100.0, samples as f64 / FREQUENCY.parse::<f64>()?);
        ensure!(sampled > used - MISSING, "the workers ran for {used} s, of which {sampled} s were sampled");
        Ok(())
    })
}

/// Between requests the last coroutine is still there, yielded; its Lua frames run nowhere.
fn idle_time_is_not_lua() -> Result<()> {
    served("", 1, &[(CONTENT, "content_by_lua_block { ngx.sleep(0.001)")], |nginx| {
        for stack in stacks(only_worker(nginx)?, 3, &[])? {
            let waits =
                stack.frames.iter().any(|frame| matches!(frame, Frame::Other(name) if name.contains("epoll_wait")));
            ensure!(!waits || stack.frames.iter().all(|frame| frame.lua().is_none()), "Lua waits for events:\n{stack}");
        }
        Ok(())
    })
}

/// All coroutines wait for a timer or a socket, and nginx is busy with what is not Lua.
fn waiting_is_not_lua() -> Result<()> {
    const COROUTINES: usize = 20;
    let folder = tempfile::tempdir()?;
    let nginx = start(folder.path(), "idle", 1, &[])?;
    let mut waiting = Vec::new();
    for path in ["/asleep", "/reading"] {
        for _ in 0..COROUTINES {
            let mut connection = TcpStream::connect(nginx.address())?;
            write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            waiting.push(connection);
        }
    }
    let compressed = nginx.load("/nginx.conf", Some(&nginx.folder().join("load.lua")), 8, 60)?;
    let encrypted = nginx.load("/nginx", None, 8, 60)?;
    // Longer than it takes to come to waiting.
    wait_for_work(only_worker(&nginx)?, 50)?;
    let stacks = stacks(only_worker(&nginx)?, 3, &[])?;
    drop((compressed, encrypted));
    for stack in &stacks {
        let lua = |frame: &Frame| match frame {
            Frame::Lua(_) => true,
            Frame::Marker(name) => name.contains("Lua"),
            Frame::Kernel(_) | Frame::Other(_) => false,
        };
        ensure!(!stack.frames.iter().any(lua), "no Lua runs:\n{stack}");
    }
    let compresses = |stack: &Stack| stack.frames.contains(&Frame::Other("deflate".to_owned()));
    ensure!(stacks.iter().any(compresses), "it was not seen compressing");
    for function in ["ngx_ssl_handshake", "ngx_ssl_write"] {
        // The functions of libcrypto that do the work have no names.
        let cipher = |frame: &Frame| matches!(frame, Frame::Other(name) if name.starts_with("libcrypto."));
        let encrypts = |stack: &Stack| {
            let mut above = stack.frames.iter().skip_while(|frame| **frame != Frame::Other(function.to_owned()));
            above.any(cipher)
        };
        ensure!(stacks.iter().any(encrypts), "{function} was not seen at work in libcrypto");
    }
    for connection in &waiting {
        connection.set_nonblocking(true)?;
        let answered = connection.peek(&mut [0]);
        ensure!(answered.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "a coroutine did not wait");
    }
    Ok(())
}
