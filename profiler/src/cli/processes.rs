//! The processes that the user names: by PID, or by a name that only one service has.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use luaflame::format::label::printable;
use luaflame::target::children::is_nginx_master;
use luaflame::target::live::live;
use luaflame::target::process::Process;
use procfs::process::StatFlags;
use rustix::time::{ClockId, clock_gettime};
use uzers::get_user_by_uid;

use super::args::Named;

/// Processes of one name that are listed.
const LISTED: usize = 20;
/// Most characters of a command line in the list.
const COMMAND_LIMIT: usize = 100;
/// Most characters of a user's name, as wide as the column that it is in.
const USER_LIMIT: usize = 12;
/// What the kernel adds to the path of a program whose file is gone.
const DELETED: &str = " (deleted)";

/// A process that has the name that is looked for.
#[derive(Debug, Clone)]
struct Candidate {
    pid: u32,
    parent: u32,
    /// It is there for its children, which are profiled with it.
    is_master: bool,
    user: String,
    age: Duration,
    command: String,
}

/// The PIDs of the processes that are named, each once.
///
/// # Errors
/// When no process has one of the names, or several have.
pub fn resolve(named: &[Named]) -> anyhow::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for named in named {
        let pid = match named {
            Named::Pid(pid) => *pid,
            Named::Name(name) => choose(name, candidates(name)?)?,
        };
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The one process to profile. Workers belong to their nginx master.
fn choose(name: &str, mut candidates: Vec<Candidate>) -> anyhow::Result<u32> {
    let masters: Vec<u32> = candidates.iter().filter(|process| process.is_master).map(|process| process.pid).collect();
    candidates.retain(|process| process.is_master || !masters.contains(&process.parent));
    match candidates.as_slice() {
        [] => bail!(
            "no process has the name '{name}'; the whole name of the process or of its program is needed (`ps -e` lists \
             them), or a PID"
        ),
        [one] => Ok(one.pid),
        several => bail!("{} processes have the name '{name}'; -p PID chooses one:\n{}", several.len(), table(several)),
    }
}

fn table(candidates: &[Candidate]) -> String {
    let mut text = format!("  {:>7}  {:<USER_LIMIT$}  {:>8}  COMMAND", "PID", "USER", "AGE");
    for Candidate { pid, user, age, command, .. } in candidates.iter().take(LISTED) {
        let (user, command) = (printable(user, USER_LIMIT), printable(command, COMMAND_LIMIT));
        text += &format!("\n  {pid:>7}  {user:<USER_LIMIT$}  {:>8}  {command}", shown_age(*age));
    }
    if candidates.len() > LISTED {
        text += &format!("\n  and {} more", candidates.len() - LISTED);
    }
    text
}

/// The largest unit that there is one of.
fn shown_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The processes with this name, by PID: as the kernel calls them, or as the file of their program, or the first word of their command
/// line.
fn candidates(name: &str) -> anyhow::Result<Vec<Candidate>> {
    let all = procfs::process::all_processes().context("the processes in /proc cannot be listed")?;
    // A process may exit between being listed and being read.
    let mut found: Vec<Candidate> = all.flatten().filter_map(|process| candidate(name, &process)).collect();
    found.sort_by_key(|candidate| candidate.pid);
    Ok(found)
}

fn candidate(name: &str, process: &procfs::process::Process) -> Option<Candidate> {
    let stat = process.stat().ok()?;
    // Those of the kernel run no program.
    let is_kernel = StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_KTHREAD);
    let pid = u32::try_from(stat.pid).ok()?;
    if pid == std::process::id() || is_kernel || matches!(stat.state, 'Z' | 'X') {
        return None;
    }
    let mut command = Vec::new();
    process.open_relative("cmdline").ok()?.read_to_end(&mut command).ok()?;
    let command = String::from_utf8_lossy(&command);
    let words: Vec<&str> = command.trim_end_matches('\0').split('\0').collect();
    let is_file = |path: &Path| path.file_name().is_some_and(|file| file == name);
    let runs = || {
        let program = process.exe().ok()?;
        let program = program.to_str()?;
        Some(is_file(Path::new(program.strip_suffix(DELETED).unwrap_or(program))))
    };
    if stat.comm != name && !is_file(Path::new(words[0])) && !runs().unwrap_or(false) {
        return None;
    }
    let user = process.uid().ok()?;
    let user =
        get_user_by_uid(user).map_or_else(|| user.to_string(), |user| user.name().to_string_lossy().into_owned());
    let now = clock_gettime(ClockId::Boottime).tv_sec.unsigned_abs();
    Some(Candidate {
        pid,
        parent: u32::try_from(stat.ppid).unwrap_or(0),
        is_master: Process::open(&live(), pid).and_then(|process| is_nginx_master(&process)).unwrap_or(false),
        user,
        age: Duration::from_secs(now.saturating_sub(stat.starttime / procfs::ticks_per_second())),
        command: if command.is_empty() { stat.comm } else { words.join(" ") },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    fn process(pid: u32, parent: u32, is_master: bool) -> Candidate {
        let (user, command) = ("www-data".to_owned(), format!("server\u{1b}[2J number {pid}"));
        Candidate { pid, parent, is_master, user, age: Duration::from_secs(7_300), command }
    }

    #[test]
    fn workers_belong_to_their_master() {
        let service = [process(10, 1, true), process(11, 10, false), process(12, 10, false)];
        assert_eq!(choose("nginx", service.to_vec()).unwrap(), 10);
        let two = [&service[..], &[process(20, 1, true), process(21, 20, false)]].concat();
        assert!(choose("nginx", two).is_err(), "there are two of them");
        // One that takes over from another one is its child.
        assert!(choose("nginx", [&service[..], &[process(20, 10, true)]].concat()).is_err());
        let parent_and_child = vec![process(10, 1, false), process(11, 10, false)];
        assert!(choose("server", parent_and_child).is_err(), "the child is not profiled with its parent");
    }

    #[test]
    fn several_are_listed() {
        let several: Vec<Candidate> = (1..=25).map(|pid| process(pid, 0, false)).collect();
        let error = choose("server", several).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0], "25 processes have the name 'server'; -p PID chooses one:");
        assert_eq!(lines[3], "        2  www-data           2 h  server\\u{1b}[2J number 2");
        assert_eq!(lines.last(), Some(&"  and 5 more"));
    }

    #[test]
    fn ages_have_one_unit() {
        let shown = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 864_000].map(|age| shown_age(Duration::from_secs(age)));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "10 d"]);
    }

    /// A process whose first word is this; it has begun to run its program.
    fn titled(title: &str) -> Child {
        let child = Command::new("sleep").arg0(title).arg("1000").spawn().unwrap();
        let path = format!("/proc/{}/cmdline", child.id());
        while !std::fs::read(&path).unwrap().starts_with(title.as_bytes()) {}
        child
    }

    #[test]
    fn processes_are_found_by_their_whole_name_only() {
        let title = format!("luaflame-test-of-names-{}", std::process::id());
        let mut children = [titled(&format!("/opt/bin/{title}"))];
        let found = |name: &str| resolve(&[Named::Name(name.to_owned())]);
        let by_title = found(&title);
        let by_part = found(&title[..title.len() - 1]);
        let by_program = candidates("sleep").unwrap();
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(by_title.unwrap(), [children[0].id()]);
        assert!(by_part.unwrap_err().to_string().contains("no process has the name"));
        assert!(by_program.iter().any(|process| process.pid == children[0].id()));
        assert!(found(&title).is_err(), "it has exited");
    }

    #[test]
    fn luaflame_is_no_candidate() {
        let own = std::env::current_exe().unwrap();
        let name = own.file_name().unwrap().to_str().unwrap();
        assert!(candidates(name).unwrap().iter().all(|process| process.pid != std::process::id()));
    }
}
