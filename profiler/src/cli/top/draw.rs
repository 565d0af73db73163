//! The picture on a screen of any size. It reads without colours: they only repeat what is there in words.

use luaflame::format::functions::Class;
use luaflame::profile::{FrameKind, State};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};

use unicode_width::UnicodeWidthStr;

use super::fit::{clock, count, end, name, percent, start};
use super::help::HELP;
use super::keys::Session;
use super::picture::{Choices, Picture, ProcessRow, Row, Sort};
use super::tally::{Function, LUA_KINDS, Samples};

/// What does not change while the picture does.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Samples per second and CPU.
    pub frequency: u32,
    /// Name of the perf event.
    pub event: String,
    /// LuaJIT was looked for.
    pub lua: bool,
    /// Colours are wanted.
    pub colour: bool,
}

/// The states in the order of the columns, each with the heading of its column.
const STATES: [(State, &str); 7] = [
    (State::Interpreter, "interp"),
    (State::Compiled, "compiled"),
    (State::C, "C func"),
    (State::Collector, "GC"),
    (State::Exit, "exit"),
    (State::Compiler, "compiling"),
    (State::Outside, "outside"),
];
/// Fewest columns of a state.
const STATE_WIDTH: usize = 5;
/// Columns of a process's number, pid and CPU time.
const PROCESS_WIDTH: usize = 3 + 7 + 7;
/// Fewest and most columns of its name.
const PROCESS_NAME: (usize, usize) = (10, 30);
/// A screen is shared so that there are this many rows of functions for one of processes, if there are many.
const FUNCTIONS_PER_PROCESS: u16 = 3;

/// A screen of fewer rows shows functions and little else.
const LOW: u16 = 12;

/// Draws everything, and tells the session how many functions fit.
pub fn draw(frame: &mut Frame<'_>, picture: &Picture, session: &mut Session, setting: &Setting) {
    let screen = frame.area();
    let most = screen.height / (FUNCTIONS_PER_PROCESS + 1);
    let processes = u16::try_from(picture.processes.len()).unwrap_or(u16::MAX).min(most);
    let [header, of_processes, functions, footer] = Layout::vertical([
        Constraint::Length(if screen.height < LOW { 1 } else { 3 }),
        Constraint::Length(if screen.height < LOW { 0 } else { processes + 2 }),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(screen);
    session.page = usize::from(functions.height.saturating_sub(1));
    session.stay_within(picture.rows.len());

    let painter = Painter { picture, session, setting };
    frame.render_widget(painter.header(), header);
    frame.render_widget(painter.processes(of_processes), of_processes);
    if session.help {
        let below = Rect { height: of_processes.height + functions.height, ..of_processes };
        frame.render_widget(ratatui::widgets::Clear, below);
        frame.render_widget(Text::from(HELP), below);
    } else {
        frame.render_widget(painter.functions(functions), functions);
    }
    frame.render_widget(painter.footer(usize::from(footer.width)), footer);
}

struct Painter<'a> {
    picture: &'a Picture,
    session: &'a Session,
    setting: &'a Setting,
}

impl Painter<'_> {
    fn header(&self) -> Text<'static> {
        let Picture { running, samples, lost, time, chosen, .. } = self.picture;
        let Setting { frequency, event, .. } = self.setting;
        let first =
            format!("luaflame top  {}  {frequency} Hz of {event}, {samples} samples, {lost} lost", clock(*running));
        let range = if self.session.choices.whole { "since start" } else { "last" };
        let of = self.session.choices.process.map_or_else(String::new, |pid| format!(" of process {pid}"));
        let rate = chosen.count() as f64 / time.as_secs_f64().max(0.001);
        let second = format!(
            "{range} {:.1} s{of}: {rate:.1} samples/s, {} % of frames unresolved",
            time.as_secs_f64(),
            percent(chosen.unresolved, chosen.frames)
        );
        let third = match (self.session.ended, self.session.frozen.is_some()) {
            (true, false) => "ENDED: no process is left, and this is the last of them. q quits",
            (true, true) => "PAUSED, and no process is left: p shows the last of them, q quits",
            (false, true) => "PAUSED: the picture is frozen, sampling goes on. p resumes",
            (false, false) if self.picture.dropped => "There are too many functions: those seldom seen are left out",
            (false, false) => "",
        };
        let third = Line::styled(third, Modifier::BOLD);
        Text::from(vec![Line::from(first), Line::from(second), third])
    }

    /// The processes with the shares of their states; where there are too many for the area, the busiest.
    fn processes(&self, area: Rect) -> Text<'static> {
        let width = usize::from(area.width);
        let widths = STATES.map(|(_, heading)| heading.len().max(STATE_WIDTH) + 1);
        let mut states = if self.setting.lua { STATES.len() } else { 0 };
        let fixed = |states: usize| PROCESS_WIDTH + widths[..states].iter().sum::<usize>();
        while states > 0 && fixed(states) + PROCESS_NAME.0 > width {
            states -= 1;
        }
        let name_width = width.saturating_sub(fixed(states)).clamp(PROCESS_NAME.0, PROCESS_NAME.1);

        let mut heading = format!("   {:>7} {} {:>6}", "PID", start("PROCESS", name_width - 1), "CPU%");
        for ((_, name), width) in STATES.iter().zip(widths).take(states) {
            heading += &format!("{name:>width$}");
        }
        let mut lines = vec![bar(&heading, width)];
        let room = usize::from(area.height.saturating_sub(2));
        for (number, row) in busiest(&self.picture.processes, self.session.choices.process, room) {
            lines.push(self.process(number, row, name_width, &widths[..states]));
        }
        let hidden = self.picture.processes.len().saturating_sub(lines.len() - 1);
        if hidden > 0 {
            lines.push(Line::from(format!("   and {hidden} more, less busy")));
        }
        Text::from(lines)
    }

    fn process(&self, number: usize, row: &ProcessRow, name_width: usize, widths: &[usize]) -> Line<'static> {
        let chosen = row.pid == self.session.choices.process;
        let mark = if chosen { '>' } else { ' ' };
        let digit = if number < 10 { number.to_string() } else { " ".to_owned() };
        let pid = row.pid.map_or_else(String::new, |pid| pid.to_string());
        let ended = format!("{} (ended)", row.name);
        let name = match row.ended {
            false => &*row.name,
            true if ended.width() < name_width => &*ended,
            true => "(ended)",
        };
        let cpu = self.cpu(&row.samples);
        let mut line = format!("{mark}{digit} {pid:>7} {} {cpu:>6}", start(name.trim_start(), name_width - 1));
        for ((state, _), width) in STATES.iter().zip(widths) {
            let share = percent(row.samples.in_state(*state), row.samples.count());
            line += &format!("{share:>width$}");
        }
        Line::styled(line, if chosen { Modifier::BOLD } else { Modifier::empty() })
    }

    /// The share of a CPU that so many samples are.
    fn cpu(&self, samples: &Samples) -> String {
        let most = f64::from(self.setting.frequency) * self.picture.time.as_secs_f64();
        format!("{:.1}", 100.0 * samples.count() as f64 / most.max(1.0))
    }

    fn functions(&self, area: Rect) -> Text<'static> {
        let columns = Columns::of(usize::from(area.width));
        let mut lines = vec![bar(&columns.heading(&self.session.choices), usize::from(area.width))];
        let rows = self.picture.rows.iter().skip(self.session.scrolled).take(self.session.page);
        lines.extend(rows.map(|row| self.function(row, &columns)));
        if self.picture.rows.is_empty() {
            let why = if self.picture.functions > 0 {
                "No function matches the filter. Esc clears it."
            } else if self.picture.chosen.count() > 0 {
                "No sample was in Lua. l shows all functions."
            } else {
                "No samples: no CPU time was used."
            };
            lines.push(Line::from(why));
        }
        Text::from(lines)
    }

    fn function(&self, row: &Row, columns: &Columns) -> Line<'static> {
        let all = self.picture.chosen.count();
        let mut numbers = format!("{:>6} {:>6} ", percent(row.own, all), percent(row.counts.total, all));
        if columns.counts {
            numbers += &format!("{:>7} {:>7} ", count(row.own), count(row.counts.total));
        }
        let (kind, class) = kind(row);
        let colour = if self.setting.colour { colour(class) } else { Style::new() };
        let mut spans = vec![Span::raw(numbers)];
        if columns.kind {
            spans.push(Span::styled(start(&kind, Columns::KIND - 1), colour));
            spans.push(Span::raw(" "));
        }
        // A function without a name is named by its place.
        let Function { name: named, place, class: of } = &row.function;
        spans.push(Span::raw(if named == place { end(named, columns.name) } else { name(named, columns.name) }));
        if columns.place > 0 {
            let cut = if *of == Class::Lua { end } else { start };
            spans.push(Span::raw(" "));
            spans.push(Span::raw(cut(place, columns.place)));
        }
        Line::from(spans)
    }

    fn footer(&self, width: usize) -> Line<'static> {
        let filter = &self.session.choices.filter;
        let literal = if filter.is_literal() { " (as text: it is no regular expression)" } else { "" };
        let found = format!("{} of {} functions", self.picture.rows.len(), self.picture.functions);
        if self.session.typing {
            return Line::from(format!("/{}_  {found}{literal}  Enter keeps, Esc clears", filter.text()));
        }
        if self.session.help {
            return Line::from("any key goes back, q quits");
        }
        if !filter.is_empty() {
            return Line::from(format!("filter /{}/  {found}{literal}  Esc clears", filter.text()));
        }
        let choices = &self.session.choices;
        let window = if choices.whole { "w recent" } else { "w all time" };
        let lua = if choices.lua_only { "l all" } else { "l Lua only" };
        let keys = ["? help", "q quit", "p pause", "s/t/n sort", "/ filter", lua, window, "r reset", "Tab process"];
        let mut line = String::new();
        for key in keys {
            if line.len() + key.len() <= width {
                line += &format!("{key}  ");
            }
        }
        Line::from(line)
    }
}

/// The columns of functions that a screen has room for.
struct Columns {
    counts: bool,
    kind: bool,
    name: usize,
    place: usize,
}

impl Columns {
    const PERCENTS: usize = 14;
    const COUNTS: usize = 16;
    const KIND: usize = 13;
    /// Fewest columns of names to have the place, the kind and the counts beside them.
    const WITH_PLACE: usize = 30;
    const WITH_KIND: usize = 14;
    const WITH_COUNTS: usize = 36;

    fn of(width: usize) -> Columns {
        let mut room = width.saturating_sub(Columns::PERCENTS);
        let mut take = |columns: usize, least: usize| {
            let takes = room >= columns + least;
            room -= if takes { columns } else { 0 };
            takes
        };
        let kind = take(Columns::KIND, Columns::WITH_KIND);
        let counts = take(Columns::COUNTS, Columns::WITH_COUNTS);
        let place = if room >= Columns::WITH_PLACE { room * 9 / 20 } else { 0 };
        let name = room - place - usize::from(place > 0);
        Columns { counts, kind, name, place }
    }

    fn heading(&self, choices: &Choices) -> String {
        let mark = |by, name: &str| if choices.sort == by { format!("*{name}") } else { name.to_owned() };
        let mut heading = format!("{:>6} {:>6} ", mark(Sort::Own, "SELF%"), mark(Sort::Total, "TOT%"));
        if self.counts {
            heading += &format!("{:>7} {:>7} ", "SELF", "TOTAL");
        }
        if self.kind {
            heading += &start("KIND", Columns::KIND);
        }
        let name = if choices.lua_only { "LUA FUNCTION" } else { "FUNCTION" };
        heading += &start(&mark(Sort::Name, name), self.name);
        if self.place > 0 {
            heading += " PLACE";
        }
        heading
    }
}

/// As many of the rows as there is room for, each with its number, in their order: the busiest, the chosen one and that of all.
fn busiest(rows: &[ProcessRow], chosen: Option<u32>, room: usize) -> Vec<(usize, &ProcessRow)> {
    let shift = usize::from(rows.first().is_some_and(|row| row.pid.is_some()));
    let mut numbered: Vec<(usize, &ProcessRow)> =
        rows.iter().enumerate().map(|(index, row)| (index + shift, row)).collect();
    numbered.sort_by_key(|(number, row)| {
        std::cmp::Reverse((row.pid.is_none(), row.pid == chosen, row.samples.count(), std::cmp::Reverse(*number)))
    });
    numbered.truncate(room);
    numbered.sort_by_key(|(number, _)| *number);
    numbered
}

/// What a function is, in a word: a Lua function is what it mostly was, with a + when it was run otherwise too.
fn kind(row: &Row) -> (String, FrameKind) {
    let word = |kind: FrameKind| match kind {
        FrameKind::Interpreted => "interpreted",
        FrameKind::Compiled => "compiled",
        _ => "inlined",
    };
    let kind = match row.function.class {
        Class::Lua => {
            let kinds = LUA_KINDS.into_iter().zip(row.counts.kinds);
            let (most, of_it) = kinds.max_by_key(|(_, count)| *count).unwrap_or((FrameKind::Interpreted, 0));
            let more = if of_it < row.counts.total { "+" } else { "" };
            return (format!("{}{more}", word(most)), most);
        }
        Class::Builtin => FrameKind::Builtin,
        Class::Native => FrameKind::Native,
        Class::Kernel => FrameKind::Kernel,
        Class::Missing => FrameKind::Marker,
        Class::Group => FrameKind::Group,
    };
    (row.function.class.name().to_owned(), kind)
}

/// Like the flame graph's, as far as the sixteen colours of terminals go.
fn colour(kind: FrameKind) -> Style {
    let colour = match kind {
        FrameKind::Interpreted => Color::Red,
        FrameKind::Compiled => Color::Green,
        FrameKind::Inlined => Color::LightGreen,
        FrameKind::Builtin => Color::Yellow,
        FrameKind::Native | FrameKind::NativeInlined => Color::Blue,
        FrameKind::Kernel => Color::Magenta,
        FrameKind::Marker | FrameKind::Group => Color::DarkGray,
    };
    Style::new().fg(colour)
}

/// A heading over the whole width.
fn bar(text: &str, width: usize) -> Line<'static> {
    Line::styled(start(text, width), Modifier::REVERSED)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::ledger::Ledger;
    use super::super::tally::Counts;
    use super::*;

    fn setting() -> Setting {
        Setting { frequency: 99, event: "cpu-clock".to_owned(), lua: true, colour: false }
    }

    fn row(name: &str, place: &str, class: Class, own: u64, total: u64, kinds: [u64; 3]) -> Row {
        let function = Function { name: name.into(), place: place.into(), class };
        Row { function, counts: Counts { own, own_in_lua: own, total, kinds }, own }
    }

    fn process(pid: Option<u32>, name: &str, states: [u64; 7]) -> ProcessRow {
        let samples = Samples { states, frames: 20_000, unresolved: 123 };
        ProcessRow { pid, name: name.to_owned(), samples, ended: false }
    }

    fn picture() -> Picture {
        let all = process(None, "all", [40, 300, 1200, 200, 150, 10, 80]);
        Picture {
            running: Duration::from_secs(83),
            samples: 8_123,
            lost: 2,
            time: Duration::from_millis(10_000),
            chosen: all.samples.clone(),
            processes: vec![
                all,
                process(Some(1234), "nginx", [20, 150, 700, 60, 40, 5, 15]),
                ProcessRow { ended: true, ..process(Some(1235), "nginx", [20, 150, 500, 140, 110, 5, 65]) },
            ],
            rows: vec![
                row("encode", "/srv/app/lib/json.lua:120", Class::Lua, 700, 900, [0, 900, 0]),
                row("handle", "/srv/app/access.lua:7", Class::Lua, 300, 1_700, [500, 1_200, 0]),
                row("escape", "/srv/app/lib/json.lua:12", Class::Lua, 200, 200, [0, 0, 200]),
                row("string.gsub", "", Class::Builtin, 150, 150, [0; 3]),
                row("ngx_http_process_request_headers", "nginx", Class::Native, 100, 1_900, [0; 3]),
                row("tcp_sendmsg_locked", "", Class::Kernel, 90, 95, [0; 3]),
                row("[unknown native frames]", "", Class::Missing, 1, 1, [0; 3]),
            ],
            functions: 7,
            dropped: false,
        }
    }

    fn screen(width: u16, height: u16, picture: &Picture, session: &mut Session, setting: &Setting) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, picture, session, setting)).unwrap();
        let buffer = terminal.backend().buffer();
        if !setting.colour {
            assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        }
        let lines = buffer.content.chunks(width.into());
        lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    const USUAL: &str = "\
luaflame top  0:01:23  99 Hz of cpu-clock, 8123 samples, 2 lost
last 10.0 s: 198.0 samples/s, 0.6 % of frames unresolved

       PID PROCESS     CPU% interp compiled C func    GC  exit compiling outside
>0         all        200.0   15.2     60.6   10.1   7.6   0.5       4.0     2.0
 1    1234 nginx      100.0   15.2     70.7    6.1   4.0   0.5       1.5     2.0
 2    1235 (ended)    100.0   15.2     50.5   14.1  11.1   0.5       6.6     2.0

*SELF%   TOT%    SELF   TOTAL KIND         FUNCTION             PLACE
  35.4   45.5     700     900 compiled     encode               ../json.lua:120
  15.2   85.9     300    1700 compiled+    handle               ../access.lua:7
  10.1   10.1     200     200 inlined      escape               ../json.lua:12
   7.6    7.6     150     150 builtin      string.gsub
   5.1   96.0     100    1900 native       ngx_http_process_r.. nginx
   4.5    4.8      90      95 kernel       tcp_sendmsg_locked
   0.1    0.1       1       1 missing      [unknown native fr..







? help  q quit  p pause  s/t/n sort  / filter  l Lua only  w all time  r reset";

    #[test]
    fn a_terminal_of_usual_size_shows_what_there_is_to_know_without_colours() {
        let mut session = Session::default();
        assert_eq!(screen(80, 24, &picture(), &mut session, &setting()).join("\n"), USUAL);
        assert_eq!(session.page, 14);
    }

    #[test]
    fn a_small_terminal_shows_the_busiest_functions() {
        assert_eq!(
            screen(20, 5, &picture(), &mut Session::default(), &setting()),
            [
                "luaflame top  0:01:2",
                "*SELF%   TOT% FUNC..",
                "  35.4   45.5 encode",
                "  15.2   85.9 handle",
                "? help  q quit"
            ]
        );
    }

    #[test]
    fn what_the_user_does_is_said() {
        let said = |session: &mut Session, line: usize| screen(80, 24, &picture(), session, &setting())[line].clone();
        let mut session = Session { frozen: Some(Ledger::new(Duration::from_secs(10))), ..Session::default() };
        assert!(said(&mut session, 2).starts_with("PAUSED: the picture is frozen, sampling goes on."));
        session.ended = true;
        assert!(said(&mut session, 2).starts_with("PAUSED, and no process is left"));
        session.frozen = None;
        assert!(said(&mut session, 2).starts_with("ENDED: no process is left"));
        session.typing = true;
        "a(".chars().for_each(|typed| session.choices.filter.push(typed));
        assert_eq!(
            said(&mut session, 23),
            "/a(_  7 of 7 functions (as text: it is no regular expression)  Enter keeps, Esc"
        );
        session.typing = false;
        session.choices.process = Some(1235);
        session.choices.whole = true;
        assert!(said(&mut session, 1).starts_with("since start 10.0 s of process 1235: "));
        assert!(said(&mut session, 6).starts_with(">2    1235"));
        session.help = true;
        assert_eq!(said(&mut session, 4), HELP.lines().nth(1).unwrap_or_default());
    }

    #[test]
    fn no_size_and_no_name_is_too_much() {
        let mut hostile = picture();
        hostile.rows.push(row(&"日本語".repeat(80), &"/é\u{301}".repeat(60), Class::Lua, u64::MAX / 200, 1, [1, 0, 0]));
        hostile.processes.push(process(Some(4_194_304), "日本語日本語日本語日本", [u64::MAX / 2_000; 7]));
        let empty = Picture { rows: Vec::new(), processes: Vec::new(), functions: 0, ..picture() };
        for picture in [&hostile, &empty] {
            for (width, height) in (1..90).step_by(8).flat_map(|width| (1..26).map(move |height| (width, height))) {
                for help in [false, true] {
                    let mut session = Session { help, scrolled: 3, ..Session::default() };
                    screen(width, height, picture, &mut session, &Setting { colour: true, ..setting() });
                }
            }
        }
    }

    #[test]
    fn of_many_processes_the_busiest_are_shown_in_their_order() {
        let mut picture = picture();
        let more =
            (0..90_u32).map(|number| process(Some(2_000 + number), "nginx", [0, u64::from(number), 0, 0, 0, 0, 0]));
        picture.processes.truncate(1);
        picture.processes.extend(more);
        let mut session = Session::default();
        session.choices.process = Some(2_003);
        let lines = screen(80, 24, &picture, &mut session, &setting());
        let pids: Vec<&str> = lines[4..10].iter().map(|line| line[3..10].trim()).collect();
        assert_eq!(pids, ["", "2003", "2086", "2087", "2088", "2089"]);
        assert_eq!(lines[10], "   and 85 more, less busy");
    }

    #[test]
    fn why_there_is_nothing_is_said() {
        let nothing = Picture { rows: Vec::new(), ..picture() };
        let said = |picture: &Picture| screen(80, 24, picture, &mut Session::default(), &setting())[9].clone();
        assert_eq!(said(&nothing), "No function matches the filter. Esc clears it.");
        let outside = Picture { functions: 0, ..nothing };
        assert_eq!(said(&outside), "No sample was in Lua. l shows all functions.");
        let idle = Picture { chosen: Samples::default(), ..outside };
        assert_eq!(said(&idle), "No samples: no CPU time was used.");
    }

    #[test]
    fn without_lua_there_are_no_states() {
        let lines = screen(80, 24, &picture(), &mut Session::default(), &Setting { lua: false, ..setting() });
        assert_eq!(lines[3], "       PID PROCESS                         CPU%");
        assert!(lines[6].contains("nginx (ended)"), "{}", lines[6]);
    }
}
