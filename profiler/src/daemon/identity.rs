//! Who a process is: found out once for each, when it is first profiled.

use std::io::Read;
use std::path::Path;

use percent_encoding::percent_decode_str;

use super::cgroup::Cgroup;
use super::rules::{Rules, Subject};
use crate::format::label::printable;
use crate::luajit::memory::Memory;
use crate::native::image::Images;
use crate::profile::window::Identity;
use crate::target::process::{Process, ProcessError};

/// Most characters of what a process, its container or its environment calls itself.
const NAME_LIMIT: usize = 200;
/// Most bytes of a command line that rules look at.
const COMMAND_LIMIT: usize = 64 << 10;
/// Most bytes of a file that holds a name.
const NAME_FILE_LIMIT: u64 = 1024;
/// Where Kubernetes tells a container the namespace that it is in.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Where a runtime tells a container its host name: in Kubernetes the name of the pod.
const HOSTNAME_FILE: &str = "/etc/hostname";
/// The namespace of the machine's own host name (`PROC_UTS_INIT_INO` in the kernel's `proc_ns.h`).
const FIRST_HOST_NAMESPACE: &[u8] = b"uts:[4026531838]";
/// What nginx calls a worker in `ngx_process` (`NGX_PROCESS_WORKER`), and not the master, a helper or the privileged agent.
const NGINX_WORKER: u64 = 3;

impl Identity {
    /// Finds out who a process is; nothing if the rules leave it out.
    ///
    /// A process that has only just been forked still is much like its parent: it gets its command's name when it begins to run its
    /// program, and nginx tells a worker its number a moment later.
    ///
    /// # Errors
    /// When the process has exited, or may not be looked at. What else cannot be found out is not known of it.
    pub fn of(process: &Process, rules: &Rules) -> Result<Option<Identity>, ProcessError> {
        let cgroup = Cgroup::parse(&process.cgroups()?);
        let mut command = process.arguments()?.join(&b' ');
        command.truncate(COMMAND_LIMIT);
        let command = if command.is_empty() { process.comm().into() } else { String::from_utf8_lossy(&command) };
        let subject = Subject {
            command: &command,
            cgroup: &cgroup.path,
            user: process.user()?,
            container: cgroup.container.as_deref(),
        };
        let Some(verdict) = rules.verdict(&subject) else { return Ok(None) };
        let namespace = cgroup.container.as_ref().and_then(|_| name_in(process, NAMESPACE_FILE));
        let service = verdict
            .service
            .or_else(|| named_for_telemetry(&process.environment().ok()?))
            .or_else(|| Some(cgroup.unit.as_deref()?.strip_suffix(".service")?.to_owned()))
            .or_else(|| named_by_container(process, &cgroup))
            .unwrap_or_else(|| process.comm().to_owned());
        Ok(Some(Identity {
            pid: process.pid(),
            started: process.started(),
            command: printable(process.comm(), NAME_LIMIT),
            service: printable(&service, NAME_LIMIT),
            container: cgroup.container.map(|id| printable(&id, NAME_LIMIT)),
            namespace: namespace.map(|name| printable(&name, NAME_LIMIT)),
            worker: nginx_worker(process),
            labels: verdict.labels,
        }))
    }

    /// Who a child of this process is that has exited before it could be asked: all that it has from its parent.
    pub fn inherit(&self, pid: u32, started: u64) -> Identity {
        Identity { pid, started, worker: None, ..self.clone() }
    }
}

/// What the environment of a process says its service is called, by the variables of OpenTelemetry.
fn named_for_telemetry(environment: &[u8]) -> Option<String> {
    let variable = |name: &[u8]| {
        let value = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"="))?;
        Some(String::from_utf8_lossy(value).trim().to_owned())
    };
    let attribute = || {
        let attributes = variable(b"OTEL_RESOURCE_ATTRIBUTES")?;
        let (_, value) = attributes
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| key.trim() == "service.name")?;
        Some(percent_decode_str(value.trim()).decode_utf8_lossy().into_owned())
    };
    variable(b"OTEL_SERVICE_NAME").filter(|name| !name.is_empty()).or_else(attribute).filter(|name| !name.is_empty())
}

/// What its container is called, if somebody has given it a name.
fn named_by_container(process: &Process, cgroup: &Cgroup) -> Option<String> {
    let id = cgroup.container.as_ref()?;
    // One that has no host name of its own shows that of the machine.
    if process.namespace("uts").ok()? == FIRST_HOST_NAMESPACE {
        return None;
    }
    let name = name_in(process, HOSTNAME_FILE)?;
    if id.starts_with(&name) && id != &name {
        return None;
    }
    Some(if cgroup.pod { workload(&name).to_owned() } else { name })
}

/// The first line of a small file inside the root of a process.
fn name_in(process: &Process, path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    process.file_in_root(Path::new(path)).ok()?.take(NAME_FILE_LIMIT).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let name = text.lines().next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// What made a pod, by the name of the pod: without what Kubernetes puts behind the name of a Deployment, a DaemonSet, a StatefulSet or a
/// Job. A pod that somebody has named so by hand looks the same.
fn workload(pod: &str) -> &str {
    // What random names consist of (`rand.String`), and what the digits of a ReplicaSet's hash become (`rand.SafeEncodeString`).
    const RANDOM: &str = "bcdfghjklmnpqrstvwxz2456789";
    const HASHED: &str = "456789bcdf";
    const DIGITS: &str = "0123456789";
    let consists = |text: &str, of: &str| !text.is_empty() && text.chars().all(|char| of.contains(char));
    let split = |name: &str| name.rfind('-').filter(|at| *at > 0);
    let Some(at) = split(pod) else { return pod };
    let (rest, suffix) = (&pod[..at], &pod[at + 1..]);
    if suffix.len() == 5 && consists(suffix, RANDOM) {
        // In front of it there may be the hash of a ReplicaSet, or the minute of a CronJob's Job.
        let Some(at) = split(rest) else { return rest };
        let middle = &rest[at + 1..];
        let is_hash = (6..=10).contains(&middle.len()) && consists(middle, HASHED);
        let is_minute = middle.len() == 8 && consists(middle, DIGITS);
        return if is_hash || is_minute { &rest[..at] } else { rest };
    }
    // The number of a pod of a StatefulSet.
    let is_number = suffix.len() <= 5 && consists(suffix, DIGITS) && (suffix == "0" || !suffix.starts_with('0'));
    if is_number { rest } else { pod }
}

/// Which worker of its nginx a process is, as nginx counts them. Builds that do not export the variable do not tell.
fn nginx_worker(process: &Process) -> Option<u32> {
    let entry = process.entry_point().ok()??;
    let mapping = process.maps().ok()?.into_iter().find(|mapping| mapping.range.contains(&entry))?;
    let image = Images::default().open(&process.mapped_file(&mapping).ok()?.file).ok()?;
    let bias = image.bias(mapping.range.start, mapping.offset, mapping.executable)?;
    let memory = process.memory();
    let variable = |name| memory.u64(image.exported_variable(name, 8)?.wrapping_add(bias)).ok();
    if variable(b"ngx_process")? != NGINX_WORKER {
        return None;
    }
    let worker = u32::try_from(variable(b"ngx_worker")?).ok()?;
    // Its memory was read by its pid.
    process.is_running().then_some(worker)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::daemon::config::{Discovery, Rule};
    use crate::target::live::live;

    /// A child that waits, with its `exec` done.
    struct Waiting(Child);

    impl Waiting {
        fn start(command: &mut Command) -> Waiting {
            // `spawn` returns when the child has begun to run its program; its arguments are there a moment later.
            let child = Waiting(command.arg("1000").spawn().unwrap());
            while child.process().arguments().unwrap().is_empty() {}
            child
        }

        fn process(&self) -> Process {
            Process::open(&live(), self.0.id()).unwrap()
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn rules(rules: Vec<Rule>) -> Rules {
        let labels = [("cluster".to_owned(), "blue".to_owned())].into();
        Rules::new(&Discovery { otherwise: true, rule: rules }, &labels).unwrap()
    }

    #[test]
    fn a_process_that_nobody_has_named_is_called_as_its_command() {
        // The tests may run in a service or a container themselves.
        let child = Waiting::start(&mut Command::new("sleep"));
        let process = child.process();
        let mut cgroup = Cgroup::parse(&process.cgroups().unwrap());
        let identity = Identity::of(&process, &rules(vec![])).unwrap().unwrap();
        assert_eq!((identity.pid, identity.started), (child.0.id(), process.started()));
        assert_eq!((&*identity.command, identity.worker), ("sleep", None));
        assert_eq!(identity.container, cgroup.container.take());
        assert_eq!(identity.labels["cluster"], "blue");
        if cgroup.unit.is_none() && identity.container.is_none() {
            assert_eq!((&*identity.service, identity.namespace), ("sleep", None));
        }
    }

    #[test]
    fn a_process_in_a_cgroup_of_a_unit_is_of_its_service() {
        // Version 2 alone, or beside the hierarchy of systemd.
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd"].map(Path::new);
        let Some(root) = root.into_iter().find(|root| root.join("cgroup.procs").exists()) else { return };
        let slice = root.join(format!("luaflame-test-{}.slice", std::process::id()));
        let unit = slice.join("openresty@blue.service");
        if std::fs::create_dir_all(&unit).is_err() {
            eprintln!("no cgroup can be made here");
            return;
        }
        let child = Waiting::start(&mut Command::new("sleep"));
        std::fs::write(unit.join("cgroup.procs"), child.0.id().to_string()).unwrap();
        let rule = Rule { cgroup: Some("^/.*@green".to_owned()), profile: Some(false), ..Rule::default() };
        let identity = Identity::of(&child.process(), &rules(vec![rule]));
        drop(child);
        for folder in [unit, slice] {
            std::fs::remove_dir(folder).unwrap();
        }
        assert_eq!(identity.unwrap().unwrap().service, "openresty@blue");
    }

    #[test]
    fn rules_come_before_the_environment_and_that_before_the_rest() {
        let child = Waiting::start(Command::new("sleep").env("OTEL_SERVICE_NAME", "checkout\u{1b}[2J"));
        let service = |list| Identity::of(&child.process(), &rules(list)).unwrap().map(|identity| identity.service);
        let named = |command: &str, name: &str| Rule {
            command: Some(command.to_owned()),
            service: Some(name.to_owned()),
            ..Rule::default()
        };
        assert_eq!(service(vec![]).unwrap(), "checkout\\u{1b}[2J", "what it says of itself cannot control a terminal");
        assert_eq!(service(vec![named("^nginx", "edge"), named("sleep 1000$", "naps")]).unwrap(), "naps");
        let left_out = Rule { command: Some("sleep".to_owned()), profile: Some(false), ..Rule::default() };
        assert_eq!(service(vec![left_out]), None);
    }

    #[test]
    fn the_environment_names_a_service_as_opentelemetry_has_it() {
        let named = |variables: &[&str]| named_for_telemetry(variables.join("\0").as_bytes());
        assert_eq!(named(&["A=1", "OTEL_SERVICE_NAME=api", "B=2", ""]).as_deref(), Some("api"));
        let attributes = "OTEL_RESOURCE_ATTRIBUTES=host.name=a, service.name = my%20api%2C2 ,x";
        assert_eq!(named(&[attributes]).as_deref(), Some("my api,2"));
        assert_eq!(named(&[attributes, "OTEL_SERVICE_NAME=api"]).as_deref(), Some("api"));
        assert_eq!(named(&[attributes, "OTEL_SERVICE_NAME="]).as_deref(), Some("my api,2"));
        for none in [
            "",
            "OTEL_SERVICE_NAME",
            "XOTEL_SERVICE_NAME=api",
            "OTEL_SERVICE_NAMES=api",
            "OTEL_RESOURCE_ATTRIBUTES=,=,service.name=",
        ] {
            assert_eq!(named(&[none]), None, "{none}");
        }
    }

    #[test]
    fn pods_are_called_after_what_made_them() {
        for (pod, name) in [
            ("nginx-deployment-66b6c48dd5-7gl6h", "nginx-deployment"),
            ("edge-7c5ddbdf54-24567", "edge"),
            ("node-agent-x2vqz", "node-agent"),
            ("kong-0", "kong"),
            ("kong-proxy-12", "kong-proxy"),
            ("report-28374652-c4kzn", "report"),
            ("edge", "edge"),
            ("edge-proxy", "edge-proxy"),
            ("edge-cache", "edge-cache"),
            // A number, but of no StatefulSet.
            ("edge-007", "edge-007"),
            ("edge-2024", "edge"),
            ("edge-20240101", "edge-20240101"),
            // What stands in front of the suffix is no hash.
            ("web-release-7gl6h", "web-release"),
            ("-7gl6h", "-7gl6h"),
            ("-", "-"),
            ("edge-", "edge-"),
            ("", ""),
        ] {
            assert_eq!(workload(pod), name, "{pod}");
        }
    }

    #[test]
    fn a_child_that_has_gone_is_like_its_parent() {
        let parent = Identity {
            pid: 10,
            started: 1,
            command: "nginx".to_owned(),
            service: "edge".to_owned(),
            container: Some("c".to_owned()),
            namespace: Some("n".to_owned()),
            worker: Some(3),
            labels: [("a".to_owned(), "b".to_owned())].into(),
        };
        let child = parent.inherit(11, 2);
        assert_eq!(child, Identity { pid: 11, started: 2, worker: None, ..parent });
    }
}
