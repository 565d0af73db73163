//! Where a process belongs by its cgroup: the unit of systemd, the container, the pod.
//!
//! A cgroup is a path whose parts service managers and container runtimes name. What they call a container is its id, 64 hexadecimal
//! digits, with something of the runtime's around it: `docker-ID.scope`, `/docker/ID`, `cri-containerd-ID.scope`, `crio-ID.scope`,
//! `libpod-ID.scope`, `/ecs/TASK/ID`, `pod:cri-containerd:ID`. Others have a name: `lxc.payload.NAME`, `machine-NAME.scope`.

/// Digits of the id that every runtime of the Open Container Initiative gives its containers.
const ID_DIGITS: usize = 64;

/// The cgroup of a process, and what its parts tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The path, as seen from our own cgroup namespace: `/` is its root, and paths outside of it begin with `/..`.
    pub path: String,
    /// The id of the innermost container that it is in, or the name of one that has no id.
    pub container: Option<String>,
    /// The service of systemd that it is in, inside of its container if it has one: `nginx.service`.
    pub unit: Option<String>,
    /// It is of a pod of Kubernetes.
    pub pod: bool,
}

impl Cgroup {
    /// Reads the text of `/proc/PID/cgroup`, of either version of cgroups. Bytes that are not UTF-8 are replaced.
    ///
    /// With several hierarchies, that one counts which tells a container, and else the first one whose root it is not in: before the
    /// others come those that have a name, which exist to tell services, and then that of version 2.
    pub fn parse(text: &[u8]) -> Cgroup {
        let text = String::from_utf8_lossy(text);
        // proc_pid_cgroup(5): number:controllers:path
        let mut hierarchies: Vec<(u8, &str)> = text
            .lines()
            .filter_map(|line| {
                let (number, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                let rank = match (controllers.starts_with("name="), number) {
                    (true, _) => 0,
                    (false, "0") => 1,
                    (false, _) => 2,
                };
                Some((rank, path.strip_suffix(" (deleted)").unwrap_or(path)))
            })
            .collect();
        hierarchies.sort_by_key(|(rank, _)| *rank);
        let cgroups: Vec<Cgroup> = hierarchies.into_iter().map(|(_, path)| Cgroup::of_path(path)).collect();
        let best = cgroups.iter().position(|cgroup| cgroup.container.is_some());
        let best = best.or_else(|| cgroups.iter().position(|cgroup| cgroup.path != "/"));
        cgroups.into_iter().nth(best.unwrap_or(0)).unwrap_or_else(|| Cgroup::of_path("/"))
    }

    fn of_path(path: &str) -> Cgroup {
        let (mut container, mut unit) = (None, None);
        let mut parent = "";
        for part in path.split('/') {
            if let Some(found) = container_of(parent, part) {
                // What is around a container is the runtime's, except that podman can put one into the unit that it is run by.
                if !part.starts_with("libpod-payload-") {
                    unit = None;
                }
                container = Some(found);
            } else if let Some(found) = unit_of(part) {
                unit = Some(found.to_owned());
            }
            parent = part;
        }
        Cgroup { path: path.to_owned(), container, unit, pod: path.contains("kubepods") }
    }
}

/// The service that a part of a path is of. A service that manages others is none: what it does not put into a service of its own
/// belongs to nobody.
fn unit_of(part: &str) -> Option<&str> {
    // systemd puts this before a name that means something to the kernel.
    let unit = part.strip_prefix('_').unwrap_or(part);
    let name = unit.strip_suffix(".service")?;
    (!name.is_empty() && !name.starts_with("user@")).then_some(unit)
}

/// The container that a part of a path is of, below that parent.
fn container_of(parent: &str, part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    // What looks after a container has a cgroup with its id, too.
    if name.contains("conmon-") {
        return None;
    }
    let (_, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    if id.len() == ID_DIGITS && is_hex(id) {
        return Some(id.to_owned());
    }
    // On Fargate it is the task's id and a number.
    if let Some((task, number)) = name.split_once('-')
        && task == parent
        && task.len() == 32
        && is_hex(task)
        && is_number(number)
    {
        return Some(name.to_owned());
    }
    let machine = || {
        let scope = part.strip_prefix("machine-")?.strip_suffix(".scope")?;
        // Virtual machines are no containers.
        (!scope.starts_with("qemu") && !scope.starts_with("libvirt")).then_some(scope)
    };
    let unit = || part.strip_prefix("systemd-nspawn@")?.strip_suffix(".service");
    let named = part.strip_prefix("lxc.payload.").or_else(machine).or_else(unit);
    let named = named.or_else(|| matches!(parent, "lxc" | "lxc.payload").then_some(part));
    named.filter(|name| !name.is_empty()).map(unescape)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// systemd writes a character that a name of a unit cannot have as `\x2d`.
fn unescape(name: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = rest.strip_prefix(b"\\x").and_then(|tail| tail.get(..2));
        match code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4b8e0a5d6c7b8a9f0e1d2c3b4a59687766554433221100ffeeddccbbaa9988";

    /// The container and the unit of a process whose file has these lines.
    fn told(lines: &[&str]) -> (Option<String>, Option<String>) {
        let cgroup = Cgroup::parse((lines.join("\n") + "\n").replace("ID", ID).as_bytes());
        (cgroup.container, cgroup.unit)
    }

    fn container(path: &str) -> Option<String> {
        told(&[&format!("0::{path}")]).0
    }

    fn unit(path: &str) -> Option<String> {
        told(&[&format!("0::{path}")]).1
    }

    #[test]
    fn containers_are_known_by_their_id_in_every_runtime() {
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            "/docker/0f4b8e0a5d6c7b8a9f0e1d2c3b4a59687766554433221100ffeeddccbbaa9988/docker/ID",
            "/system.slice/docker-ID.scope/init.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/libpod_parent/libpod-ID",
            "/default/ID",
            "/system.slice/nerdctl-ID.scope",
            "/ecs/0d9dd1a1cd1b4b2d9d60cbcc9a8c6ef1/ID",
            "/ecs/my-cluster/0d9dd1a1-cd1b-4b2d-9d60-cbcc9a8c6ef1/ID",
            "/ecstasks.slice/ecstasks-0d9dd1a1cd1b4b2d9d60cbcc9a8c6ef1.slice/docker-ID.scope",
            "/kubepods/besteffort/pod9a1c3a2e-5b1b-4a3f-8d0c-6a7b8c9d0e1f/ID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod9a1c3a2e_5b1b_4a3f.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-pod9a1c3a2e_5b1b_4a3f.slice/crio-ID.scope",
            "/kubepods.slice/kubepods-pod9a1c3a2e_5b1b_4a3f.slice/crio-ID.scope/container",
            "/system.slice/containerd.service/kubepods-burstable-pod9a1c3a2e.slice:cri-containerd:ID",
            "/../cri-containerd-ID.scope",
            "/../../kubepods-pod9a1c3a2e.slice/cri-containerd-ID.scope",
        ] {
            assert_eq!(container(path), Some(ID.to_owned()), "{path}");
            assert_eq!(unit(path), None, "{path}: the unit is the runtime's");
        }
    }

    #[test]
    fn containers_without_an_id_have_a_name() {
        for (path, name) in [
            ("/lxc/web", "web"),
            ("/lxc.payload/web", "web"),
            ("/lxc.payload.web-1/system.slice/nginx.service", "web-1"),
            ("/machine.slice/machine-debian\\x2d12.scope", "debian-12"),
            ("/machine.slice/systemd-nspawn@debian.service/payload", "debian"),
            (
                "/ecs/34dc0b5e626f2c5c4c5170e34b10e765/34dc0b5e626f2c5c4c5170e34b10e765-1234567890",
                "34dc0b5e626f2c5c4c5170e34b10e765-1234567890",
            ),
        ] {
            assert_eq!(container(path).as_deref(), Some(name), "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        for path in [
            "/",
            "/system.slice/nginx.service",
            "/user.slice/user-1000.slice/session-3.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/kubepods-pod9a1c.slice/crio-conmon-ID.scope",
            "/lxc.monitor.web",
            "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope",
            "/lxc/",
            "/app/3f4b8e0a5d6c",
            "/ecs/34dc0b5e626f2c5c4c5170e34b10e765",
        ] {
            assert_eq!(container(path), None, "{path}");
        }
    }

    #[test]
    fn the_unit_is_the_innermost_service_that_is_no_manager() {
        for (path, name) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-openresty.slice/openresty@blue.service", Some("openresty@blue.service")),
            ("/system.slice/nginx.service/workers", Some("nginx.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/api.service", Some("api.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-term-1.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/init.scope", None),
            ("/system.slice/.service", None),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            // In a container that runs systemd.
            ("/system.slice/docker-ID.scope/system.slice/nginx.service", Some("nginx.service")),
            ("/lxc.payload.web/system.slice/nginx.service", Some("nginx.service")),
            ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", Some("nginx.service")),
            ("/machine.slice/systemd-nspawn@web.service/payload", None),
            // podman's `--cgroups=split`, which Quadlet uses.
            ("/system.slice/web.service/libpod-payload-ID", Some("web.service")),
        ] {
            assert_eq!(unit(path).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn of_several_hierarchies_the_one_that_tells_most_counts() {
        let legacy = ["12:memory:/docker/ID", "4:cpu,cpuacct:/docker/ID", "1:name=systemd:/docker/ID", "0::/"];
        assert_eq!(told(&legacy), (Some(ID.to_owned()), None));
        let hybrid = [
            "9:pids:/system.slice/containerd.service",
            "1:name=systemd:/kubepods/poda/ID",
            "0::/system.slice/containerd.service",
        ];
        assert_eq!(told(&hybrid), (Some(ID.to_owned()), None));
        let service =
            ["9:memory:/system.slice", "1:name=systemd:/system.slice/nginx.service", "0::/system.slice/nginx.service"];
        assert_eq!(told(&service), (None, Some("nginx.service".to_owned())));
        let path = |text: &str| Cgroup::parse(text.as_bytes()).path;
        assert_eq!(path("9:name=systemd:/\n4:memory:/batch/7\n1:cpu:/\n0::/\n"), "/batch/7");
        assert_eq!(path("0::/system.slice/nginx.service (deleted)\n"), "/system.slice/nginx.service");
        assert_eq!(path("1:name=openrc:/nginx\n0::/openrc\n"), "/nginx");
    }

    #[test]
    fn pods_are_known_with_either_cgroup_driver() {
        let pod = |path: &str| Cgroup::parse(format!("0::{path}\n").as_bytes()).pod;
        assert!(pod("/kubepods/burstable/pod9a1c/abc"));
        assert!(pod("/kubepods.slice/kubepods-pod9a1c.slice/crio-abc.scope"));
        assert!(pod("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod9a1c.slice/cri-containerd-abc.scope"));
        assert!(!pod("/system.slice/kubelet.service"));
    }

    #[test]
    fn odd_texts_are_read_as_far_as_they_go() {
        for text in [
            &b""[..],
            b"\n",
            b"0:",
            b"x",
            b"0::",
            b"\xff:\xff:/\xff\n",
            b"1:name=systemd:/a\\xzz\\x\n",
            b"0::/docker/\\x2",
        ] {
            let _ = Cgroup::parse(text);
        }
        assert_eq!(Cgroup::parse(b"").path, "/");
        assert_eq!(unescape("a\\x2db\\x"), "a-b\\x");
        assert_eq!(Cgroup::parse(b"0::/a:b\n").path, "/a:b");
    }
}
