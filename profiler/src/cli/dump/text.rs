//! What `luaflame dump` writes for people.

use indexmap::IndexMap;
use luaflame::dump::{Called, Coroutine, Doing, Dump, Sampled, VmDump};
use luaflame::format::label::{label, printable};
use luaflame::luajit::thread::{Leaf, Status};
use luaflame::profile::Frame;
use luaflame::profile::view::Lines;
use luaflame::target::steady::Steadiness;

use super::{Report, TEXT_LIMIT, value};

/// Frames of a stack that are shown at its leaf and at its root.
const LEAF_FRAMES: usize = 40;
const ROOT_FRAMES: usize = 20;
/// Stacks of a VM that are shown.
const MOST_STACKS: usize = 100;
/// VMs of a process that are shown.
const MOST_VMS: usize = 20;
/// Coroutines whose addresses are named where they have one stack.
const MOST_NAMED: usize = 3;

/// The report as lines for a terminal. `all` is to leave nothing out.
pub fn text(report: &Report, all: bool) -> String {
    let mut text = String::new();
    for process in &report.processes {
        match process {
            Ok(dump) => of_process(&mut text, dump, all),
            Err((pid, problem)) => {
                text += &format!("process {pid}\n  PROBLEM: {}\n", printable(problem, 10 * TEXT_LIMIT));
            }
        }
    }
    if let Some(why) = &report.not_sampled {
        text += &format!("Running code was not sampled: {}\n", printable(why, 10 * TEXT_LIMIT));
    }
    text
}

fn of_process(text: &mut String, dump: &Dump, all: bool) {
    let how = if dump.still { "did not run while it was read" } else { "ran on while it was read" };
    *text += &format!("process {} ({}), which {how}\n", dump.pid, printable(&dump.command, TEXT_LIMIT));
    if let Some(problem) = &dump.problem {
        *text += &format!("  PROBLEM: {}\n", printable(problem, 10 * TEXT_LIMIT));
    }
    let shown = if all { dump.vms.len() } else { MOST_VMS.min(dump.vms.len()) };
    for vm in &dump.vms[..shown] {
        of_vm(text, vm, all);
    }
    if shown < dump.vms.len() {
        *text += &format!("\n  and {} more VMs, which --all shows\n", dump.vms.len() - shown);
    }
}

fn of_vm(text: &mut String, vm: &VmDump, all: bool) {
    let version = vm.standing.version.as_deref().unwrap_or("LuaJIT of an unknown version");
    let coroutines = counted(vm.coroutines.iter().filter(|coroutine| !coroutine.main).count(), "coroutine");
    let objects = counted(vm.objects as usize, "object");
    *text += &format!("\nVM at {:#x} ({}): {coroutines} among {objects}\n", vm.vm.g, printable(version, TEXT_LIMIT));
    if let Some(why) = vm.incomplete {
        *text += &format!("  There may be more coroutines: {why}.\n");
    }
    if vm.unread > 0 {
        let unread = counted(vm.unread, "coroutine");
        *text += &format!("  {unread} could not be read: collected meanwhile, or with a stack that was being moved.\n");
    }
    if let Some(sampled) = &vm.sampled {
        of_sample(text, sampled, all);
    }
    let mut groups: IndexMap<_, Vec<&Coroutine>> = IndexMap::new();
    for coroutine in &vm.coroutines {
        // What runs is shown one by one, and so is everything when that is asked for.
        let alone = all || !matches!(coroutine.state, Doing::Resting(_));
        let alone = (alone || coroutine.main).then_some(coroutine.address);
        groups.entry((alone, coroutine.state, coroutine.read, &coroutine.frames)).or_default().push(coroutine);
    }
    let mut groups: Vec<Vec<&Coroutine>> = groups.into_values().collect();
    groups.sort_by_key(|group| (group[0].state, std::cmp::Reverse(group.len())));
    let shown = if all { groups.len() } else { MOST_STACKS.min(groups.len()) };
    for group in &groups[..shown] {
        of_group(text, group, all);
    }
    if shown < groups.len() {
        let left: usize = groups[shown..].iter().map(Vec::len).sum();
        *text += &format!("\n  and {} with other stacks, which --all shows\n", counted(left, "coroutine"));
    }
}

/// Coroutines that have one stack.
fn of_group(text: &mut String, group: &[&Coroutine], all: bool) {
    let first = group[0];
    let who = match group.len() {
        1 if first.main => "main thread".to_owned(),
        count => counted(count, "coroutine"),
    };
    let addresses: Vec<String> = group.iter().take(MOST_NAMED).map(|of| format!("{:#x}", of.address)).collect();
    let more = if group.len() > MOST_NAMED { ", ..." } else { "" };
    *text += &format!("\n  {who} {}: {}{more}\n", doing(first), addresses.join(", "));
    if first.read == Steadiness::Changed {
        *text += "    (changed each time that it was read)\n";
        return;
    }
    if let Some(note) = unknown_leaf(first) {
        *text += &format!("    ({note})\n");
    }
    // What has not begun is in no line.
    let at = if first.state == Doing::Resting(Status::Fresh) { Lines::Function } else { Lines::Line };
    lines(text, &first.frames, all, |text, called: &Called| {
        *text += &format!("    {}\n", label(&called.frame, at));
        for local in &called.variables {
            *text += &format!("        {} = {}\n", printable(&local.variable.name, TEXT_LIMIT), value(local));
        }
    });
    if let Some(by) = first.resumed_by {
        *text += &format!("    (resumed by {by:#x})\n");
    }
}

fn of_sample(text: &mut String, sampled: &Sampled, all: bool) {
    *text += &format!(
        "\n  on a CPU, in thread {}, at most {} ms after the rest was read ({}):\n",
        sampled.tid,
        sampled.after.as_millis(),
        sampled.state.name()
    );
    lines(text, &sampled.frames, all, |text, frame: &Frame| *text += &format!("    {}\n", label(frame, Lines::Line)));
}

/// Writes each frame, or of a deep stack those at both ends.
fn lines<T>(text: &mut String, frames: &[T], all: bool, mut line: impl FnMut(&mut String, &T)) {
    if all || frames.len() <= LEAF_FRAMES + ROOT_FRAMES {
        frames.iter().for_each(|frame| line(text, frame));
        return;
    }
    let root = frames.len() - ROOT_FRAMES;
    frames[..LEAF_FRAMES].iter().for_each(|frame| line(text, frame));
    *text += &format!("    ... {} more frames, which --all shows ...\n", root - LEAF_FRAMES);
    frames[root..].iter().for_each(|frame| line(text, frame));
}

/// What a coroutine is doing, as one says it.
fn doing(coroutine: &Coroutine) -> &'static str {
    match coroutine.state {
        Doing::Running => "running",
        Doing::Normal => "waiting for the coroutine that it has resumed",
        Doing::Resting(Status::Suspended) => "suspended",
        Doing::Resting(Status::Failed) => "ended by an error",
        Doing::Resting(Status::Fresh) => "not started",
        Doing::Resting(Status::Finished) => "finished",
        Doing::Resting(Status::Idle | Status::Active) => "without Lua code to run",
    }
}

/// Why the innermost frames of a coroutine are not known.
fn unknown_leaf(coroutine: &Coroutine) -> Option<&'static str> {
    match coroutine.leaf {
        Leaf::Exact => None,
        Leaf::Trace(_) => Some("it runs compiled code: what that has called, memory does not say"),
        Leaf::Stale => Some("it runs Lua code: what was called since C code called Lua last, memory does not say"),
    }
}

/// A number of things: `1 object`, `12,345 objects`.
fn counted(count: usize, what: &str) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{text} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_stacks_are_cut_in_the_middle() {
        let frames: Vec<usize> = (0..5000).collect();
        let shown = |frames: &[usize], all: bool| {
            let mut text = String::new();
            lines(&mut text, frames, all, |text, frame| *text += &format!("{frame}\n"));
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let cut = shown(&frames, false);
        assert_eq!(cut.len(), LEAF_FRAMES + 1 + ROOT_FRAMES);
        assert_eq!((cut[39].as_str(), cut[41].as_str(), cut[60].as_str()), ("39", "4980", "4999"));
        assert_eq!(cut[40], "    ... 4940 more frames, which --all shows ...");
        assert_eq!(shown(&frames, true).len(), 5000);
        assert_eq!(shown(&frames[..60], false).len(), 60);
    }

    #[test]
    fn numbers_are_readable() {
        let numbers = [0, 1, 999, 1000, 1_234_567].map(|count| counted(count, "object"));
        assert_eq!(numbers, ["0 objects", "1 object", "999 objects", "1,000 objects", "1,234,567 objects"]);
    }
}
