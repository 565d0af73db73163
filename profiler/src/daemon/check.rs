//! Reads a configuration, and tells all that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use super::config::{Config, Export};
use super::rules::Rules;
use super::server;
use crate::export::endpoint::endpoint;

/// Most samples per second and CPU: more are for `luaflame record`, by somebody who looks at what it costs.
const MAX_FREQUENCY: u32 = 1000;
/// The shortest and the longest window.
const WINDOWS: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(10)];
/// Longest wait for an answer of an endpoint, and for the end.
const MAX_TIMEOUT: Duration = Duration::from_mins(10);
/// Largest file that is taken for a configuration.
const MAX_FILE: u64 = 1 << 20;
/// Most characters of a name that the configuration gives.
const NAME_LIMIT: usize = 200;
/// Most characters of the name of an endpoint, which is that of a directory, too.
const ENDPOINT_NAME_LIMIT: usize = 64;
/// Most characters of a line that an error shows.
const SHOWN_LIMIT: usize = 120;
/// Labels that samples have of their own.
const OWN_LABELS: [&str; 10] =
    ["service_name", "pid", "command", "container", "namespace", "worker", "thread", "tid", "vm", "state"];

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// A sentence for each thing that is wrong.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "The configuration {} cannot be used.", self.path.display())?;
        self.problems.iter().try_for_each(|problem| write!(formatter, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the configuration in a file.
    ///
    /// # Errors
    /// When it cannot be read, is not one, or something in it cannot be; then all of that is told.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let wrong = |problems| ConfigError { path: path.to_owned(), problems };
        let read = || {
            let size = std::fs::metadata(path)?.len();
            if size > MAX_FILE {
                return Err(std::io::Error::other(format!("it has {size} bytes, and {MAX_FILE} are allowed")));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|error| wrong(vec![format!("It cannot be read: {error}.")]))?;
        let config = Config::parse(&text).map_err(|problem| wrong(vec![problem]))?;
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(wrong(problems)) }
    }

    /// Reads the text of a configuration. Whether what is in it can be is not looked at.
    ///
    /// # Errors
    /// What is wrong first, with its line and column.
    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| {
            let message = error.message().trim_end_matches('.').replace('\n', ", ");
            let Some(span) = error.span() else { return format!("{message}.") };
            let before = text.get(..span.start).unwrap_or(text);
            let start = before.rfind('\n').map_or(0, |end| end + 1);
            let line = before.matches('\n').count() + 1;
            let column = before[start..].chars().count() + 1;
            let shown: String = text[start..].lines().next().unwrap_or_default().chars().take(SHOWN_LIMIT).collect();
            format!("Line {line}, column {column}, {shown:?}: {message}.")
        })
    }

    /// All that cannot be, a sentence for each, with the setting that it is in.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_sampling(&mut problems);
        self.check_names(&mut problems);
        self.check_directories(&mut problems);
        self.check_exports(&mut problems);
        self.check_listener(&mut problems);
        let mut ensure = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        ensure(self.kill_switch.file.is_absolute(), "kill_switch: `file` must be a path that begins with `/`.");
        ensure(self.shutdown.timeout <= MAX_TIMEOUT, "shutdown: `timeout` is at most 10 minutes.");
        problems
    }

    /// What of another configuration takes effect only when the daemon is started anew, by the names of the settings.
    pub fn needs_restart(&self, other: &Config) -> Vec<&'static str> {
        [
            // A socket stays where it is, and what is in a directory would be left behind.
            ("listen", self.listen != other.listen),
            ("store.directory", self.store.directory != other.store.directory),
            ("spool.directory", self.spool.directory != other.spool.directory),
        ]
        .into_iter()
        .filter_map(|(name, is_other)| is_other.then_some(name))
        .collect()
    }

    fn check_sampling(&self, problems: &mut Vec<String>) {
        let sampling = &self.sampling;
        if !(1..=MAX_FREQUENCY).contains(&sampling.frequency) {
            problems.push(format!(
                "sampling: `frequency` is {}, and must be from 1 to {MAX_FREQUENCY}, in samples per second and CPU.",
                sampling.frequency
            ));
        }
        let [shortest, longest] = WINDOWS;
        if !(shortest..=longest).contains(&sampling.window) {
            problems
                .push(format!("sampling: `window` is {:?}, and must be from 1 second to 10 minutes.", sampling.window));
        }
    }

    /// Rules, and what services and labels are called.
    fn check_names(&self, problems: &mut Vec<String>) {
        check_labels("labels", &self.labels, problems);
        for (rule, number) in self.discovery.rule.iter().zip(1..) {
            check_labels(&format!("discovery.rule: `labels` of rule {number}"), &rule.labels, problems);
            if let Some(problem) = rule.service.as_deref().and_then(wrong_text) {
                problems.push(format!("discovery.rule: `service` of rule {number} {problem}."));
            }
        }
        if let Err(error) = Rules::new(&self.discovery, &self.labels) {
            problems.extend(error.problems);
        }
    }

    fn check_directories(&self, problems: &mut Vec<String>) {
        let (store, spool) = (&self.store, &self.spool);
        for (name, directory) in [("store", &store.directory), ("spool", &spool.directory)] {
            if !directory.as_os_str().is_empty() && !directory.is_absolute() {
                problems.push(format!(
                    "{name}: `directory` is {directory:?}, and must begin with `/`, or be empty to have none."
                ));
            }
        }
        let has_both = !store.directory.as_os_str().is_empty() && !spool.directory.as_os_str().is_empty();
        if has_both && (store.directory.starts_with(&spool.directory) || spool.directory.starts_with(&store.directory))
        {
            problems.push("store: `directory` and that of `spool` must not be in each other.".to_owned());
        }
        let sizes = [
            ("store: `max_size`", store.max_size),
            ("spool: `max_size`", spool.max_size),
            ("spool: `max_memory`", spool.max_memory),
        ];
        for (name, _) in sizes.into_iter().filter(|(_, size)| *size == ByteSize(0)) {
            problems.push(format!("{name} is nothing, and must be more, such as \"64 MiB\"."));
        }
        for (name, _) in
            [("store", store.max_age), ("spool", spool.max_age)].into_iter().filter(|(_, age)| age.is_zero())
        {
            problems.push(format!("{name}: `max_age` is nothing, and must be more, such as \"1h\"."));
        }
    }

    fn check_exports(&self, problems: &mut Vec<String>) {
        let mut names = BTreeSet::new();
        for (export, number) in self.export.iter().zip(1..) {
            let before = problems.len();
            let Export { name, .. } = export;
            let is_safe = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
            if name.is_empty() || name.len() > ENDPOINT_NAME_LIMIT || !name.chars().all(is_safe) {
                problems.push(format!(
                    "export: `name` of endpoint {number} is {name:?}, and must be 1 to {ENDPOINT_NAME_LIMIT} letters, digits, \
                     `-` and `_`."
                ));
            }
            if !names.insert(name) {
                problems.push(format!("export: two endpoints have the `name` {name:?}."));
            }
            let of = format!("of the endpoint {name:?}");
            if export.timeout.is_zero() || export.timeout > MAX_TIMEOUT {
                problems.push(format!("export: `timeout` {of} must be more than nothing and at most 10 minutes."));
            }
            if export.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
                problems.push(format!("export: `path` {of} must begin with `/`."));
            }
            let tls = &export.tls;
            let files = [
                ("token_file", &export.token_file),
                ("tls.ca_file", &tls.ca_file),
                ("tls.certificate_file", &tls.certificate_file),
                ("tls.key_file", &tls.key_file),
            ];
            let files = files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?)));
            for (name, file) in files.chain(export.header_files.values().map(|file| ("header_files", file))) {
                problems.extend(wrong_file(file).map(|problem| format!("export: `{name}` {of} is {problem}.")));
            }
            // What the protocol makes of its URL, its headers and its certificates.
            if problems.len() == before {
                problems.extend(endpoint(export).err().map(|error| format!("export: {error:#}.")));
            }
        }
    }

    fn check_listener(&self, problems: &mut Vec<String>) {
        let listen = &self.listen;
        let before = problems.len();
        let files = [
            ("token_file", &listen.token_file),
            ("certificate_file", &listen.certificate_file),
            ("key_file", &listen.key_file),
            ("client_ca_file", &listen.client_ca_file),
        ];
        for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?))) {
            problems.extend(wrong_file(file).map(|problem| format!("listen: `{name}` is {problem}.")));
        }
        if problems.len() == before {
            problems.extend(server::check(listen).err().map(|error| format!("listen: {error:#}.")));
        }
    }
}

fn check_labels(of: &str, labels: &BTreeMap<String, String>, problems: &mut Vec<String>) {
    for (name, value) in labels {
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.is_empty();
        // Stores keep names that begin so for themselves.
        if !is_word || name.starts_with("__") || name.len() > NAME_LIMIT {
            problems.push(format!(
                "{of}: the name {name:?} must be letters, digits and `_`, and begin with neither a digit nor `__`."
            ));
        }
        if OWN_LABELS.contains(&name.as_str()) {
            problems
                .push(format!("{of}: the label {name:?} is set for each process by itself, and takes no other value."));
        }
        if let Some(problem) = wrong_text(value) {
            problems.push(format!("{of}: the value of {name:?} {problem}."));
        }
    }
}

/// Why a text cannot be the name of something.
fn wrong_text(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        Some("is empty; leave it out".to_owned())
    } else if text.chars().any(char::is_control) {
        Some(format!("is {text:?}, which has control characters"))
    } else if text.chars().count() > NAME_LIMIT {
        Some(format!("has more than {NAME_LIMIT} characters"))
    } else {
        None
    }
}

/// Why a file cannot be read by us.
fn wrong_file(path: &Path) -> Option<String> {
    if !path.is_absolute() {
        return Some(format!("{path:?}, and must begin with `/`"));
    }
    let error = std::fs::File::open(path).err()?;
    Some(format!("{path:?}, which cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Listen;

    fn problems(text: &str) -> Vec<String> {
        Config::parse(text).unwrap().problems()
    }

    /// The only problem.
    fn problem(text: &str) -> String {
        match &problems(text)[..] {
            [problem] => problem.clone(),
            other => panic!("{text}: {other:#?}"),
        }
    }

    #[test]
    fn nothing_is_a_configuration() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
        assert_eq!(Config::default().problems(), [""; 0]);
    }

    #[test]
    fn what_is_no_configuration_is_shown_where_it_is() {
        let wrong = |text: &str| Config::parse(text).unwrap_err();
        let unknown = wrong("[sampling]\nfrequncy = 19\n");
        assert!(
            unknown.starts_with("Line 2, column 1, \"frequncy = 19\": unknown field `frequncy`, expected"),
            "{unknown}"
        );
        let kind = wrong("[sampling]\n  frequency = \"often\"");
        assert!(kind.starts_with("Line 2, column 15, \"  frequency = \\\"often\\\"\": invalid type"), "{kind}");
        let syntax = wrong("\n\n[sampling\n");
        assert!(syntax.starts_with("Line 3, column"), "{syntax}");
        let control = wrong("a = 1 # \u{1b}[2J");
        assert!(!control.contains('\u{1b}'), "{control}");
        for text in [
            "window = 1",
            "[sampling]\nwindow = \"soon\"",
            "[[export]]\nname = \"a\"",
            "[store]\nmax_size = \"big\"",
            "[log]\nlevel = 3",
        ] {
            assert!(wrong(text).starts_with("Line "), "{text}: {}", wrong(text));
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("luaflame.toml");
        let text = "[sampling]\nfrequency = 0\nwindow = \"1ms\"\n[store]\ndirectory = \"x\"\nmax_size = 0\n\
                    [labels]\npid = \"1\"\n[[discovery.rule]]\ncommand = \"(\"\n";
        std::fs::write(&file, text).unwrap();
        let error = Config::read(&file).unwrap_err();
        assert_eq!(error.problems.len(), 6, "{error}");
        let said = error.to_string();
        for setting in [
            "sampling: `frequency` is 0",
            "`window` is 1ms",
            "store: `directory`",
            "store: `max_size`",
            "\"pid\"",
            "`command` of rule 1",
        ] {
            assert!(said.contains(setting), "{setting} is not in:\n{said}");
        }
        assert!(Config::read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
        assert!(Config::read(folder.path()).is_err());
    }

    #[test]
    fn names_of_labels_are_those_that_stores_take() {
        for name in ["1a", "a-b", "a b", "\"\"", "__name", "ä"] {
            let name = if name.starts_with('"') { name.to_owned() } else { format!("\"{name}\"") };
            assert!(problem(&format!("[labels]\n{name} = \"x\"")).contains("the name"), "{name}");
        }
        assert!(problem("[labels]\nservice_name = \"x\"").contains("set for each process"));
        assert!(problem("[labels]\na = \" \"").contains("is empty"));
        assert!(problem("[labels]\na = \"x\\u001b\"").contains("control characters"));
        assert!(problem("[[discovery.rule]]\nlabels.vm = \"x\"").starts_with("discovery.rule: `labels` of rule 1"));
        assert!(problem("[[discovery.rule]]\n[[discovery.rule]]\nservice = \"\"").contains("`service` of rule 2"));
        assert!(problems("[labels]\nCluster_1 = \"blue\"").is_empty());
    }

    #[test]
    fn endpoints_have_names_of_their_own_that_are_safe_as_names_of_files() {
        let export = |name: &str, more: &str| {
            format!(
                "[[export]]\nname = \"{name}\"\nprotocol = \"pyroscope\"\nurl = \"http://127.0.0.1:4040\"\n{more}\n"
            )
        };
        for name in ["", ".", "..", "a/b", "a b", "é"] {
            assert!(problem(&export(name, "")).contains("`name` of endpoint 1"), "{name}");
        }
        assert!(problem(&(export("a", "") + &export("a", ""))).contains("two endpoints"));
        assert!(problem(&export("a", "timeout = \"0s\"")).contains("`timeout`"));
        assert!(problem(&export("a", "path = \"x\"")).contains("`path`"));
        assert!(problem(&export("a", "token_file = \"token\"")).contains("`token_file`"));
        assert!(problem(&export("a", "tls.ca_file = \"/no/such/file\"")).contains("No such file"));
        assert!(problem(&export("a", "header_files.authorization = \"/no/such/file\"")).contains("`header_files`"));
        assert!(problem(&export("a", "headers = { 'a b' = 'c' }")).contains("is not the name of a header"));
        assert!(problems(&(export("a", "") + &export("b-B_1", ""))).is_empty());
    }

    #[test]
    fn directories_are_apart() {
        assert!(problem("[store]\ndirectory = \"/a\"\n[spool]\ndirectory = \"/a/b\"").contains("in each other"));
        assert!(problem("[store]\ndirectory = \"/a\"\n[spool]\ndirectory = \"/a\"").contains("in each other"));
        assert!(problems("[store]\ndirectory = \"\"\n[spool]\ndirectory = \"\"").is_empty());
        assert!(problem("[kill_switch]\nfile = \"off\"").contains("kill_switch"));
        assert!(problem("[listen]\ntoken_file = \"/no/such/file\"").contains("listen: `token_file`"));
    }

    #[test]
    fn little_needs_a_restart() {
        let config = |text: &str| Config::parse(text).unwrap();
        let from_default = |text: &str| Config::default().needs_restart(&config(text));
        assert_eq!(from_default(""), [""; 0]);
        assert_eq!(
            from_default("[sampling]\nfrequency = 99\n[log]\nlevel = \"debug\"\n[store]\nmax_size = 5"),
            [""; 0]
        );
        assert_eq!(
            from_default("[listen]\nenabled = false\n[store]\ndirectory = \"/a\""),
            ["listen", "store.directory"]
        );
    }
    /// The example, with every setting in force.
    fn example() -> String {
        let text = include_str!("../../../samples/daemon/luaflame.toml");
        let is_setting = |line: &&str| !line.is_empty() && *line != "#" && !line.starts_with("# ");
        text.lines().filter(is_setting).map(|line| line.trim_start_matches('#').to_owned() + "\n").collect()
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let as_it_is = Config::parse(include_str!("../../../samples/daemon/luaflame.toml"));
        assert_eq!(as_it_is, Ok(Config::default()));
        let mut config = Config::parse(&example()).unwrap();
        // What has no default is an example.
        assert_eq!((config.discovery.rule.len(), config.export.len(), config.labels.len()), (1, 1, 1));
        config.discovery.rule.clear();
        config.export.clear();
        config.labels.clear();
        for file in [
            &mut config.listen.token_file,
            &mut config.listen.certificate_file,
            &mut config.listen.key_file,
            &mut config.listen.client_ca_file,
        ] {
            assert!(file.take().is_some());
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_examples_of_rules_and_endpoints_can_be_used() {
        let mut config = Config::parse(&example()).unwrap();
        // The files are not there.
        config.listen = Listen::default();
        let problems = config.problems();
        assert!(problems.iter().all(|problem| problem.contains("No such file")), "{problems:#?}");
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn the_example_has_every_setting() {
        let example: toml::Table = example().parse().unwrap();
        let mut seen = 0;
        for (section, unknown) in [
            ("", "unknown = 1"),
            ("sampling", "[sampling]\nunknown = 1"),
            ("discovery", "[discovery]\nunknown = 1"),
            ("discovery.rule", "[[discovery.rule]]\nunknown = 1"),
            ("store", "[store]\nunknown = 1"),
            ("spool", "[spool]\nunknown = 1"),
            ("export", "[[export]]\nunknown = 1"),
            ("export.tls", "[[export]]\ntls.unknown = 1"),
            ("listen", "[listen]\nunknown = 1"),
            ("log", "[log]\nunknown = 1"),
            ("kill_switch", "[kill_switch]\nunknown = 1"),
            ("shutdown", "[shutdown]\nunknown = 1"),
        ] {
            let mut table = &example;
            for part in section.split('.').filter(|part| !part.is_empty()) {
                table = match &table[part] {
                    toml::Value::Array(list) => list[0].as_table().unwrap(),
                    one => one.as_table().unwrap(),
                };
            }
            // What settings there are, the error tells.
            let error = Config::parse(unknown).unwrap_err();
            let (_, known) = error.split_once("expected").unwrap();
            for name in known.split('`').skip(1).step_by(2) {
                assert!(table.contains_key(name), "[{section}] {name} is not in the example");
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
