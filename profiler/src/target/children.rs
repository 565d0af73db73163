//! The children of a process, and which processes are there for their children.

use std::io::ErrorKind;

use super::process::{Process, ProcessError, Stat};
use super::world::World;

/// The pids of the direct children of `pid`, ascending. Children that start or exit meanwhile may be missing.
///
/// # Errors
/// When there is no such process, or `/proc` cannot be read.
pub fn children(world: &dyn World, pid: u32) -> Result<Vec<u32>, ProcessError> {
    world.children(pid).map_err(|error| ProcessError::new(pid, "the children", error))
}

/// The same in the system that we run on.
pub(super) fn of_running(pid: u32) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("children");
        match std::fs::read_to_string(path) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // The thread has exited, or the kernel is built without CONFIG_PROC_CHILDREN.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if !std::path::Path::new("/proc/thread-self/children").exists() {
                    return by_parent(pid);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The children of `pid` found by asking every process for its parent.
fn by_parent(pid: u32) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may exit between being listed and being read.
        let Ok(text) = std::fs::read(entry.path().join("stat")) else { continue };
        if Stat::parse(&text).is_some_and(|stat| stat.parent == pid) {
            found.push(child);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether it is an nginx master: nginx titles itself `nginx: master process` and leaves all work to its children.
///
/// A worker bears its master's title until it has initialised itself, which includes `init_worker_by_lua`.
///
/// # Errors
/// When the process has exited or may not be read.
pub fn is_nginx_master(process: &Process) -> Result<bool, ProcessError> {
    if !has_master_title(process)? {
        return Ok(false);
    }
    let parent = Process::open(process.world(), process.parent()?).and_then(|parent| has_master_title(&parent));
    // A master that takes over from another one is its child, and soon has workers itself.
    Ok(!parent.unwrap_or(false) || !children(&**process.world(), process.pid())?.is_empty())
}

fn has_master_title(process: &Process) -> Result<bool, ProcessError> {
    Ok(process.arguments()?.first().is_some_and(|title| title.starts_with(b"nginx: master process")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;
    use crate::target::live::live;

    #[test]
    fn children_are_found_either_way() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = std::process::id();
        let direct = children(&*live(), pid);
        let scanned = by_parent(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(direct.unwrap().contains(&child.id()));
        assert!(scanned.unwrap().contains(&child.id()));
        assert!(matches!(children(&*live(), child.id()), Err(ProcessError::NotFound { .. })));
    }

    #[test]
    fn an_nginx_master_is_known_by_its_title() {
        for (title, is_master) in
            [("nginx: master process /usr/sbin/nginx -g x", true), ("nginx: worker process", false)]
        {
            let mut child = Command::new("sleep").arg0(title).arg("1000").spawn().unwrap();
            let process = Process::open(&live(), child.id()).unwrap();
            // It has begun to run the program, and has its title a moment later.
            while process.arguments().unwrap().is_empty() {}
            let answer = is_nginx_master(&process);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(answer.unwrap(), is_master);
        }
    }

    #[test]
    fn a_worker_that_still_bears_its_masters_title_is_none() {
        let mut master = Command::new("sh")
            .arg0("nginx: master process")
            .args(["-c", "(read line); :"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let worker = loop {
            if let [worker] = children(&*live(), master.id()).unwrap()[..] {
                break worker;
            }
        };
        let answers = [master.id(), worker].map(|pid| is_nginx_master(&Process::open(&live(), pid).unwrap()).unwrap());
        // The worker waits for a line of its standard input, which ends now.
        drop(master.stdin.take());
        master.wait().unwrap();
        assert_eq!(answers, [true, false]);
    }
}
