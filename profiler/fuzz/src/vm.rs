//! VMs in memory made by hand, which are then changed.

use std::sync::{Arc, LazyLock};

use luaflame::luajit::arch::Tag;
use luaflame::luajit::discover::Vm;
use luaflame::luajit::image::{Image, reference};
use luaflame::luajit::layout::Layout;

/// Every layout known.
pub static LAYOUTS: LazyLock<Vec<Arc<Layout>>> = LazyLock::new(|| Layout::all().into_iter().map(Arc::new).collect());

/// A layout, by a number.
pub fn layout(number: u8) -> &'static Arc<Layout> {
    &LAYOUTS[usize::from(number) % LAYOUTS.len()]
}

/// A prototype that defines two functions, `object.method` and the local function `helper`, and refers to a third one
/// through the upvalue `up`. Returns its address.
pub fn prototype(image: &mut Image, layout: &Layout, chunkname: &[u8], children: [u64; 2]) -> u64 {
    let code = [
        0x0000_0059, // FUNCF
        0x0000_0036, // GGET 0 0: object
        0x0001_0133, // FNEW 1 1
        0x0002_013d, // TSETS 1 0 2: method
        0x0003_0233, // FNEW 2 3: helper
        0x0001_004b, // RET0
    ];
    let lines = [1, 1, 1, 2, 3];
    let upvalues = b"up\0";
    let variables = [&b"helper\0\x03\x04"[..], &[0]].concat();
    let strings = [image.string(layout, b"object"), image.string(layout, b"method")];
    let constants = [children[1], strings[1], children[0], strings[0]];

    let (fields, model) = (&layout.proto, layout.model);
    let word = model.reference_size();
    let chunkname = image.string(layout, chunkname);
    let k = (fields.size as usize + code.len() * 4 + constants.len() * word as usize).next_multiple_of(8);
    let parts = [(fields.lineinfo, &lines[..]), (fields.uvinfo, upvalues), (fields.varinfo, &variables)];
    let size = k + parts.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let address = image.allocate(size);
    let field = |offset: u32| address + u64::from(offset);
    image.write(field(fields.gct), &[Tag::Proto.gct()]);
    image.write(field(fields.sizeuv), &[1]);
    let numbers = [
        (fields.sizebc, code.len() as u32),
        (fields.sizept, size as u32),
        (fields.sizekgc, constants.len() as u32),
        (fields.firstline, 10),
        (fields.numline, 4),
    ];
    for (offset, value) in numbers {
        image.put_u32(field(offset), value);
    }
    image.put_reference(model, field(fields.chunkname), chunkname);
    image.put_reference(model, field(fields.k), address + k as u64);
    for (index, instruction) in code.into_iter().enumerate() {
        image.put_u32(field(fields.size) + index as u64 * 4, instruction);
    }
    for (index, constant) in constants.into_iter().rev().enumerate() {
        image.put_reference(model, address + k as u64 - (index as u64 + 1) * word, constant);
    }
    let mut at = address + k as u64;
    for (pointer, bytes) in parts {
        image.put_reference(model, field(pointer), at);
        image.write(at, bytes);
        at += bytes.len() as u64;
    }
    address
}

/// A program with a VM.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its memory.
    pub image: Image,
    /// Its VM.
    pub vm: Vm,
    /// Its prototypes.
    pub prototypes: [u64; 3],
}

/// A program with a VM of the layout with this number: modules, builtins, C functions, a list of handlers, Lua functions
/// that define others, and a trace.
pub fn program(number: u8) -> Program {
    static PROGRAMS: LazyLock<Vec<Program>> = LazyLock::new(|| LAYOUTS.iter().map(make).collect());
    PROGRAMS[usize::from(number) % PROGRAMS.len()].clone()
}

fn make(layout: &Arc<Layout>) -> Program {
    let mut program = Image::of(layout);
    let image = &mut program;
    let model = layout.model;
    let function_at = |address: u64| reference(model, Tag::Function, address);
    let table_at = |address: u64| reference(model, Tag::Table, address);
    let inner = prototype(image, layout, b"@/srv/app.lua", [0, 0]);
    let helper = prototype(image, layout, b"=init_by_lua", [0, 0]);
    let outer = prototype(image, layout, b"local object = {}", [inner, helper]);
    let lua = |image: &mut Image, proto: u64| image.function(layout, 0, proto + u64::from(layout.proto.size), 0);
    let closure = lua(image, helper);
    let (first, second, third) = (function_at(lua(image, outer)), function_at(lua(image, inner)), function_at(closure));
    let upvalue = image.allocate(48);
    let value = image.allocate(8);
    image.put_u64(value, second);
    image.put_reference(model, upvalue + u64::from(model.upvalue_v()), value);
    image.write(closure + u64::from(layout.func.nupvalues), &[1]);
    image.put_reference(model, closure + u64::from(layout.func.uvptr), upvalue);

    let fast = function_at(image.function(layout, 90, 0, 0x10));
    let c = function_at(image.function(layout, 1, 0, 0x1000));
    let string = table_at(image.table(layout, &[("format", fast), ("rep", fast)]));
    let module = image.table(layout, &[("run", first), ("encode", c), ("helper", third)]);
    let list = image.allocate(4 * 8);
    image.put_u64(list + 8, second);
    image.put_u64(list + 16, third);
    image.put_reference(model, module + u64::from(model.table().array), list);
    image.put_u32(module + u64::from(model.table().asize), 4);
    let module = table_at(module);
    let globals = image.table(layout, &[("string", string), ("print", fast), ("app", module), ("handler", second)]);
    let global_table = table_at(globals);
    let loaded = image.table(layout, &[("_G", global_table), ("string", string), ("app", module)]);
    let registry = image.table(layout, &[("_LOADED", table_at(loaded)), ("code", third)]);
    let vm = image.vm(layout, registry, globals);
    image.trace(&vm);
    Program { image: program, vm, prototypes: [outer, inner, helper] }
}
