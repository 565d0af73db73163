//! The command line's side of a run: what is asked for, what is shown meanwhile, and what is said at the end.

mod args;
mod console;
mod daemon;
mod diff;
mod doctor;
mod dump;
mod launch;
mod manual;
mod opening;
mod processes;
mod progress;
mod signals;
mod summary;
mod top;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use luaflame::capture::{Capture, CaptureError, Reason, Recorder, Recording, profile_file, stored_profile};
use luaflame::format::output::{Output, OutputError};
use luaflame::format::{Format, firefox, folded, pprof, speedscope, svg, text};
use luaflame::import;
use luaflame::probe::requirements;
use luaflame::profile::Profile;
use luaflame::record::{self, Seen, record};
use luaflame::replay::replay;
use luaflame::target::live::live;
use luaflame::target::world::World;
use serde::Serialize;

use args::{Args, Destination, Named, Plan, Source, Work};
use launch::Launched;
use progress::ProgressLine;
use signals::Interrupt;

const NO_INTERRUPT: &str = "Ctrl-C cannot be handled";

/// Does what the command line asks for, and tells the user how it went.
pub fn main() -> ExitCode {
    console::choose_colors(std::env::args_os());
    let understood = Args::read(std::env::args_os()).and_then(|args| {
        // What the daemon says goes into a log.
        if !args.is_daemon() {
            console::install(args.level());
        }
        args.work()
    });
    match understood {
        Ok(work) => run(&work),
        Err(usage) => usage.exit(),
    }
}

fn run(work: &Work) -> ExitCode {
    let done = match work {
        Work::Draw(plan) => profile(plan),
        Work::Compare(pair) => diff::compare(pair),
        Work::Top(watching) => top::run(watching),
        Work::Doctor { processes, json } => examine(processes, *json),
        Work::Dump(args) => dump::dump(args).and_then(|(text, code)| print(text.as_bytes(), code)),
        Work::Daemon(args) if args.check_config => {
            daemon::check(args).and_then(|text| print(text.as_bytes(), ExitCode::SUCCESS))
        }
        Work::Daemon(args) => daemon::run(args),
        Work::Completions(shell) => print(&manual::completions(*shell), ExitCode::SUCCESS),
        Work::Man(Some(folder)) => manual::write_pages(folder).map(|()| ExitCode::SUCCESS),
        Work::Man(None) => manual::main_page().map_err(Into::into).and_then(|page| print(&page, ExitCode::SUCCESS)),
    };
    let code = match done {
        Ok(code) => code,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    log::logger().flush();
    code
}

/// Writes what was found here to standard output.
fn examine(processes: &[Named], json: bool) -> anyhow::Result<ExitCode> {
    let report = doctor::examine(&processes::resolve(processes)?);
    let text = if json { to_json(&report)? } else { report.text() };
    print(text.as_bytes(), report.exit_code())
}

/// A report for other programs.
fn to_json(report: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// Writes to standard output, for a command that ends with this code. That its reader has had enough is no error.
fn print(bytes: &[u8], code: ExitCode) -> anyhow::Result<ExitCode> {
    match Output::at(Path::new("-"))?.write(bytes) {
        Err(error) if !error.is_closed_pipe() => Err(error.into()),
        _ => Ok(code),
    }
}

/// Whatever can be refused is refused before sampling, cheapest first.
fn profile(plan: &Plan) -> anyhow::Result<ExitCode> {
    let open = |(destination, format): &(Destination, Format)| match destination {
        Destination::Path(path) => Output::at(path),
        Destination::Unused(stem) => Output::unused(Path::new("."), stem, format.extension()),
    };
    let outputs = plan.outputs.iter().map(open).collect::<Result<Vec<Output>, OutputError>>()?;
    match &plan.source {
        Source::Processes { processes, program, options, with_memory } => {
            let capture = with_memory.as_ref().map(|path| Output::at(path)).transpose()?.map(Output::secret);
            requirements::check()?;
            let pids = processes::resolve(processes)?;
            let interrupt = Interrupt::install().context(NO_INTERRUPT)?;
            let mut launched = if program.is_empty() { None } else { Some(Launched::start(program)?) };
            let options = &record::Options { pids, launched: launched.as_ref().map(Launched::pid), ..options.clone() };
            let recorder = capture.is_some().then(|| Recorder::new(live()));
            let world: Arc<dyn World> = match &recorder {
                Some(recorder) => Arc::new(recorder.clone()),
                None => live(),
            };
            let profile = sample(options, &world, &interrupt)?;
            let recording = Recording::of(options, &profile);
            let written = write_all(plan, &profile, &recording, outputs, &interrupt);
            let ended =
                launched.as_mut().map(Launched::wait).transpose().context("how the program ended is not known")?;
            let failed = ended.filter(|code| *code != ExitCode::SUCCESS);
            let code = match (written, failed) {
                (Ok(ExitCode::SUCCESS), failed) => failed.unwrap_or(ExitCode::SUCCESS),
                (Err(error), Some(failed)) => {
                    log::error!("{error:#}");
                    return Ok(failed);
                }
                (written, _) => written?,
            };
            if let (Some(recorder), Some(capture)) = (recorder, capture) {
                let bytes = recorder.finish(&recording).context("the kernel's symbols cannot be read")?;
                let file = write(capture, &bytes, &interrupt)?;
                log::warn!("{}", summary::capture(&file, bytes.len(), world.is_full()));
            }
            Ok(code)
        }
        Source::File(path) => {
            let interrupt = Interrupt::install().context(NO_INTERRUPT)?;
            let (profile, recording) = read(path, &interrupt)?;
            write_all(plan, &profile, &recording, outputs, &interrupt)
        }
    }
}

/// The profile in a file: a capture of ours, or stacks of another tool.
fn read(path: &Path, interrupt: &Interrupt) -> anyhow::Result<(Profile, Recording)> {
    let capture = match Capture::open(path) {
        Err(CaptureError { reason: Reason::NotACapture, .. }) => {
            let profile = import::profile(path)?;
            let recording = Recording::from(&profile);
            return Ok((profile, recording));
        }
        capture => capture?,
    };
    let recording = capture.recording.clone();
    let profile = match stored_profile(&capture)? {
        Some(profile) => profile,
        None => replay(capture, interrupt.stop())?,
    };
    Ok((profile, recording))
}

/// Samples processes, and shows meanwhile how that stands.
fn sample(options: &record::Options, world: &Arc<dyn World>, interrupt: &Interrupt) -> anyhow::Result<Profile> {
    let line = ProgressLine::new(options.duration);
    record(options, world, interrupt.stop(), &mut |progress| {
        line.show(progress, interrupt.stop().load(Ordering::Relaxed));
        Seen::Keep
    })
}

/// Writes what is to be seen of a profile in each of the formats, and says how it came about.
fn write_all(
    plan: &Plan,
    recorded: &Profile,
    recording: &Recording,
    outputs: Vec<Output>,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let shown = plan.view.of(recorded);
    let nothing = shown.stacks().len() == 0;
    let (mut files, mut hints) = (Vec::new(), Vec::new());
    for (output, (_, format)) in outputs.into_iter().zip(&plan.outputs) {
        // What was recorded is kept in a capture, also when nothing of it is to be drawn now.
        if recorded.stacks().len() == 0 || nothing && *format != Format::Capture {
            continue;
        }
        let bytes = match format {
            // It has all that was recorded, to be drawn with any options.
            Format::Capture => profile_file(recording, recorded),
            format if format.has_both_lines() => drawn(plan, *format, &plan.view_for(*format).of(recorded)),
            format => drawn(plan, *format, &shown),
        };
        let bytes = bytes.context("the profile could not be drawn")?;
        let is_file = output.is_moved_into_place();
        match write(output, &bytes, interrupt) {
            Ok(file) => {
                hints.extend(is_file.then(|| opening::how_to_open(*format, Path::new(&file))).flatten());
                files.push(file);
            }
            Err(error) if error.is_closed_pipe() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if nothing && files.len() < plan.outputs.len() {
        let kept =
            if files.is_empty() { String::new() } else { format!("\nThe samples are in {}.", files.join(" and ")) };
        bail!("{}{kept}", summary::nothing_to_draw(plan, recorded));
    }
    if files.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }

    let counters = &recorded.counters;
    let unresolved = summary::is_mostly_unresolved(counters);
    if unresolved {
        log::warn!("{}", summary::unresolved_warning(counters));
    }
    log::info!("{}", summary::line(counters, recorded.meta.lua, &files.join(" and ")));
    for hint in hints {
        console::hint(&hint);
    }
    Ok(if unresolved && plan.strict { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Writes a file whole, or not at all. Returns its name.
fn write(output: Output, bytes: &[u8], interrupt: &Interrupt) -> Result<String, OutputError> {
    let _whole = output.is_moved_into_place().then(|| interrupt.hold());
    output.write(bytes)
}

/// What a format writes, in memory.
fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(&mut bytes)?;
    Ok(bytes)
}

/// What is shown of a profile in a format.
fn drawn(plan: &Plan, format: Format, shown: &Profile) -> io::Result<Vec<u8>> {
    let lines = plan.view_for(format).lines;
    let title = plan.title.clone().unwrap_or_else(|| {
        let of = if plan.view.lua_only { "Lua-land on-CPU" } else { "On-CPU" };
        let what = if matches!(format, Format::Svg | Format::Icicle) { "flame graph" } else { "profile" };
        format!("{of} {what}")
    });
    let drawing = |shape| svg::Drawing {
        shape,
        title: &title,
        subtitle: plan.subtitle.as_deref(),
        min_percent: plan.min_percent,
        style: &plan.style,
    };
    written(|bytes| match format {
        Format::Svg => svg::write(shown, lines, &drawing(svg::Shape::Flame), bytes),
        Format::Icicle => svg::write(shown, lines, &drawing(svg::Shape::Icicle), bytes),
        Format::Folded if plan.stapxx => folded::write_stapxx(shown, lines, bytes),
        Format::Folded => folded::write(shown, lines, bytes),
        Format::Pprof => pprof::write(shown, lines, bytes),
        Format::Speedscope => speedscope::write(shown, lines, &title, bytes),
        Format::Firefox => firefox::write(shown, lines, &title, bytes),
        Format::Text => text::write(shown, lines, &title, bytes),
        Format::Capture => unreachable!("a capture is not drawn"),
    })
}
