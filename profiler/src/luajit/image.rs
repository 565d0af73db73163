//! Memory images made by hand, for tests and fuzz targets: pieces of memory, and Lua objects laid out in them.

use std::sync::Arc;

use super::arch::{self, Model, NODE_KEY, NODE_SIZE, NODE_VALUE, Tag};
use super::discover::Vm;
use super::layout::Layout;
use super::memory::{Memory, ReadError, Region};

/// Memory that consists of a few pieces; everything else is unreadable.
#[derive(Debug, Clone)]
pub struct Image {
    pieces: Vec<(u64, Vec<u8>)>,
    next: u64,
}

impl Memory for Image {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let error = ReadError { address, length: buffer.len() };
        let (start, bytes) = self
            .pieces
            .iter()
            .find(|(start, bytes)| (*start..*start + bytes.len() as u64).contains(&address))
            .ok_or(error)?;
        let offset = (address - start) as usize;
        buffer.copy_from_slice(bytes.get(offset..offset + buffer.len()).ok_or(error)?);
        Ok(())
    }
}

/// A tagged reference.
pub fn reference(model: Model, tag: Tag, address: u64) -> u64 {
    match model {
        Model::Gc64 => (!(tag as u64) << 47) | address,
        Model::Gc32 => (!(tag as u64) << 32) | address,
    }
}

/// Where the VM's assembly is in every image.
pub const CODE: u64 = 0x5555_0000_0000;

/// The layout of a build of 2022 of each model.
pub fn of_each_model() -> [Arc<Layout>; 2] {
    Model::ALL.map(|model| {
        let wanted = |layout: &Layout| layout.model == model && layout.seen_in[0].contains("v2.1-20211210");
        Arc::new(Layout::all().into_iter().find(wanted).expect("a layout of 2022"))
    })
}

impl Image {
    /// An empty image, for objects where the references of a build reach.
    pub fn of(layout: &Layout) -> Image {
        let next = match layout.model {
            Model::Gc64 => 0x7f00_0000_0000,
            Model::Gc32 => 0x4000_0000,
        };
        Image { pieces: Vec::new(), next }
    }

    /// A piece at an address of its own.
    pub fn insert(&mut self, address: u64, bytes: Vec<u8>) {
        self.pieces.push((address, bytes));
    }

    /// The pieces: where they are, and what they hold.
    pub fn pieces(&self) -> &[(u64, Vec<u8>)] {
        &self.pieces
    }

    /// Reserves zeroed memory for one more object, 16-byte aligned, with unreadable memory after it.
    pub fn allocate(&mut self, size: usize) -> u64 {
        let address = self.next;
        self.next = (address + size as u64 + 64).next_multiple_of(16);
        self.pieces.push((address, vec![0; size]));
        address
    }

    /// Writes bytes into a piece.
    pub fn write(&mut self, address: u64, value: &[u8]) {
        let (start, bytes) = self
            .pieces
            .iter_mut()
            .find(|(start, bytes)| (*start..*start + bytes.len() as u64).contains(&address))
            .expect("the address is in a piece");
        let offset = (address - *start) as usize;
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    /// Writes a number into a piece.
    pub fn put_u32(&mut self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes());
    }

    /// Writes a number into a piece.
    pub fn put_u64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    /// Writes a reference.
    pub fn put_reference(&mut self, model: Model, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes()[..model.reference_size() as usize]);
    }

    fn gct(&mut self, model: Model, address: u64, tag: Tag) {
        self.write(address + u64::from(model.gct()), &[tag.gct()]);
    }

    /// A string.
    pub fn string(&mut self, layout: &Layout, text: &[u8]) -> u64 {
        let address = self.allocate(layout.string.size as usize + text.len() + 1);
        self.gct(layout.model, address, Tag::String);
        self.put_u32(address + u64::from(layout.string.len), text.len() as u32);
        self.write(address + u64::from(layout.string.size), text);
        address
    }

    /// A table with string keys.
    pub fn table(&mut self, layout: &Layout, entries: &[(&str, u64)]) -> u64 {
        let count = entries.len().next_power_of_two();
        let table = layout.model.table();
        let address = self.allocate(table.size as usize);
        let node = self.allocate(count * NODE_SIZE);
        self.gct(layout.model, address, Tag::Table);
        self.put_reference(layout.model, address + u64::from(table.node), node);
        self.put_u32(address + u64::from(table.hmask), count as u32 - 1);
        for index in 0..count {
            let (key, value) = match entries.get(index) {
                Some((key, value)) => {
                    (reference(layout.model, Tag::String, self.string(layout, key.as_bytes())), *value)
                }
                None => (u64::MAX, u64::MAX),
            };
            let at = node + (index * NODE_SIZE) as u64;
            self.put_u64(at + u64::from(NODE_VALUE), value);
            self.put_u64(at + u64::from(NODE_KEY), key);
        }
        address
    }

    /// A function: `pc` for a Lua function (`ffid` 0), `code` for others.
    pub fn function(&mut self, layout: &Layout, ffid: u8, pc: u64, code: u64) -> u64 {
        let address = self.allocate(48);
        self.gct(layout.model, address, Tag::Function);
        self.write(address + u64::from(layout.func.ffid), &[ffid]);
        self.put_reference(layout.model, address + u64::from(layout.func.pc), pc);
        self.put_u64(address + u64::from(layout.func.c_function), code);
        address
    }

    /// A VM as LuaJIT sets it up, with these tables.
    pub fn vm(&mut self, layout: &Arc<Layout>, registry: u64, globals: u64) -> Vm {
        let gg = &layout.gg;
        let main_thread = self.allocate(gg.size as usize);
        let stack = self.allocate(64 * 8);
        let g = main_thread + u64::from(gg.g);
        let thread = &layout.lua_state;
        let field = |offset: u32| main_thread + u64::from(offset);
        self.gct(layout.model, main_thread, Tag::Thread);
        self.write(field(thread.dummy_ffid), &[1]);
        self.put_reference(layout.model, field(thread.glref), g);
        self.put_reference(layout.model, field(thread.stack), stack);
        let base = stack + u64::from(layout.model.frame_slots()) * 8;
        self.put_u64(field(thread.base), base);
        self.put_u64(field(thread.top), base + 8);
        self.put_reference(layout.model, field(thread.maxstack), stack + (64 - 8) * 8);
        self.put_u32(field(thread.stacksize), 64);
        self.put_reference(layout.model, field(thread.env), globals);

        let global = &layout.global_state;
        let field = |offset: u32| g + u64::from(offset);
        self.gct(layout.model, field(global.strempty), Tag::String);
        self.put_u32(field(global.vmstate), (-2_i32).cast_unsigned());
        self.put_reference(layout.model, field(global.mainthref), main_thread);
        self.put_reference(layout.model, field(global.cur_l), main_thread);
        self.put_u64(field(global.registrytv), reference(layout.model, Tag::Table, registry));

        let param = main_thread + u64::from(gg.j + layout.jit_state.param);
        let params = [1000, 4000, 500, 100, 500, 0, 56, 10, 4, 4, 15, 3, 2, 64, 2048];
        for (index, value) in params.into_iter().enumerate() {
            self.put_u32(param + index as u64 * 4, value);
        }
        for (index, offset) in (gg.dispatch..gg.bcff).step_by(8).enumerate() {
            self.put_u64(main_thread + u64::from(offset), CODE + index as u64 * 32);
        }
        for index in 0..arch::ASM_FAST_FUNCTIONS {
            self.put_u32(main_thread + u64::from(gg.bcff + index * 4), (layout.opcodes + index) & 0xff);
        }
        Vm { g, main_thread, layout: layout.clone(), settled: true }
    }

    /// A table of traces with one trace in it, number 1.
    pub fn trace(&mut self, vm: &Vm) {
        let layout = vm.layout.clone();
        let fields = &layout.trace;
        let (instructions, snapshots) = (5_u64, 3_u64);
        let address = self.allocate(512);
        let ir = address + u64::from(fields.size.next_multiple_of(8));
        let snap = ir + instructions * 8;
        let field = |offset: u32| address + u64::from(offset);
        self.gct(layout.model, address, Tag::Trace);
        self.put_u32(field(fields.nk), 0x7ffe);
        self.put_u32(field(fields.nins), 0x7ffe + instructions as u32);
        self.put_u64(field(fields.ir), ir - 0x7ffe * 8);
        self.put_u64(field(fields.snap), snap);
        self.put_u64(field(fields.snapmap), snap + snapshots * u64::from(layout.snapshot.size));
        self.write(field(fields.nsnap), &[snapshots as u8, 0]);
        self.write(field(fields.traceno), &[1, 0]);
        let array = self.allocate(16);
        self.put_reference(layout.model, array + layout.model.reference_size(), address);
        self.put_u64(vm.jit_state() + u64::from(layout.jit_state.trace), array);
        self.put_u32(vm.jit_state() + u64::from(layout.jit_state.sizetrace), 2);
    }

    /// The mappings: each piece is one, rounded to pages, and the code.
    pub fn regions(&self) -> Vec<Region> {
        let region = |range, executable: bool| Region {
            range,
            writable: !executable,
            executable,
            private: true,
            file: executable,
        };
        let end = self.pieces.iter().map(|(start, bytes)| start + bytes.len() as u64).max().unwrap_or(0);
        let start = self.pieces.iter().map(|(start, _)| *start).min().unwrap_or(0);
        vec![region(CODE..CODE + 0x1_0000, true), region(start & !0xfff..end.next_multiple_of(0x1000), false)]
    }
}

/// A VM without any tables but empty ones.
pub fn plain_vm(image: &mut Image, layout: &Arc<Layout>) -> Vm {
    let registry = image.table(layout, &[]);
    let globals = image.table(layout, &[]);
    image.vm(layout, registry, globals)
}
