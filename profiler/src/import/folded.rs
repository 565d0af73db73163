//! Folded stacks: a line for each stack, `root;...;leaf count`.

use super::frame::frame;
use super::{MAX_FRAMES, Malformed, add, number};
use crate::profile::Profile;

/// Reads the lines into a profile. Empty lines and comments (`# ...`) are passed over.
pub(super) fn read(lines: impl Iterator<Item = String>, profile: &mut Profile) -> Result<(), Malformed> {
    for (index, line) in lines.enumerate() {
        let malformed = |reason| Malformed { line: index + 1, reason };
        let line = line.trim();
        if line.is_empty() || line.starts_with("# ") {
            continue;
        }
        let (stack, count) =
            line.rsplit_once(char::is_whitespace).ok_or(malformed("it is no stack with a count behind it"))?;
        let count = number(count).ok_or(malformed("there is no count at its end"))?;
        let frames: Vec<_> = stack.trim_end().split(';').take(MAX_FRAMES + 1).map(frame).collect();
        if frames.len() > MAX_FRAMES {
            return Err(malformed("it has more frames than a stack can have"));
        }
        if count > 0 {
            add(profile, &frames, count);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::folded_again;

    fn written(text: &str) -> String {
        folded_again(|profile| read(text.lines().map(str::to_owned), profile))
    }

    #[test]
    fn what_luaflame_writes_it_reads_and_writes_alike() {
        let ours = include_str!("../../tests/golden/example.folded");
        assert_eq!(written(ours), ours);
    }

    #[test]
    fn what_other_tools_write_is_read() {
        let text = "# perf\n\nmain;[libfoo.so];do_syscall_64_[k] 12\nmain;a b 3.7\r\nmain;none 0\n";
        assert_eq!(written(text), "main;[libfoo.so];do_syscall_64_[k] 12\nmain;a b 3\n");
    }

    #[test]
    fn what_is_no_stack_is_named_by_its_line() {
        let error = |text: &str| read(text.lines().map(str::to_owned), &mut Profile::default()).unwrap_err();
        assert_eq!(error("a;b 1\na;b"), Malformed { line: 2, reason: "it is no stack with a count behind it" });
        assert_eq!(error("a;b one"), Malformed { line: 1, reason: "there is no count at its end" });
        assert_eq!(error("a;b -1").line, 1);
        assert_eq!(error("a;b 99999999999999999999999").line, 1);
        assert_eq!(error(&format!("{} 1", ";".repeat(MAX_FRAMES))).line, 1);
    }
}
