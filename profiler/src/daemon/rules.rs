//! The rules of the configuration: which processes are profiled, and what their services are called.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use regex::Regex;
use rustc_hash::FxHashMap;
use uzers::get_user_by_uid;

use super::config::{Discovery, Rule};

/// Names of users that are remembered. When there are more it starts afresh.
const MOST_USERS: usize = 1024;

/// Rules, ready to be applied.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Compiled>,
    otherwise: bool,
    labels: BTreeMap<String, String>,
    /// Names of users by number: to ask for one may take the system long.
    users: Mutex<FxHashMap<u32, String>>,
}

#[derive(Debug)]
struct Compiled {
    command: Option<Regex>,
    cgroup: Option<Regex>,
    user: Option<Regex>,
    container: Option<Regex>,
    profile: bool,
    service: Option<String>,
    labels: BTreeMap<String, String>,
}

/// Rules that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct InvalidRules {
    /// A sentence for each regular expression that is none, with the setting that it is in.
    pub problems: Vec<String>,
}

/// What rules ask about a process.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its command line, or its command name.
    pub command: &'a str,
    /// The path of its cgroup.
    pub cgroup: &'a str,
    /// The number of its user.
    pub user: u32,
    /// The id of its container.
    pub container: Option<&'a str>,
}

/// What the rules say about a process that is to be profiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What its service is called, if a rule says that.
    pub service: Option<String>,
    /// Its labels: those of every process, and over them those of the rule.
    pub labels: BTreeMap<String, String>,
}

impl Rules {
    /// Rules of a configuration, with the labels that every process has.
    ///
    /// # Errors
    /// When one of the regular expressions is none; all that are not are told.
    pub fn new(discovery: &Discovery, labels: &BTreeMap<String, String>) -> Result<Rules, InvalidRules> {
        let mut problems = Vec::new();
        let rules = discovery.rule.iter().zip(1..).map(|(rule, number)| compile(rule, number, &mut problems)).collect();
        if !problems.is_empty() {
            return Err(InvalidRules { problems });
        }
        Ok(Rules { rules, otherwise: discovery.otherwise, labels: labels.clone(), users: Mutex::default() })
    }

    /// What the first rule that fits says about a process; nothing if it is not to be profiled.
    pub fn verdict(&self, subject: &Subject<'_>) -> Option<Verdict> {
        let rule = self.rules.iter().find(|rule| self.fits(rule, subject));
        if !rule.map_or(self.otherwise, |rule| rule.profile) {
            return None;
        }
        let mut labels = self.labels.clone();
        labels.extend(rule.iter().flat_map(|rule| rule.labels.clone()));
        Some(Verdict { service: rule.and_then(|rule| rule.service.clone()), labels })
    }

    fn fits(&self, rule: &Compiled, subject: &Subject<'_>) -> bool {
        let matches = |regex: &Option<Regex>, text: &str| regex.as_ref().is_none_or(|regex| regex.is_match(text));
        matches(&rule.command, subject.command)
            && matches(&rule.cgroup, subject.cgroup)
            && rule.container.as_ref().is_none_or(|regex| subject.container.is_some_and(|id| regex.is_match(id)))
            && rule.user.as_ref().is_none_or(|regex| regex.is_match(&self.user(subject.user)))
    }

    /// The name of a user, or the number of one that has none.
    fn user(&self, number: u32) -> String {
        // The names are a cache: it is whole after every single operation.
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= MOST_USERS {
            users.clear();
        }
        let find = || {
            let user = get_user_by_uid(number);
            user.map_or_else(|| number.to_string(), |user| user.name().to_string_lossy().into_owned())
        };
        users.entry(number).or_insert_with(find).clone()
    }
}

/// Compiles rule `number`, and says what is wrong with it.
fn compile(rule: &Rule, number: usize, problems: &mut Vec<String>) -> Compiled {
    let mut regex = |field: &str, pattern: &Option<String>| {
        let pattern = pattern.as_deref()?;
        let complain = |error: &regex::Error| {
            // Its last line says what is wrong, those before it draw where.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            problems.push(format!(
                "discovery.rule: `{field}` of rule {number} is {pattern:?}, which is not a regular expression: {reason}."
            ));
        };
        Regex::new(pattern).inspect_err(complain).ok()
    };
    Compiled {
        command: regex("command", &rule.command),
        cgroup: regex("cgroup", &rule.cgroup),
        user: regex("user", &rule.user),
        container: regex("container", &rule.container),
        profile: rule.profile.unwrap_or(true),
        service: rule.service.clone(),
        labels: rule.labels.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: Subject<'_> = Subject {
        command: "nginx: worker process",
        cgroup: "/system.slice/nginx.service",
        user: 4_000_000_001,
        container: None,
    };

    fn rules(toml: &str) -> Rules {
        let labels = [("cluster".to_owned(), "blue".to_owned()), ("tier".to_owned(), "none".to_owned())].into();
        Rules::new(&toml::from_str(toml).unwrap(), &labels).unwrap()
    }

    fn is_profiled(toml: &str, subject: &Subject<'_>) -> bool {
        rules(toml).verdict(subject).is_some()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = rules(
            "[[rule]]\ncommand = 'cache'\nprofile = false\n\
             [[rule]]\ncgroup = 'nginx\\.service'\nservice = 'edge'\nlabels.tier = 'front'\n\
             [[rule]]\nservice = 'other'\n",
        );
        let verdict = rules.verdict(&NGINX).unwrap();
        assert_eq!(verdict.service.as_deref(), Some("edge"));
        let labels = [("cluster", "blue"), ("tier", "front")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(verdict.labels, labels.into());
        assert_eq!(rules.verdict(&Subject { command: "nginx: cache manager process", ..NGINX }), None);
        let other = rules.verdict(&Subject { cgroup: "/", ..NGINX }).unwrap();
        assert_eq!(other.service.as_deref(), Some("other"));
        assert_eq!(other.labels["tier"], "none");
    }

    #[test]
    fn what_no_rule_fits_is_profiled_unless_the_configuration_says_otherwise() {
        assert!(is_profiled("", &NGINX));
        assert!(is_profiled("[[rule]]\ncommand = 'luajit'\nprofile = false", &NGINX));
        assert!(!is_profiled("otherwise = false\n[[rule]]\ncommand = 'luajit'", &NGINX));
        assert!(is_profiled("otherwise = false\n[[rule]]\ncommand = 'nginx'", &NGINX));
    }

    #[test]
    fn every_field_of_a_rule_must_fit() {
        let both = "otherwise = false\n[[rule]]\ncommand = '^nginx'\ncgroup = '^/docker/'";
        assert!(!is_profiled(both, &NGINX));
        assert!(is_profiled(both, &Subject { cgroup: "/docker/abc", ..NGINX }));
        let container = "otherwise = false\n[[rule]]\ncontainer = ''";
        assert!(!is_profiled(container, &NGINX), "it is in no container");
        assert!(is_profiled(container, &Subject { container: Some("abc"), ..NGINX }));
    }

    #[test]
    fn users_have_a_name_or_a_number() {
        assert!(is_profiled("otherwise = false\n[[rule]]\nuser = '^root$'", &Subject { user: 0, ..NGINX }));
        assert!(is_profiled("otherwise = false\n[[rule]]\nuser = '^4000000001$'", &NGINX));
        assert!(!is_profiled("otherwise = false\n[[rule]]\nuser = '^root$'", &NGINX));
    }

    #[test]
    fn every_expression_that_is_none_is_told() {
        let discovery = toml::from_str("[[rule]]\n[[rule]]\ncommand = '('\nuser = 'a{2,1}'").unwrap();
        let error = Rules::new(&discovery, &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "discovery.rule: `command` of rule 2 is \"(\", which is not a regular expression: unclosed group.",
                "discovery.rule: `user` of rule 2 is \"a{2,1}\", which is not a regular expression: invalid repetition \
                 count range, the start must be <= the end."
            ]
        );
    }
}
