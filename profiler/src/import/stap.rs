//! The stacks of the SystemTap tools (`lj-lua-stacks` of stapxx, `ngx-sample-lua-bt`, `sample-bt`, with or without `fix-lua-bt`): a frame on
//! each line, the leaf first, and then the count on a line of its own.
//!
//! ```text
//! builtin#84
//! @/srv/app.lua:12
//! =content_by_lua(nginx.conf:12):1
//!     15
//! ```
//!
//! The tools print a chunk name as it is. One of several lines cannot be told from several frames, and is read as those.

use super::frame::{frame, stap_frame};
use super::{MAX_FRAMES, Malformed, add};
use crate::profile::{Frame, Profile};

/// Whether these are such stacks and not folded ones: then a count is alone on its line.
pub(super) fn is_it(lines: impl Iterator<Item = String>) -> bool {
    lines.into_iter().any(|line| alone(&line).is_some())
}

fn alone(line: &str) -> Option<u64> {
    let line = line.trim();
    line.bytes().all(|byte| byte.is_ascii_digit()).then(|| line.parse().ok()).flatten()
}

/// Reads the lines into a profile.
pub(super) fn read(lines: impl Iterator<Item = String>, profile: &mut Profile) -> Result<(), Malformed> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut last = 0;
    for (index, line) in lines.enumerate() {
        last = index + 1;
        let malformed = |reason| Malformed { line: last, reason };
        if let Some(count) = alone(&line) {
            // `sample-bt` counts samples of which it had no stack.
            if frames.is_empty() {
                frames.push(frame("[no stack]"));
            }
            frames.reverse();
            if count > 0 {
                add(profile, &frames, count);
            }
            frames.clear();
        } else if !line.trim().is_empty() {
            if frames.len() >= MAX_FRAMES {
                return Err(malformed("its stack has more frames than a stack can have"));
            }
            frames.push(stap_frame(line.trim()));
        }
    }
    if frames.is_empty() {
        return Ok(());
    }
    Err(Malformed { line: last, reason: "the last stack has no count, so the file may have been cut" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::folded_again;

    fn written(text: &str) -> String {
        folded_again(|profile| read(text.lines().map(str::to_owned), profile))
    }

    #[test]
    fn stacks_of_lua_functions_are_turned_root_first() {
        let text = "builtin#84\n@/srv/app.lua:12\n=content_by_lua(nginx.conf:12):1\n\t15\n\
                    T:@/srv/app.lua:30\n@/srv/app.lua:12\n\t7\n\
                    C:ngx_http_lua_ngx_say\n@/srv/app.lua:12\n\t3\n";
        assert_eq!(
            written(text),
            "/srv/app.lua:12;/srv/app.lua:30_[j] 7\n\
             /srv/app.lua:12;ngx_http_lua_ngx_say 3\n\
             content_by_lua(nginx.conf:12):1;/srv/app.lua:12;builtin#84 15\n"
        );
    }

    #[test]
    fn names_that_were_looked_up_are_names_of_lua_functions() {
        let text = "resty.core.regex:gsub\napp.lua:88\n C:0x4a2b30\n\t15\n";
        assert_eq!(written(text), "0x4a2b30;app.lua:88;gsub (resty.core.regex) 15\n");
    }

    #[test]
    fn native_stacks_lose_their_addresses() {
        let text = " 0xffffffff8103ce3b : native_safe_halt+0xb/0x10 [kernel]\n 0x4a2b30 : ngx_process_events+0x10/0x80 [/usr/sbin/nginx]\n \
                    0x7f2c00010203\n\t2404\n\t5\n";
        assert_eq!(written(text), "0x7f2c00010203;ngx_process_events;native_safe_halt_[k] 2404\n[no stack] 5\n");
    }

    #[test]
    fn a_file_that_was_cut_is_refused() {
        let error = read(["a", "\t1", "b"].map(str::to_owned).into_iter(), &mut Profile::default()).unwrap_err();
        assert_eq!(error, Malformed { line: 3, reason: "the last stack has no count, so the file may have been cut" });
    }
}
