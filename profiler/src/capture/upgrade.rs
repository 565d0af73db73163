//! Records of earlier versions of the probe, brought into the form that they have now.

use std::mem::offset_of;

use luaflame_ebpf::Header;

/// A record of the probe as it would be now, from one that is laid out as version `from` of
/// [`LAYOUT`](crate::probe::sample::LAYOUT) says.
pub(super) fn upgraded(mut record: Vec<u8>, from: u32) -> Vec<u8> {
    if from < 2 {
        // Since then a sample says which trace was copied: none was.
        const TRACE: usize = offset_of!(Header, trace);
        const ADDED: usize = offset_of!(Header, registers) - TRACE;
        if record.len() >= TRACE {
            record.splice(TRACE..TRACE, [0; ADDED]);
            // Two flags, which the walk's entries tell now, were before those about the native stack.
            const FLAGS: usize = offset_of!(Header, flags);
            record[FLAGS] = record[FLAGS] & 1 | record[FLAGS] >> 2 & 6;
        }
    }
    record
}
