//! Which trace a machine-code address belongs to, while traces come and go.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::copies::Copies;
use super::exit_stub::{ExitStubs, Guards};
use super::layout::Layout;
use super::memory::Memory;
use super::object::{read_reference, reference_at};
use super::trace::{Header, ParentExit, REF_BIAS, Trace, parent_exit};

/// `traceno` has 16 bits.
const MAX_TRACES: u32 = 1 << 16;
/// How many headers may be read again, over time, for each address that no trace is found for.
const REREAD_PER_MISS: usize = 64;
/// How many parents of a side trace are read for what it inherits from them.
const MAX_PARENTS: usize = 64;
/// Bytes of the traces that are kept: some thousand ordinary ones. When there are more, they start afresh.
const MAX_BYTES: usize = 16 << 20;

/// The traces of one VM, by the addresses of their machine code.
///
/// What is cached is checked at every look-up: the trace table must still hold the trace, and everything in its header
/// that stays the same over a trace's life must be unchanged (two reads). So a trace that was flushed is never found
/// again, and one whose number, object or machine code has been reused is read anew. What can't be seen is that the
/// code at an address was another trace's between the sample and the look-up; compare [`Trace::number`] with the VM state
/// of the sample.
#[derive(Debug)]
pub struct TraceMap {
    jit_state: u64,
    layout: Layout,
    /// `J.trace` when it was last read.
    table: Vec<u64>,
    /// Traces by the start of their machine code, which never overlap.
    traces: BTreeMap<u64, Entry>,
    /// Traces read from copies, by their marks.
    copied: FxHashMap<u64, Arc<Trace>>,
    /// Bytes of traces read since they last started afresh.
    bytes: usize,
    exit_stubs: ExitStubs,
    /// Misses since all headers were read.
    misses: usize,
}

#[derive(Debug)]
struct Entry {
    header: Header,
    /// The exit at which a side trace begins.
    parent: Option<ParentExit>,
    trace: Option<Arc<Trace>>,
}

impl TraceMap {
    /// An empty map for the VM whose `global_State` is at `global_state`. Nothing is read until the first look-up.
    pub fn new(layout: &Layout, global_state: u64) -> TraceMap {
        let between = u64::from(layout.gg.j).wrapping_sub(u64::from(layout.gg.g));
        TraceMap {
            jit_state: global_state.wrapping_add(between),
            layout: layout.clone(),
            table: Vec::new(),
            traces: BTreeMap::new(),
            copied: FxHashMap::default(),
            bytes: 0,
            exit_stubs: ExitStubs::default(),
            misses: 0,
        }
    }

    /// The trace whose machine code `pc` is in.
    ///
    /// On a miss the trace table is read, and the header of every trace that is new in it; all headers are read again
    /// only so often that over time a miss costs no more than a few dozen reads. Ask only for addresses that may be
    /// machine code of a trace: those outside of every mapped file.
    pub fn lookup(&mut self, memory: &(impl Memory + ?Sized), pc: u64) -> Option<Arc<Trace>> {
        if let Some(trace) = self.find(memory, pc) {
            return Some(trace);
        }
        self.refresh(memory, false);
        if let Some(trace) = self.find(memory, pc) {
            return Some(trace);
        }
        self.misses += 1;
        if self.misses * REREAD_PER_MISS < self.table.len() {
            return None;
        }
        self.refresh(memory, true);
        self.find(memory, pc)
    }

    /// The trace with this number (`vmstate` while it runs), as long as it lives.
    pub fn get(&mut self, memory: &(impl Memory + ?Sized), number: u16) -> Option<Arc<Trace>> {
        let table = self.read_table(memory)?;
        let address = *table.get(usize::from(number))?;
        let header = self.read_header(memory, number, address)?;
        self.lookup(memory, header.mcode)
    }

    /// The trace with this address and mark that was copied when it ran; it need not live any more.
    pub fn copied(&mut self, memory: &impl Memory, copies: &Copies, address: u64, mark: u64) -> Option<Arc<Trace>> {
        if let Some(trace) = self.copied.get(&mark) {
            return Some(Arc::clone(trace));
        }
        if !copies.has(address, mark) {
            return None;
        }
        let memory = &copies.over(memory);
        let bytes = memory.bytes(address, self.layout.trace.size as usize).ok()?;
        let header = Header::parse(address, &bytes, &self.layout)?;
        let stubs = ExitStubs::read(memory, &self.layout, self.jit_state)?;
        let guards = Guards { stubs, ..self.guards_of(header.number) };
        let trace = Arc::new(Trace::read(memory, &self.layout, self.vm(), header, None, &guards)?);
        self.make_room(Some(&trace));
        self.copied.insert(mark, Arc::clone(&trace));
        Some(trace)
    }

    /// The exit stubs of this VM, as of the last look-up that missed; `None` when they can't be read.
    pub fn exit_stubs(&mut self, memory: &(impl Memory + ?Sized)) -> Option<&ExitStubs> {
        self.exit_stubs = ExitStubs::read(memory, &self.layout, self.jit_state)?;
        Some(&self.exit_stubs)
    }

    /// The cached trace at `pc`, if it is still there.
    fn find(&mut self, memory: &(impl Memory + ?Sized), pc: u64) -> Option<Arc<Trace>> {
        let (&start, entry) = self.traces.range(..=pc).next_back()?;
        let header = entry.header;
        if !header.mcode().contains(&pc) {
            return None;
        }
        if !self.is_current(memory, &header) {
            self.traces.remove(&start);
            if let Some(slot) = self.table.get_mut(usize::from(header.number)) {
                *slot = 0;
            }
            return None;
        }
        self.load(memory, start)
    }

    fn is_current(&self, memory: &(impl Memory + ?Sized), header: &Header) -> bool {
        let slot = || {
            let table = memory.u64(self.jit_state.checked_add(u64::from(self.layout.jit_state.trace))?).ok()?;
            let model = self.layout.model;
            let slot = table.checked_add(u64::from(header.number) * model.reference_size())?;
            read_reference(memory, model, slot).ok()
        };
        slot() == Some(header.address) && self.read_header(memory, header.number, header.address) == Some(*header)
    }

    /// The copy of the trace whose machine code begins at `start`; reads it, and first those of its parents, when that has
    /// not been done.
    fn load(&mut self, memory: &(impl Memory + ?Sized), start: u64) -> Option<Arc<Trace>> {
        let mut line = vec![start];
        while let Some(entry) = line.last().and_then(|start| self.traces.get(start)) {
            if entry.trace.is_some() || line.len() > MAX_PARENTS {
                break;
            }
            let Some(parent) = entry.parent.and_then(|parent| self.start_of(parent.trace)) else { break };
            if line.contains(&parent) {
                break;
            }
            line.push(parent);
        }
        let mut parent: Option<Arc<Trace>> = None;
        while let Some(start) = line.pop() {
            let entry = self.traces.get(&start)?;
            if entry.trace.is_some() {
                parent.clone_from(&entry.trace);
                continue;
            }
            let header = entry.header;
            let guards = self.guards_of(header.number);
            parent = Trace::read(memory, &self.layout, self.vm(), header, parent.as_deref(), &guards).map(Arc::new);
            self.make_room(parent.as_deref());
            self.traces.get_mut(&start)?.trace.clone_from(&parent);
        }
        parent
    }

    /// Starts afresh when what is kept takes too much memory, before this is.
    fn make_room(&mut self, trace: Option<&Trace>) {
        self.bytes += trace.map_or(0, Trace::size);
        if self.bytes > MAX_BYTES {
            self.traces.values_mut().for_each(|entry| entry.trace = None);
            self.copied.clear();
            self.bytes = 0;
        }
    }

    /// Start of the machine code of the trace with this number, if it was there when the table was read last.
    fn start_of(&self, number: u16) -> Option<u64> {
        self.traces.values().find(|entry| entry.header.number == number).map(|entry| entry.header.mcode)
    }

    /// What is needed to find the guards of the trace with this number.
    fn guards_of(&self, number: u16) -> Guards {
        let mut guards = Guards { stubs: self.exit_stubs.clone(), ..Guards::default() };
        for (&start, entry) in &self.traces {
            if let Some(parent) = entry.parent
                && parent.trace == number
            {
                guards.side_traces.insert(start, parent.exit);
            }
        }
        guards
    }

    /// Addresses of `GG_State`.
    fn vm(&self) -> Range<u64> {
        let start = self.jit_state.wrapping_sub(u64::from(self.layout.gg.j));
        start..start.saturating_add(u64::from(self.layout.gg.size))
    }

    fn read_table(&self, memory: &(impl Memory + ?Sized)) -> Option<Vec<u64>> {
        let at = &self.layout.jit_state;
        let size = memory.u32(self.jit_state.checked_add(u64::from(at.sizetrace))?).ok()?;
        if size > MAX_TRACES {
            return None;
        }
        let table = memory.u64(self.jit_state.checked_add(u64::from(at.trace))?).ok()?;
        let model = self.layout.model;
        let width = model.reference_size() as usize;
        let bytes = memory.bytes(table, size as usize * width).ok()?;
        Some(bytes.chunks_exact(width).map(|slot| reference_at(model, slot, 0)).collect())
    }

    fn read_header(&self, memory: &(impl Memory + ?Sized), number: u16, address: u64) -> Option<Header> {
        // A trace being recorded is in the table, but lies in `jit_State`.
        if address == 0 || address == self.jit_state {
            return None;
        }
        let bytes = memory.bytes(address, self.layout.trace.size as usize).ok()?;
        Header::parse(address, &bytes, &self.layout).filter(|header| header.number == number)
    }

    /// Reads the trace table and the headers of those traces that changed in it, or of all.
    fn refresh(&mut self, memory: &(impl Memory + ?Sized), all: bool) {
        let Some(table) = self.read_table(memory) else { return };
        if let Some(stubs) = ExitStubs::read(memory, &self.layout, self.jit_state) {
            self.exit_stubs = stubs;
        }
        let before = std::mem::take(&mut self.table);
        let unchanged = |number: u16, address| !all && before.get(usize::from(number)) == Some(&address);
        self.traces.retain(|_, entry| table.get(usize::from(entry.header.number)) == Some(&entry.header.address));
        let mut known = Vec::new();
        self.table = table;
        for index in 0..self.table.len() {
            let (Ok(number), address) = (u16::try_from(index), self.table[index]) else { break };
            if address == 0 || unchanged(number, address) {
                continue;
            }
            // A trace being recorded has another address when it is finished, and is seen then.
            known.extend(self.read_header(memory, number, address));
        }
        for header in known {
            self.insert(memory, header);
        }
        if all {
            self.misses = 0;
        }
    }

    /// Adds a trace; whatever was known where its machine code is now is gone.
    fn insert(&mut self, memory: &(impl Memory + ?Sized), header: Header) {
        let range = header.mcode();
        if self.traces.get(&range.start).is_some_and(|entry| entry.header == header) {
            return;
        }
        while let Some((&start, entry)) = self.traces.range(..range.end).next_back() {
            if entry.header.mcode().end <= range.start {
                break;
            }
            self.traces.remove(&start);
        }
        let base = header.ir.wrapping_add(u64::from(REF_BIAS) * 8);
        let parent =
            (header.root != 0).then(|| memory.u32(base).ok()).flatten().map(|base| parent_exit(base.to_le_bytes()));
        self.traces.insert(range.start, Entry { header, parent, trace: None });
    }
}
