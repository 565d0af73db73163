//! The command as a user meets it, up to where sampling would begin.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn luaflame(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_luaflame")).args(arguments).current_dir(directory).output().unwrap()
}

/// What a run that must fail with `code` says; it must leave the directory as it was.
fn refusal(code: i32, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("kept.svg"), "kept").unwrap();
    let output = luaflame(directory.path(), arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "errors are on standard error");
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["kept.svg"], "{arguments:?} left something behind");
    assert_eq!(fs::read_to_string(directory.path().join("kept.svg")).unwrap(), "kept");
    text
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let output = luaflame(Path::new("/"), &["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["luaflame -p 1234 -t 10 -o flame.svg", "Exit codes:", "--duration", "-d", "[default: 99]", "cpu-clock"]
    {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn help_of_dump_warns_of_what_values_are() {
    let output = luaflame(Path::new("/"), &["dump", "--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["luaflame dump -p 1234", "SECRETS", "WARNING", "Exit codes:"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn a_configuration_of_the_daemon_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        fs::write(folder.path().join("luaflame.toml"), text).unwrap();
        luaflame(folder.path(), &["daemon", "--check-config", "--config", "luaflame.toml"])
    };
    let good = check("[sampling]\nfrequency = 29\n");
    assert!(good.status.success());
    assert!(String::from_utf8(good.stdout).unwrap().contains("29 in a second"));
    let wrong = check("[sampling]\nfrequency = 0\nwindow = \"1h\"\n");
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(wrong.stdout.is_empty() && said.contains("`frequency` is 0") && said.contains("`window` is"), "{said}");
    let none = check("[sampling]\nfrequncy = 19\n");
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(1) && said.contains("Line 2, column 1"), "{said}");
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &[][..],
        &["-t", "10"],
        &["-p", "0"],
        &["-p", "4194305"],
        &["-p", ""],
        &["-p", "sbin/nginx"],
        &["-p", "7", "-t", "soon"],
        &["-p", "7", "-F", "0"],
        &["-p", "7", "-F", "100000"],
        &["-p", "7", "--lines", "all"],
        &["-p", "7", "--event", "branches"],
        &["-p", "7", "--no-lua", "--lua-only"],
        &["-p", "7", "-o", ""],
        &["-p", "7", "7"],
        &["record"],
        &["record", "-p", "7", "--with-memory"],
        &["dump"],
        &["dump", "-p", "0"],
        &["dump", "-p", "7", "-o", "a.json"],
        &["report"],
        &["completions", "cmd"],
        &["report", "a.luaflame", "-o", "-"],
        &["-p", "7", "report", "a.luaflame"],
    ] {
        refusal(2, arguments);
    }
}

#[test]
fn an_unknown_format_names_the_choices() {
    for name in ["flame.png", "flame", "-", "/dev/null"] {
        let text = refusal(2, &["-p", "7", "-o", name]);
        for part in [
            name,
            ".svg (-f svg)",
            ".folded or .collapsed (-f folded)",
            ".pb.gz or .pprof (-f pprof)",
            ".speedscope.json (-f speedscope)",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}

#[test]
fn output_that_cannot_be_written_is_found_first() {
    let text = refusal(1, &["-p", "7", "-o", "none/flame.svg"]);
    assert!(text.contains("none/flame.svg cannot be written: there is no directory none"), "{text}");
    let text = refusal(1, &["-p", "7", "-f", "svg", "-o", "."]);
    assert!(text.contains("it is a directory"), "{text}");
    let text = refusal(1, &["-p", "7", "-o", "kept.svg/flame.svg"]);
    assert!(text.contains("kept.svg/flame.svg cannot be written"), "{text}");
    let text = refusal(1, &["-p", "7", "-f", "svg", "-o", "/proc/version"]);
    assert!(text.contains("/proc/version cannot be written"), "{text}");
}

#[test]
fn help_says_what_a_capture_contains() {
    for arguments in [&["--help"][..], &["record", "--help"]] {
        let text = String::from_utf8(luaflame(Path::new("/"), arguments).stdout).unwrap();
        assert!(text.contains("--with-memory") && text.contains("MEMORY OF THE"), "{text}");
    }
}

#[test]
fn a_capture_that_cannot_be_replayed_is_named() {
    let text = refusal(1, &["report", "none.luaflame", "-o", "flame.svg"]);
    assert!(text.contains("none.luaflame cannot be read: it cannot be read: No such file"), "{text}");
    let text = refusal(1, &["report", "kept.svg", "-o", "flame.svg"]);
    assert!(text.contains("kept.svg cannot be read: it is no stack with a count behind it (line 1)"), "{text}");
}

#[test]
fn stacks_of_other_tools_are_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let old = "builtin#84\n@/srv/app.lua:12\n=content_by_lua(nginx.conf:12):1\n\t15\n";
    fs::write(directory.path().join("old.bt"), old).unwrap();
    let outputs = ["-o", "old.svg", "-o", "old.folded", "-o", "old.txt", "-o", "old.pb.gz", "-o", "old.luaflame"];
    let output = luaflame(directory.path(), &[&["report", "old.bt"][..], &outputs].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read("old.folded"), "content_by_lua(nginx.conf:12):1;/srv/app.lua:12;builtin#84 15\n");
    assert!(read("old.svg").contains("15 samples, 0 lost") && !read("old.svg").contains(" Hz of "));
    // And what was made of them is read again.
    for file in ["old.folded", "old.luaflame"] {
        let output = luaflame(directory.path(), &["report", file, "-f", "folded", "-o", "-"]);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), read("old.folded"), "{file}");
    }
    fs::write(directory.path().join("cut.bt"), format!("{old}@/srv/app.lua:12\n")).unwrap();
    let output = luaflame(directory.path(), &["report", "cut.bt"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("the last stack has no count"), "{text}");
}

#[test]
fn a_name_that_no_process_has_is_said() {
    let text = refusal(1, &["doctor", "-p", "no-such-program"]);
    assert!(text.starts_with("luaflame: error: no process has the name 'no-such-program'"), "{text}");
}

#[test]
fn messages_are_in_colour_where_that_is_wanted() {
    let colored = |arguments: &[&str], no_color: bool| {
        let mut luaflame = Command::new(env!("CARGO_BIN_EXE_luaflame"));
        luaflame.args(arguments).env_remove("NO_COLOR").env("TERM", "xterm");
        if no_color {
            luaflame.env("NO_COLOR", "1");
        }
        let output = luaflame.output().unwrap();
        [output.stdout, output.stderr].concat().contains(&0x1b)
    };
    for arguments in [&["report", "none.luaflame"][..], &["--no-such-option"], &["--help"], &["report", "--help"]] {
        assert!(!colored(arguments, false), "{arguments:?} in a pipe");
        let always = [&["--color", "always"], arguments].concat();
        assert!(colored(&always, false), "{always:?}");
        assert!(colored(&always, true), "what is on the command line counts more than the environment: {always:?}");
        assert!(!colored(&[&["--color=never"], arguments].concat(), false));
    }
}

#[test]
fn every_command_has_help_with_examples_completions_and_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let text = |arguments: &[&str]| {
        let output = luaflame(directory.path(), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let help = text(&["--help"]);
    let after = help.split_once("Commands:\n").unwrap().1;
    // What is said of a command may go on in lines that are further in.
    let names = after.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let commands: Vec<&str> =
        names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"record") && commands.contains(&"man"), "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command), "{command} is not completed in {shell}");
        }
    }
    text(&["man", "pages"]);
    let page = |name: &str| fs::read_to_string(directory.path().join("pages").join(name)).unwrap();
    assert_eq!(page("luaflame.1"), text(&["man"]));
    for command in &commands {
        assert!(text(&[command, "--help"]).contains("Examples:\n"), "{command}");
        let page = page(&format!("luaflame-{command}.1"));
        assert!(page.contains(&format!("luaflame\\-{command}")) && page.contains("EXAMPLES"), "{page}");
    }
}

#[test]
fn quiet_still_says_errors() {
    let text = refusal(1, &["report", "none.luaflame", "--quiet"]);
    assert!(text.starts_with("luaflame: error: none.luaflame cannot be read"), "{text}");
}

/// Without privileges the refusal is another one, and the same holds.
#[test]
fn a_failed_run_keeps_the_existing_file() {
    // One above the highest PID of a Linux system, so no process has it.
    let text = refusal(1, &["-p", "4194304", "-t", "1", "-o", "kept.svg"]);
    assert!(text.starts_with("luaflame: error: "), "{text}");
    refusal(1, &["-p", "4194304", "-t", "1"]);
}

#[test]
fn two_profiles_are_compared() {
    let directory = tempfile::tempdir().unwrap();
    let exists = |name: &str| directory.path().join(name).exists();
    fs::write(directory.path().join("a.folded"), "main;slow 20\nmain;fast 980\n").unwrap();
    fs::write(directory.path().join("b.folded"), "main;slow 200\nmain;fast 800\n").unwrap();
    let output = luaflame(directory.path(), &["diff", "a.folded", "b.folded", "-o", "d.svg"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("   2.00 %  20.00 %   +18.00 ± 4.02   native   slow\n"), "{table}");
    assert!(exists("d.svg") && exists("d.before.svg"));
    let output = luaflame(directory.path(), &["diff", "a.folded", "b.folded", "-o", "d.txt"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(fs::read_to_string(directory.path().join("d.txt")).unwrap(), table);
    let nothing = ["diff", "a.folded", "b.folded", "--lua-only"];
    let output = luaflame(directory.path(), &nothing);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("a.folded has no stack that is to be compared"), "{text}");
    refusal(2, &["diff", "a.folded"]);
    refusal(2, &["diff", "a.folded", "b.folded", "-o", "x.pb.gz"]);
    assert!(refusal(1, &["diff", "none.luaflame", "kept.svg"]).contains("none.luaflame cannot be read"));
}

#[test]
fn the_samples_of_stacks_can_be_tried() {
    let directory = tempfile::tempdir().unwrap();
    let sample = |name: &str| format!("{}/../samples/stacks/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = luaflame(directory.path(), &["report", &sample("old.bt"), "-o", "old.svg"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output =
        luaflame(directory.path(), &["diff", &sample("before.folded"), &sample("after.folded"), "-o", "d.svg"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let grew: Vec<&str> = table.lines().skip_while(|line| *line != "GREW, BY OWN TIME").skip(2).take(2).collect();
    assert!(grew[0].contains("encode_list (shop/lua/json.lua)") && grew[1].is_empty(), "{table}");
}
