use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, ValueEnum};
use log::LevelFilter;
use luaflame::format::Format;
use luaflame::profile::view::{By, Lines};
use luaflame::record;

use super::drawing::FormatArg;
use super::values::{duration, process};
use super::{Args, Destination, Named, Plan, Source, Work};

fn args(arguments: &[&str]) -> Result<Args, clap::Error> {
    Args::read(["luaflame"].iter().chain(arguments).map(OsString::from))
}

fn plan(arguments: &[&str]) -> Result<Plan, clap::Error> {
    match args(arguments)?.work()? {
        Work::Draw(plan) => Ok(*plan),
        _ => panic!("it draws nothing"),
    }
}

fn options(plan: &Plan) -> &record::Options {
    match &plan.source {
        Source::Processes { options, .. } => options,
        Source::File(_) => panic!("it records nothing"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn times_are_seconds_or_have_a_unit() {
    for (text, milliseconds) in
        [("10", 10_000), ("10s", 10_000), ("1m", 60_000), ("0.5", 500), ("1.5m", 90_000), ("250ms", 250), (".5", 500)]
    {
        assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "s", "-1", "+1", "0", "0s", "1e3", "inf", "nan", "1d", "1 s", "1..2", ".", "9999999999999h", "1µs"]
    {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn processes_can_be_repeated_and_listed() {
    let named = |arguments: &[&str]| match plan(arguments).unwrap() {
        Plan { source: Source::Processes { processes, .. }, outputs, .. } => (processes, outputs),
        other => panic!("{other:?}"),
    };
    let (processes, outputs) = named(&["-p", "7", "--pid", "8,nginx,9"]);
    let name = Named::Name("nginx".to_owned());
    assert_eq!(processes, [Named::Pid(7), Named::Pid(8), name, Named::Pid(9)]);
    assert!(matches!(&outputs[..], [(Destination::Unused(stem), Format::Svg)] if stem == "luaflame-7"));
    let (_, outputs) = named(&["-p", "nginx,7"]);
    assert!(matches!(&outputs[..], [(Destination::Unused(stem), Format::Svg)] if stem == "luaflame-nginx"));
}

#[test]
fn a_number_is_a_pid_and_a_path_no_name() {
    assert_eq!(process("4194304"), Ok(Named::Pid(1 << 22)));
    assert_eq!(process("7z"), Ok(Named::Name("7z".to_owned())));
    for text in ["", "0", "4194305", "99999999999999999999", "sbin/nginx", "/"] {
        assert!(process(text).is_err(), "{text}");
    }
}

#[test]
fn all_names_of_the_time_are_known() {
    for option in ["-t", "--time", "-d", "--duration"] {
        let plan = plan(&["-p7", option, "3"]).unwrap();
        assert_eq!(options(&plan).duration, Some(Duration::from_secs(3)), "{option}");
    }
    assert_eq!(options(&plan(&["-p7"]).unwrap()).duration, None);
}

#[test]
fn the_format_is_told_by_the_option_before_the_name() {
    let format_of = |arguments: &[&str]| plan(arguments).unwrap().outputs[0].1;
    assert_eq!(format_of(&["-p7", "-o", "a.folded"]), Format::Folded);
    assert_eq!(format_of(&["-p7", "-o", "a.svg", "-f", "folded"]), Format::Folded);
    assert_eq!(format_of(&["-p7", "-o", "-", "-f", "svg"]), Format::Svg);
    for argument in FormatArg::value_variants() {
        let extensions: Vec<_> = argument.format().extensions().collect();
        assert!(!extensions.is_empty(), "{argument:?} is the format of no file");
        for extension in extensions {
            assert_eq!(format_of(&["-p7", "-o", &format!("a.{extension}")]), argument.format(), "{extension}");
        }
    }
    let error = plan(&["-p7", "-o", "-"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn the_syntax_of_stapxx_is_for_folded_stacks() {
    assert!(plan(&["-p7", "-o", "a.folded", "--frames", "stapxx"]).unwrap().stapxx);
    assert!(!plan(&["-p7", "-o", "a.folded"]).unwrap().stapxx);
    assert_eq!(plan(&["-p7", "-o", "a.svg", "--frames", "stapxx"]).unwrap_err().exit_code(), 2);
}

#[test]
fn formats_with_a_place_for_both_lines_get_both() {
    let lines = |lines: &str, format| plan(&["-p7", "--lines", lines]).unwrap().view_for(format).lines;
    assert_eq!(lines("function", Format::Pprof), Lines::Both);
    assert_eq!(lines("line", Format::Firefox), Lines::Both);
    assert_eq!(lines("none", Format::Pprof), Lines::None);
    assert_eq!(lines("function", Format::Folded), Lines::Function);
}

#[test]
fn record_means_what_no_command_means() {
    let arguments = ["-p7", "-t3", "-o", "a.svg", "--with-memory", "a.luaflame"];
    let recorded = plan(&[&["record"][..], &arguments[..]].concat()).unwrap();
    assert_eq!(format!("{recorded:?}"), format!("{:?}", plan(&arguments).unwrap()));
    assert!(matches!(recorded.source, Source::Processes { with_memory: Some(_), .. }));
    assert_eq!(plan(&["record"]).unwrap_err().exit_code(), 2, "no process");
}

#[test]
fn several_files_tell_their_formats() {
    let plan_of = plan(&["-p7", "-o", "a.svg", "-o", "b.luaflame", "--lua-only"]).unwrap();
    let formats: Vec<Format> = plan_of.outputs.iter().map(|(_, format)| *format).collect();
    assert_eq!(formats, [Format::Svg, Format::Capture]);
    assert!(options(&plan_of).kernel, "what is not drawn now may be drawn later");
    assert_eq!(plan(&["-p7", "-o", "a.svg", "-o", "b.svg", "-f", "folded"]).unwrap_err().exit_code(), 2);
}

#[test]
fn a_report_is_drawn_under_the_name_of_its_capture() {
    let report = plan(&["report", "folder/slow.luaflame", "--lines", "line"]).unwrap();
    assert!(matches!(&report.source, Source::File(path) if path.ends_with("slow.luaflame")));
    assert!(matches!(&report.outputs[..], [(Destination::Unused(stem), Format::Svg)] if stem == "slow"));
    assert_eq!(plan(&["report", "a.luaflame", "-o", "-"]).unwrap_err().exit_code(), 2, "no format");
    assert_eq!(plan(&["report"]).unwrap_err().exit_code(), 2, "no capture");
    assert_eq!(plan(&["-p7", "report", "a.luaflame"]).unwrap_err().exit_code(), 2, "both");
}

#[test]
fn what_to_draw_is_understood() {
    let plan_of =
        plan(&["report", "a.luaflame", "--threads", "--include", "^a", "--include=b", "--min-percent", "0.5%"]);
    let Plan { view, min_percent, .. } = plan_of.unwrap();
    assert_eq!((view.by, view.include.len(), min_percent), (Some(By::Thread), 2, 0.5));
    for wrong in [
        &["--include", "("][..],
        &["--min-percent", "101"],
        &["--min-percent", "nan"],
        &["--threads", "--by", "vm"],
        &["--native-only", "--lua-only"],
    ] {
        assert_eq!(plan(&[&["report", "a.luaflame"], wrong].concat()).unwrap_err().exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn lua_only_needs_no_kernel_stacks() {
    let plan = plan(&["-p7", "--lua-only", "--lines", "line"]).unwrap();
    assert!(plan.view.lua_only && !options(&plan).kernel && options(&plan).lua);
    assert_eq!(plan.view.lines, Lines::Line);
}

#[test]
fn top_knows_how_often_and_how_far_back() {
    let work = |arguments: &[&str]| args(&[&["top"], arguments].concat())?.work();
    let Ok(Work::Top(watching)) = work(&["-p7,8", "-p", "7", "--window", "1m", "-F", "49", "--no-lua"]) else {
        panic!("it is top")
    };
    assert_eq!(watching.processes, [Named::Pid(7), Named::Pid(8), Named::Pid(7)]);
    assert_eq!((watching.options.frequency, watching.options.lua), (49, false));
    assert_eq!((watching.delay, watching.window), (Duration::from_secs(1), Duration::from_secs(60)));
    for wrong in [&[][..], &["-p7", "--delay", "99ms"], &["-p7", "--window", "0.5"], &["-p7", "-o", "a.svg"]] {
        assert_eq!(work(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn what_every_command_has_may_stand_before_and_behind_its_name() {
    for arguments in [&["-q", "doctor"][..], &["doctor", "-q"], &["-q", "report", "a"], &["-p7", "--quiet"]] {
        assert_eq!(args(arguments).unwrap().level(), LevelFilter::Warn, "{arguments:?}");
    }
    assert_eq!(args(&["doctor", "--verbose"]).unwrap().level(), LevelFilter::Debug);
    assert_eq!(args(&["doctor"]).unwrap().level(), LevelFilter::Info);
    for wrong in [&["-qv", "-p7"][..], &["--color", "red", "doctor"], &["-F9", "doctor"]] {
        assert_eq!(args(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
    }
}
