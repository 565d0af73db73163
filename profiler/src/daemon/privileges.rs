//! What a thread of the daemon may do. The thread that samples keeps what it needs, all others keep nothing: those that talk to the network
//! have no more rights than any program of their user.

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};
use rustix::thread::set_no_new_privs;

/// What sampling needs.
pub const SAMPLER: [Capability; 6] = [
    // Loading the probe, also after the kill switch is gone.
    Capability::CAP_BPF,
    // Perf events on every CPU, and probes that read the kernel's memory.
    Capability::CAP_PERFMON,
    // The memory and the `/proc` of processes of other users.
    Capability::CAP_SYS_PTRACE,
    // Programs, libraries and Lua sources that only other users may read.
    Capability::CAP_DAC_READ_SEARCH,
    // Programs and libraries that have been replaced since they were mapped (`/proc/PID/map_files`).
    Capability::CAP_CHECKPOINT_RESTORE,
    // The addresses of the kernel's functions.
    Capability::CAP_SYSLOG,
];

/// Takes all capabilities from the calling thread, and from threads and programs that it starts from now on.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn drop_all() -> anyhow::Result<()> {
    keep(&[])
}

/// The same, of all but these. Those of them that it does not have, it does not get.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn keep(kept: &[Capability]) -> anyhow::Result<()> {
    let told = "the capabilities of a thread cannot be given up";
    set_no_new_privs(true).context(told)?;
    // Only whoever may change capabilities may take from this set; for the others `no_new_privs` does the same.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).context(told)? {
        for capability in caps::read(None, CapSet::Bounding).context(told)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).context(told)?;
            }
        }
    }
    let had = caps::read(None, CapSet::Permitted).context(told)?;
    let kept: CapsHashSet = kept.iter().copied().filter(|capability| had.contains(capability)).collect();
    caps::clear(None, CapSet::Ambient).context(told)?;
    caps::clear(None, CapSet::Inheritable).context(told)?;
    caps::set(None, CapSet::Effective, &kept).context(told)?;
    caps::set(None, CapSet::Permitted, &kept).context(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETS: [CapSet; 4] = [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];

    #[test]
    fn a_thread_gives_up_what_it_had_and_others_keep_theirs() {
        let before = SETS.map(|set| caps::read(None, set).unwrap());
        let (sets, children) = std::thread::spawn(|| {
            drop_all().unwrap();
            let children = std::thread::spawn(|| SETS.map(|set| caps::read(None, set).unwrap())).join().unwrap();
            (SETS.map(|set| caps::read(None, set).unwrap()), children)
        })
        .join()
        .unwrap();
        assert!(sets.iter().chain(&children).all(CapsHashSet::is_empty), "{sets:?}");
        assert_eq!(SETS.map(|set| caps::read(None, set).unwrap()), before);
    }

    #[test]
    fn what_is_kept_is_kept_and_nothing_is_won() {
        let wanted = [Capability::CAP_SYS_PTRACE, Capability::CAP_SYSLOG];
        let had = caps::read(None, CapSet::Permitted).unwrap();
        let (permitted, effective) = std::thread::spawn(move || {
            keep(&wanted).unwrap();
            (caps::read(None, CapSet::Permitted).unwrap(), caps::read(None, CapSet::Effective).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(permitted, wanted.into_iter().filter(|capability| had.contains(capability)).collect());
        assert_eq!(permitted, effective);
        let again = std::thread::spawn(|| {
            drop_all().unwrap();
            keep(&SAMPLER).unwrap();
            caps::read(None, CapSet::Permitted).unwrap()
        });
        assert!(again.join().unwrap().is_empty());
    }

    #[test]
    fn programs_that_such_a_thread_starts_have_none_either() {
        let output = std::thread::spawn(|| {
            drop_all().unwrap();
            std::process::Command::new("cat").arg("/proc/self/status").output().unwrap()
        })
        .join()
        .unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
}
