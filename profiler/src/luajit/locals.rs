//! The local variables of a Lua function where it stands.

use std::collections::HashMap;
use std::sync::Arc;

use super::discover::Vm;
use super::frames::{Activation, Prototype};
use super::memory::Memory;
use super::proto::Proto;
use super::thread::Thread;
use super::values::{Shown, shown};

/// Variables of a frame that are shown: there are 200 at most, but any number of variable arguments.
const MOST: usize = 250;

/// A local variable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variable {
    /// What it is called. A variable argument is `...` with its number; where there is no debug information, it is `slot` with the
    /// number of the slot.
    pub name: String,
    /// Its value.
    pub value: Shown,
}

/// The prototypes whose variables were asked for.
#[derive(Debug, Default)]
pub struct Prototypes(HashMap<Prototype, Option<Arc<Proto>>>);

impl Prototypes {
    fn get(&mut self, memory: &dyn Memory, vm: &Vm, seen: &Prototype) -> Option<Arc<Proto>> {
        let read = || {
            let address = seen.code.checked_sub(u64::from(vm.layout.proto.size))?;
            let proto = Proto::read(memory, &vm.layout, address).ok()?;
            (Prototype::of(&proto) == *seen).then(|| Arc::new(proto))
        };
        self.0.entry(*seen).or_insert_with(read).clone()
    }

    /// The variables of each frame of a thread; none where it is not known where the function stands.
    pub fn variables(
        &mut self,
        memory: &dyn Memory,
        vm: &Vm,
        thread: &Thread,
        activation: &Activation,
    ) -> Vec<Vec<Variable>> {
        let model = vm.layout.model;
        // A frame reaches to the one that it called.
        let ends = activation.frames.iter().map(|frame| thread.made_from(model, frame.slot) - model.frame_slots());
        let ends = std::iter::once(thread.top()).chain(ends);
        let frames = activation.frames.iter().zip(ends);
        frames
            .map(|(frame, end)| {
                let (Some(seen), Some(pc), false) = (frame.prototype(), frame.pc, frame.torn) else {
                    return Vec::new();
                };
                let Some(proto) = self.get(memory, vm, seen) else { return Vec::new() };
                // A PC is one past the instruction.
                let index = proto.index_of(pc.saturating_sub(4).max(seen.code)).unwrap_or(0);
                let mut found = Vec::new();
                let mut add = |name: String, word: u64| found.push(Variable { name, value: shown(memory, vm, word) });
                if proto.is_stripped() {
                    let words = thread.words(frame.slot..end).take(MOST);
                    words.enumerate().for_each(|(slot, word)| add(format!("slot {slot}"), word));
                } else {
                    let words = thread.words(frame.slot..u32::MAX);
                    let named = proto.locals(index).zip(words).filter_map(|(name, word)| Some((name?, word)));
                    named.take(MOST).for_each(|(name, word)| add(String::from_utf8_lossy(name).into_owned(), word));
                }
                // Variable arguments stay where they were passed, behind the places of the parameters.
                let passed = thread.made_from(model, frame.slot);
                if passed != frame.slot {
                    let slots = passed + u32::from(proto.numparams)..frame.slot - model.frame_slots();
                    let words = thread.words(slots).take(MOST);
                    words.enumerate().for_each(|(number, word)| add(format!("...{}", number + 1), word));
                }
                found
            })
            .collect()
    }
}
