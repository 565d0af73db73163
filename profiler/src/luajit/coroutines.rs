//! All coroutines of a VM: the threads in its list of objects.
//!
//! Every object that the garbage collector has to look at is in one list (`GCState.root`), the newest first and the main thread
//! last, behind which only userdata come. A heap has millions of objects, of which few are threads, and the list changes while it is
//! followed: what is freed and reused leads elsewhere. So what is found is to be validated thread by thread, and when the
//! list did not lead to its end, that is said.

use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;

use super::arch::Tag;
use super::discover::Vm;
use super::memory::Memory;
use super::object::{byte_at, read_reference, reference_at};
use super::pages::Pages;

/// Times that a list which does not lead to its end is followed.
const ATTEMPTS: usize = 3;
/// Most coroutines of a VM.
const MOST_COROUTINES: usize = 100_000;
/// The time is looked at after so many objects.
const OBJECTS_PER_LOOK: u64 = 1 << 12;

/// The coroutines that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coroutines {
    /// Addresses of their `lua_State`, the newest first, without the main thread.
    pub addresses: Vec<u64>,
    /// Objects looked at, in the longest of the attempts.
    pub objects: u64,
    /// Why there may be more.
    pub incomplete: Option<Incomplete>,
}

/// Why a search for coroutines did not end at the end of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// It took too long.
    #[error("the time for it was over")]
    Time,
    /// There were too many.
    #[error("there are more than {MOST_COROUTINES} of them")]
    TooMany,
    /// The list led to something else than objects.
    #[error("the list of the objects changed while it was followed")]
    Changed,
}

/// Follows the list of objects of a VM, for `limit` at most.
pub fn coroutines(memory: &dyn Memory, vm: &Vm, limit: Duration) -> Coroutines {
    let start = Instant::now();
    let mut found = Coroutines::default();
    let mut known = FxHashSet::default();
    for _ in 0..ATTEMPTS {
        found.incomplete = follow(&Pages::of(memory), vm, &mut found, &mut known, &|| start.elapsed() >= limit).err();
        if found.incomplete != Some(Incomplete::Changed) {
            break;
        }
    }
    found
}

fn follow(
    memory: &Pages<'_>,
    vm: &Vm,
    found: &mut Coroutines,
    known: &mut FxHashSet<u64>,
    is_over: &dyn Fn() -> bool,
) -> Result<(), Incomplete> {
    let model = vm.layout.model;
    let root = u64::from(vm.layout.global_state.gc + model.gc_root());
    let mut next = read_reference(memory, model, vm.g.wrapping_add(root)).map_err(|_| Incomplete::Changed)?;
    let mut count = 0;
    // A list that has become a ring: an object that is met again after twice as many steps each time (Brent).
    let (mut mark, mut again) = (next, 1);
    while next != vm.main_thread && next != 0 {
        let header: [u8; 16] = memory.array(next).map_err(|_| Incomplete::Changed)?;
        let gct = byte_at(&header, model.gct());
        if !(Tag::Upvalue.gct()..=Tag::Userdata.gct()).contains(&gct) {
            return Err(Incomplete::Changed);
        }
        count += 1;
        found.objects = found.objects.max(count);
        if gct == Tag::Thread.gct() && known.insert(next) {
            if found.addresses.len() == MOST_COROUTINES {
                return Err(Incomplete::TooMany);
            }
            found.addresses.push(next);
        }
        if count.is_multiple_of(OBJECTS_PER_LOOK) && is_over() {
            return Err(Incomplete::Time);
        }
        next = reference_at(model, &header, 0);
        if next == mark {
            return Err(Incomplete::Changed);
        }
        if count == again {
            mark = next;
            again = again.saturating_mul(2);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::image::{Image, of_each_model, plain_vm};
    use super::super::layout::Layout;
    use super::*;

    /// Objects of these types in a list that ends with the main thread; their addresses.
    fn list(image: &mut Image, layout: &Layout, vm: &Vm, tags: &[Tag]) -> Vec<u64> {
        let model = layout.model;
        let objects: Vec<u64> = tags
            .iter()
            .map(|tag| {
                let address = image.allocate(64);
                image.write(address + u64::from(model.gct()), &[tag.gct()]);
                address
            })
            .collect();
        let root = vm.g + u64::from(layout.global_state.gc + model.gc_root());
        let places = std::iter::once(root).chain(objects.iter().copied());
        let next = objects.iter().copied().chain([vm.main_thread]);
        for (place, next) in places.zip(next) {
            image.put_reference(model, place, next);
        }
        objects
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_threads_of_the_list_are_found() {
        for layout in of_each_model() {
            let mut image = Image::of(&layout);
            let vm = plain_vm(&mut image, &layout);
            let tags = [Tag::Table, Tag::Thread, Tag::Function, Tag::Thread, Tag::Proto];
            let objects = list(&mut image, &layout, &vm, &tags);
            let found = coroutines(&image, &vm, LONG);
            let addresses = vec![objects[1], objects[3]];
            assert_eq!(found, Coroutines { addresses, objects: 5, incomplete: None });
        }
    }

    #[test]
    fn a_list_that_leads_elsewhere_or_nowhere_says_so() {
        for layout in of_each_model() {
            let mut image = Image::of(&layout);
            let vm = plain_vm(&mut image, &layout);
            let objects = list(&mut image, &layout, &vm, &[Tag::Thread, Tag::Table, Tag::Table, Tag::Table]);
            let elsewhere = image.allocate(64);
            for next in [elsewhere, objects[1], objects[3], 0x1234] {
                let mut image = image.clone();
                image.put_reference(layout.model, objects[3], next);
                let found = coroutines(&image, &vm, LONG);
                assert_eq!(found.incomplete, Some(Incomplete::Changed));
                assert_eq!(found.addresses, [objects[0]], "what was found before is kept");
            }
        }
    }

    #[test]
    fn a_long_list_ends_with_the_time() {
        let [layout, _] = of_each_model();
        let mut image = Image::of(&layout);
        let vm = plain_vm(&mut image, &layout);
        list(&mut image, &layout, &vm, &[Tag::Table; 5000]);
        let found = coroutines(&image, &vm, Duration::ZERO);
        assert_eq!((found.incomplete, found.objects), (Some(Incomplete::Time), OBJECTS_PER_LOOK));
    }
}
