//! What luaflame needs of the kernel and of its own privileges, checked before anything is loaded, so that the refusal says
//! what is missing instead of `EPERM`.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// First kernel with all that the probe uses: the ring buffer, and a task's user registers in eBPF.
const KERNEL: (u32, u32) = (5, 15);
/// Where the kernel describes its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Inode of the first PID namespace (`PROC_PID_INIT_INO` in the kernel's `proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Inode of the first user namespace (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Bits of the capabilities, from `linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Something that luaflame needs and does not have. The message says what was found and what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Requirement {
    /// The kernel is too old.
    #[error(
        "this kernel is Linux {found}, and luaflame needs {}.{} or newer (`uname -r` shows it): the eBPF features that the \
         probe uses are not in older ones",
        KERNEL.0, KERNEL.1
    )]
    Kernel {
        /// The kernel's release as it says itself.
        found: String,
    },
    /// The kernel does not describe its types.
    #[error(
        "this kernel does not say how its types are laid out: there is no {BTF}; luaflame needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y, as those of Debian, Ubuntu, Fedora and others are (`grep BTF /boot/config-$(uname -r)` \
         shows it), and in a container the host's /sys"
    )]
    Btf,
    /// Privileges that are missing.
    #[error(
        "not permitted: luaflame runs without {missing} (kernel.perf_event_paranoid is {paranoid}, \
         kernel.unprivileged_bpf_disabled is {unprivileged}); run it as root with `sudo {command} ...`, or give the program \
         what it needs with `sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_syslog=ep {command}`"
    )]
    Capabilities {
        /// The missing capabilities, as a phrase.
        missing: String,
        /// Value of the sysctl, or `unknown`.
        paranoid: String,
        /// Value of the sysctl, or `unknown`.
        unprivileged: String,
        /// This program as a word for a shell.
        command: String,
    },
    /// The privileges are those of a user namespace.
    #[error(
        "not permitted: luaflame runs in a user namespace of its own (user:[{found}], the host's is \
         user:[{FIRST_USER_NAMESPACE}]), as in a rootless container, and its privileges there do not count for eBPF; run it \
         on the host with sudo, where it sees the processes of containers too"
    )]
    UserNamespace {
        /// Inode of the namespace.
        found: u64,
    },
    /// PIDs mean something else here than to the kernel.
    #[error(
        "luaflame runs in a PID namespace of its own (pid:[{found}], the host's is pid:[{FIRST_PID_NAMESPACE}]), where \
         processes have other numbers than the probe sees; run it on the host with the host's PIDs, or in a container \
         started with `--pid=host` (Kubernetes: `hostPID: true`)"
    )]
    PidNamespace {
        /// Inode of the namespace.
        found: u64,
    },
}

/// Checks this system and this process.
///
/// # Errors
/// The first requirement that is not met. What cannot be found out counts as met: the kernel will say.
pub fn check() -> Result<(), Requirement> {
    System::read().check()
}

/// One thing about this system that luaflame depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub what: &'static str,
    /// What was found.
    pub found: String,
}

/// What this system is like, for a report.
pub fn findings() -> Vec<Finding> {
    System::read().findings()
}

/// What the requirements are about, as found.
#[derive(Debug, Clone)]
struct System {
    /// `/proc/sys/kernel/osrelease`.
    release: Option<String>,
    /// There is a BTF of the kernel.
    btf: bool,
    /// `/proc/self/status`.
    status: Option<String>,
    /// `kernel.perf_event_paranoid`.
    paranoid: Option<String>,
    /// `kernel.unprivileged_bpf_disabled`.
    unprivileged: Option<String>,
    /// Link of `/proc/self/ns/pid`: `pid:[4026531836]`.
    pid_namespace: Option<String>,
    /// Link of `/proc/self/ns/user`.
    user_namespace: Option<String>,
    /// Path of this program.
    program: Option<String>,
}

impl System {
    fn read() -> System {
        let text = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let link = |path| fs::read_link(path).ok()?.into_os_string().into_string().ok();
        System {
            release: text("/proc/sys/kernel/osrelease"),
            btf: Path::new(BTF).exists(),
            status: text("/proc/self/status"),
            paranoid: text("/proc/sys/kernel/perf_event_paranoid"),
            unprivileged: text("/proc/sys/kernel/unprivileged_bpf_disabled"),
            pid_namespace: link("/proc/self/ns/pid"),
            user_namespace: link("/proc/self/ns/user"),
            program: std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok()),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        let effective = self.status.as_deref().and_then(effective_capabilities);
        let capabilities =
            effective.map(|set| missing(set).map_or("enough".to_owned(), |missing| format!("without {missing}")));
        [
            ("kernel", known(&self.release)),
            ("kernel types (BTF)", if self.btf { "there".to_owned() } else { format!("no {BTF}") }),
            ("capabilities", known(&capabilities)),
            ("kernel.perf_event_paranoid", known(&self.paranoid)),
            ("kernel.unprivileged_bpf_disabled", known(&self.unprivileged)),
            ("PID namespace", known(&self.pid_namespace)),
            ("user namespace", known(&self.user_namespace)),
        ]
        .map(|(what, found)| Finding { what, found })
        .into()
    }

    fn check(&self) -> Result<(), Requirement> {
        if let Some(release) = &self.release
            && version(release).is_some_and(|version| version < KERNEL)
        {
            return Err(Requirement::Kernel { found: release.clone() });
        }
        if let Some(found) = self.user_namespace.as_deref().and_then(inode)
            && found != FIRST_USER_NAMESPACE
        {
            return Err(Requirement::UserNamespace { found });
        }
        if let Some(missing) = self.status.as_deref().and_then(effective_capabilities).and_then(missing) {
            let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
            return Err(Requirement::Capabilities {
                missing,
                paranoid: known(&self.paranoid),
                unprivileged: known(&self.unprivileged),
                command: command(self.program.as_deref()),
            });
        }
        if let Some(found) = self.pid_namespace.as_deref().and_then(inode)
            && found != FIRST_PID_NAMESPACE
        {
            return Err(Requirement::PidNamespace { found });
        }
        if !self.btf {
            return Err(Requirement::Btf);
        }
        Ok(())
    }
}

/// Major and minor version of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The inode in a namespace's link, `pid:[4026531836]`.
fn inode(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// The set `CapEff` of a `/proc/PID/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// What a set of capabilities lacks, as a phrase.
fn missing(effective: u64) -> Option<String> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut missing = Vec::new();
    // CAP_SYS_ADMIN stands for both, as it did before they existed.
    if !has(CAP_SYS_ADMIN) {
        missing.extend((!has(CAP_BPF)).then_some("CAP_BPF (to load the probe)"));
        missing.extend((!has(CAP_PERFMON)).then_some("CAP_PERFMON (to sample)"));
    }
    missing.extend((!has(CAP_SYS_PTRACE)).then_some("CAP_SYS_PTRACE (to read other processes)"));
    let (last, others) = missing.split_last()?;
    Some(if others.is_empty() { (*last).to_owned() } else { format!("{} and {last}", others.join(", ")) })
}

/// A word that means this program in a shell: its path, or what finds it when that would need quoting.
fn command(program: Option<&str>) -> String {
    match program {
        Some(path) if path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte)) => {
            path.to_owned()
        }
        _ => "$(command -v luaflame)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system on which everything is met.
    fn system() -> System {
        System {
            release: Some("6.1.0-18-amd64".into()),
            btf: true,
            status: Some("Name:\tluaflame\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n".into()),
            paranoid: Some("4".into()),
            unprivileged: Some("2".into()),
            pid_namespace: Some("pid:[4026531836]".into()),
            user_namespace: Some("user:[4026531837]".into()),
            program: Some("/usr/local/bin/luaflame".into()),
        }
    }

    fn with_capabilities(capabilities: u64) -> System {
        System { status: Some(format!("CapEff:\t{capabilities:016x}\n")), ..system() }
    }

    fn refusal(system: System) -> String {
        system.check().unwrap_err().to_string()
    }

    #[test]
    fn root_on_a_current_kernel_may_go_on() {
        assert_eq!(system().check(), Ok(()));
    }

    #[test]
    fn the_kernel_must_be_new_enough() {
        for (release, fits) in [
            ("5.15.0-91-generic", true),
            ("5.15", true),
            ("6.0.0", true),
            ("10.1", true),
            ("5.14.21", false),
            ("4.18.0-513.el8.x86_64", false),
            ("3.10.0-1160.el7", false),
            // Unreadable: the kernel itself will tell.
            ("", true),
            ("custom", true),
            ("99999999999999999999.1", true),
        ] {
            let refused = System { release: Some(release.into()), ..system() }.check();
            assert_eq!(refused.is_ok(), fits, "{release}: {refused:?}");
        }
        let text = refusal(System { release: Some("5.10.0-28-amd64".into()), ..system() });
        assert!(text.contains("Linux 5.10.0-28-amd64") && text.contains("5.15"), "{text}");
    }

    #[test]
    fn no_privileges_names_all_that_helps() {
        let text = refusal(with_capabilities(0));
        for part in [
            "CAP_BPF",
            "CAP_PERFMON",
            "CAP_SYS_PTRACE",
            "kernel.perf_event_paranoid is 4",
            "kernel.unprivileged_bpf_disabled is 2",
            "`sudo /usr/local/bin/luaflame ...`",
            "`sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_syslog=ep /usr/local/bin/luaflame`",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn only_what_is_missing_is_named() {
        let text = refusal(with_capabilities(1 << CAP_BPF | 1 << CAP_PERFMON));
        assert!(text.contains("without CAP_SYS_PTRACE (to read other processes) ("), "{text}");
        let text = refusal(with_capabilities(1 << CAP_BPF | 1 << CAP_SYS_PTRACE));
        assert!(text.contains("without CAP_PERFMON (to sample) ("), "{text}");
        assert_eq!(with_capabilities(1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_SYS_PTRACE).check(), Ok(()));
        assert_eq!(with_capabilities(1 << CAP_SYS_ADMIN | 1 << CAP_SYS_PTRACE).check(), Ok(()));
    }

    #[test]
    fn a_path_that_needs_quoting_is_not_put_in_a_command() {
        let strange = System { program: Some("/home/me/my tools/$(reboot)".into()), ..with_capabilities(0) };
        let text = refusal(strange);
        assert!(text.contains("`sudo $(command -v luaflame) ...`") && !text.contains("reboot"), "{text}");
    }

    #[test]
    fn namespaces_of_a_container_are_found() {
        let text = refusal(System { pid_namespace: Some("pid:[4026532201]".into()), ..system() });
        assert!(text.contains("pid:[4026532201]") && text.contains("pid:[4026531836]"), "{text}");
        assert!(text.contains("--pid=host"), "{text}");
        let text = refusal(System { user_namespace: Some("user:[4026532300]".into()), ..system() });
        assert!(text.contains("user:[4026532300]"), "{text}");
    }

    #[test]
    fn a_kernel_without_btf_is_refused() {
        let text = refusal(System { btf: false, ..system() });
        assert!(text.contains("/sys/kernel/btf/vmlinux") && text.contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_kernel() {
        let blind = System {
            release: None,
            btf: true,
            status: Some("garbage".into()),
            paranoid: None,
            unprivileged: None,
            pid_namespace: Some("pid:[".into()),
            user_namespace: None,
            program: None,
        };
        assert_eq!(blind.check(), Ok(()));
    }
}
