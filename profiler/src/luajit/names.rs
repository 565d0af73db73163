//! Names of functions.
//!
//! A function has one name, whoever calls it. For a Lua function the first of these that there is:
//!
//! 1. `main chunk`, for the code of a whole file or string;
//! 2. what the source text calls it ([`super::source`]), or else the bytecode that creates it ([`super::definition`]);
//! 3. the name of the module and field where the walk found it (`walk.rs`), or else the variable through which another
//!    function refers to it (its upvalue);
//! 4. `function 1f2e3d4c` when its debug information was stripped, by a digest of what it does.
//!
//! A function that is defined without a name has none: what happens to be stored in it or passed by it when the VM is
//! looked at differs from process to process, and it is shown as its place, the same in all of them. When the walk's name ends like the
//! definition's, the walk's is taken, because it says more: `resty.core.regex.gsub` for what the source calls `_M.gsub`.
//! Closures of one prototype that are stored under different names have no name of the third kind: one function would
//! bear the name of another. The walk sees the VM at one moment; a module that is loaded later has the names of its
//! definitions.
//!
//! For builtins and C functions, the name that the walk found: for the very object, for the number of a fast function, for
//! the address of a C function's code. Fast functions that nothing refers to by name (iterators, metamethods of FFI
//! objects) are known by their place in LuaJIT's numbering, between two functions whose numbers are known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::arch::Tag;
use super::definition;
use super::discover::Vm;
use super::memory::{Limited, Memory};
use super::object::{Function, FunctionKind, byte_at, read_reference};
use super::proto::{Fingerprint, Proto};
use super::source::{Named, SourceIndex};
use super::walk::{Walk, walk};

/// Prototypes looked at to find those defined in them.
const MAX_PROTOS: usize = 20_000;
/// Bytes that are read for all names of a VM, or for all definitions: in both a second's worth at most.
const MAX_READ: u64 = 256 << 20;
/// Upvalues of one function that are looked at.
const MAX_UPVALUES: u32 = 60;
/// Bytes of what is kept of source files.
const MAX_SOURCES: usize = 16 << 20;

/// The name of the code of a whole file or string.
pub const MAIN_CHUNK: &str = "main chunk";

/// Gives the contents of a source file, by the path that the target has for it, or nothing.
pub type ReadSource<'a> = dyn FnMut(&str) -> Option<Arc<[u8]>> + 'a;

/// The functions of the source files seen so far. One for all processes that see the same files.
#[derive(Debug, Default)]
pub struct Sources {
    files: HashMap<Vec<u8>, SourceIndex>,
    /// Bytes that they take.
    size: usize,
}

impl Sources {
    /// What the source says of the name of a prototype's function. `None` when it says nothing.
    fn name(&mut self, proto: &Proto, read: &mut ReadSource<'_>) -> Option<Named> {
        let definition = proto.definition()?;
        if let Some(text) = proto.chunk.source() {
            return SourceIndex::new(text).name(&definition).cloned();
        }
        let path = proto.chunk.path()?;
        if !self.files.contains_key(path) {
            // A path that is no UTF-8 cannot be asked for.
            let index = str::from_utf8(path).ok().and_then(read).map(|source| SourceIndex::new(&source));
            let index = index.unwrap_or_default();
            let size = 2 * size_of::<(Vec<u8>, SourceIndex)>() + path.len() + index.size();
            if self.size + size > MAX_SOURCES {
                *self = Sources::default();
            }
            self.size += size;
            self.files.insert(path.to_owned(), index);
        }
        self.files.get(path)?.name(&definition).cloned()
    }
}

/// What is known by address of a prototype, with the fingerprint of the prototype that was there.
type OfPrototypes<T> = HashMap<u64, (Fingerprint, T)>;

fn of<T: Clone>(prototypes: &OfPrototypes<T>, proto: &Proto) -> Option<T> {
    prototypes.get(&proto.address).filter(|(seen, _)| *seen == proto.fingerprint()).map(|(_, known)| known.clone())
}

/// Names from the bytecode.
#[derive(Debug, Clone, Default)]
struct Bytecode {
    /// What the function that creates it says. `None` when that was not found or is stripped.
    created: Option<Named>,
    /// The name of the upvalue that holds it.
    captured: Option<Arc<str>>,
}

/// What is known of the names in one VM.
#[derive(Debug, Default)]
pub struct Names {
    /// By number of fast function.
    fast: HashMap<u8, Arc<str>>,
    /// By address of a C function's code.
    code: HashMap<u64, Arc<str>>,
    /// By address of a C function's object, with its code: closures that share their code.
    objects: HashMap<u64, (u64, Arc<str>)>,
    /// From the names under which closures are stored. None for those of one prototype under different names.
    modules: OfPrototypes<Option<Arc<str>>>,
    /// Lua functions whose prototypes may define others.
    closures: Vec<Function>,
    /// From the bytecode, once it was needed.
    bytecode: Option<OfPrototypes<Bytecode>>,
    /// The walk saw everything in reach.
    pub complete: bool,
}

impl Names {
    /// Walks the VM for names. Takes some milliseconds, bounded by the number of table entries looked at (200,000).
    pub fn read(memory: &dyn Memory, vm: &Vm) -> Names {
        let memory = &Limited::new(memory, MAX_READ);
        let mut names = Names::default();
        let Walk { functions, unnamed, complete } = walk(memory, vm);
        names.complete = complete && !memory.is_used_up();
        let mut fast = BTreeMap::new();
        let mut code: HashMap<u64, Vec<Arc<str>>> = HashMap::new();
        let mut found: Vec<&(Function, Arc<str>)> = functions.values().collect();
        // Best names first: those with the fewest dots, see `walk`.
        found.sort_by_key(|(_, name)| (name.matches('.').count(), name.len(), name.clone()));
        for (function, name) in found {
            match function.kind {
                FunctionKind::Lua { proto } => {
                    names.closures.push(*function);
                    let size = vm.layout.proto.size as usize;
                    if let Ok(header) = memory.bytes(proto, size)
                        && byte_at(&header, vm.layout.model.gct()) == Tag::Proto.gct()
                        && let Ok(fingerprint) = Proto::fingerprint_of(memory, &vm.layout, &header)
                    {
                        let (_, known) =
                            names.modules.entry(proto).or_insert_with(|| (fingerprint, Some(name.clone())));
                        if known.as_ref().is_some_and(|known| last_part(known) != last_part(name)) {
                            *known = None;
                        }
                    }
                }
                FunctionKind::C { code: address } => {
                    names.objects.insert(function.address, (address, name.clone()));
                    code.entry(address).or_default().push(name.clone());
                }
                FunctionKind::Fast { ffid, code: address } => {
                    fast.entry(ffid).or_insert_with(|| name.clone());
                    code.entry(address).or_default().push(name.clone());
                }
            }
        }
        names.closures.extend(unnamed);
        // Code that several functions share is named only if they all end alike: then they are copies of one.
        names.code = code
            .into_iter()
            .filter(|(_, shared)| shared.iter().all(|name| last_part(name) == last_part(&shared[0])))
            .map(|(address, shared)| (address, shared[0].clone()))
            .collect();
        names.fast = fast.into_iter().collect();
        names.add_hidden();
        names
    }

    /// The name of a builtin or C function, as Lua code calls it. `None` for a Lua function, and when nothing in reach
    /// names it.
    pub fn function(&self, function: &Function) -> Option<Arc<str>> {
        if let FunctionKind::C { code } = function.kind
            && let Some((same, name)) = self.objects.get(&function.address)
            && *same == code
        {
            return Some(name.clone());
        }
        self.shared(function)
    }

    /// What a builtin or C function of another VM of the process is called in this one.
    pub fn shared(&self, function: &Function) -> Option<Arc<str>> {
        match function.kind {
            FunctionKind::Lua { .. } => None,
            FunctionKind::Fast { ffid, .. } => self.fast.get(&ffid).cloned(),
            FunctionKind::C { code } => self.code.get(&code).cloned(),
        }
    }

    /// The name of a fast function by its number alone.
    pub fn fast_function(&self, ffid: u8) -> Option<Arc<str>> {
        self.fast.get(&ffid).cloned()
    }

    /// The name of a Lua function. `None` when nothing says it; it is then shown as its place.
    pub fn lua(
        &mut self,
        memory: &dyn Memory,
        vm: &Vm,
        proto: &Proto,
        sources: &mut Sources,
        read: &mut ReadSource<'_>,
    ) -> Option<Arc<str>> {
        if proto.is_main_chunk() {
            return Some(MAIN_CHUNK.into());
        }
        let module = of(&self.modules, proto).flatten();
        if proto.is_builtin() {
            return module.or_else(|| Some(proto.chunk.text.text().into()));
        }
        let mut defined = sources.name(proto, read);
        let mut captured = None;
        if matches!(defined, None | Some(Named::Ambiguous)) {
            let closures = &self.closures;
            let all = self.bytecode.get_or_insert_with(|| from_bytecode(memory, vm, closures));
            let bytecode = of(all, proto).unwrap_or_default();
            defined = bytecode.created.or(defined);
            captured = bytecode.captured;
        }
        match defined {
            Some(Named::As(name)) => module.filter(|module| last_part(module) == last_part(&name)).or(Some(name)),
            Some(Named::Nothing) => None,
            Some(Named::Ambiguous) | None => module.or(captured).or_else(|| {
                proto.is_stripped().then(|| format!("function {:08x}", proto.digest(memory, &vm.layout)).into())
            }),
        }
    }

    /// Names the fast functions that no variable holds, by their place between two that are known. The order is that of
    /// LuaJIT's `lib_*.c`, unchanged since 2.1; where a distance is not the one expected, nothing is named.
    fn add_hidden(&mut self) {
        /// (known, distance, known, names between them, from the first known on)
        type Gap = (&'static str, u8, &'static str, &'static [&'static str]);
        const COROUTINE: &[&str] = &[
            "print",
            "coroutine.status",
            "coroutine.running",
            "coroutine.isyieldable",
            "coroutine.create",
            "coroutine.yield",
            "coroutine.resume",
            "coroutine.wrap_aux",
            "coroutine.wrap",
        ];
        const GAPS: &[Gap] = &[
            ("pairs", 2, "ipairs", &["ipairs_aux"]),
            // ngx_lua replaces `print` and `coroutine`, but not this.
            ("newproxy", 10, "math.abs", COROUTINE),
            ("newproxy", 12, "math.abs", COROUTINE),
            ("string.match", 2, "string.gmatch", &["string.gmatch_aux"]),
            (
                "table.sort",
                12,
                "io.open",
                &[
                    "table.new",
                    "table.clear",
                    "file:close",
                    "file:read",
                    "file:write",
                    "file:flush",
                    "file:seek",
                    "file:setvbuf",
                    "file:lines",
                    "file:__gc",
                    "file:__tostring",
                ],
            ),
            (
                "jit.opt.start",
                27,
                "ffi.cdef",
                &[
                    "jit.profile.start",
                    "jit.profile.stop",
                    "jit.profile.dumpstack",
                    "ffi.meta.__index",
                    "ffi.meta.__newindex",
                    "ffi.meta.__eq",
                    "ffi.meta.__len",
                    "ffi.meta.__lt",
                    "ffi.meta.__le",
                    "ffi.meta.__concat",
                    "ffi.meta.__call",
                    "ffi.meta.__add",
                    "ffi.meta.__sub",
                    "ffi.meta.__mul",
                    "ffi.meta.__div",
                    "ffi.meta.__mod",
                    "ffi.meta.__pow",
                    "ffi.meta.__unm",
                    "ffi.meta.__tostring",
                    "ffi.meta.__pairs",
                    "ffi.meta.__ipairs",
                    "ffi.clib.__index",
                    "ffi.clib.__newindex",
                    "ffi.clib.__gc",
                    "ffi.callback.free",
                    "ffi.callback.set",
                ],
            ),
            (
                "ffi.load",
                17,
                "string.buffer.new",
                &[
                    "buffer:free",
                    "buffer:reset",
                    "buffer:skip",
                    "buffer:set",
                    "buffer:put",
                    "buffer:putf",
                    "buffer:get",
                    "buffer:putcdata",
                    "buffer:reserve",
                    "buffer:commit",
                    "buffer:ref",
                    "buffer:encode",
                    "buffer:decode",
                    "buffer:__gc",
                    "buffer:__tostring",
                    "buffer:__len",
                ],
            ),
        ];
        let known: HashMap<Arc<str>, u8> = self.fast.iter().map(|(ffid, name)| (name.clone(), *ffid)).collect();
        for (before, distance, after, between) in GAPS {
            let (Some(&first), Some(&last)) = (known.get(*before), known.get(*after)) else { continue };
            if first.checked_add(*distance) == Some(last) {
                for (ffid, name) in (first + 1..last).zip(*between) {
                    self.fast.entry(ffid).or_insert_with(|| Arc::from(*name));
                }
            }
        }
    }
}

/// The part of a name behind the last `.` or `:`.
fn last_part(name: &str) -> &str {
    name.rsplit(['.', ':']).next().unwrap_or(name)
}

/// Names of all prototypes that can be found from the given functions: those that they define, those of the functions in
/// their upvalues, and so on.
fn from_bytecode(memory: &dyn Memory, vm: &Vm, closures: &[Function]) -> OfPrototypes<Bytecode> {
    let memory = &Limited::new(memory, MAX_READ);
    let layout = &vm.layout;
    let mut definitions = MAX_PROTOS;
    let mut created: HashMap<u64, Named> = HashMap::new();
    // The prototypes that were seen in each upvalue.
    let mut upvalue_of: BTreeMap<(u64, usize), (Arc<str>, BTreeSet<u64>)> = BTreeMap::new();
    let mut fingerprints: HashMap<u64, Fingerprint> = HashMap::new();
    let mut functions: Vec<Function> = closures.to_vec();
    let mut seen: std::collections::HashSet<u64> = functions.iter().map(|function| function.address).collect();
    let mut protos: Vec<u64> = Vec::new();
    loop {
        if let Some(function) = functions.pop() {
            let FunctionKind::Lua { proto: address } = function.kind else { continue };
            protos.push(address);
            let Ok(proto) = Proto::read(memory, layout, address) else { continue };
            for (index, inner) in upvalues(memory, vm, &function) {
                if let FunctionKind::Lua { proto: inner_proto } = inner.kind
                    && let Some(name) = proto.upvalue_name(index)
                {
                    let new = || (String::from_utf8_lossy(name).into(), BTreeSet::new());
                    upvalue_of.entry((address, index)).or_insert_with(new).1.insert(inner_proto);
                }
                if seen.len() < MAX_PROTOS && seen.insert(inner.address) {
                    functions.push(inner);
                }
            }
        } else if let Some(address) = protos.pop() {
            if fingerprints.len() >= MAX_PROTOS || fingerprints.contains_key(&address) {
                continue;
            }
            let Ok(proto) = Proto::read(memory, layout, address) else { continue };
            fingerprints.insert(address, proto.fingerprint());
            for (child, name) in definition::children(memory, layout, &proto, &mut definitions) {
                // Without the names of its variables a function does not say that it gives none.
                let name = name.map(|name| Named::As(name.into())).or((!proto.is_stripped()).then_some(Named::Nothing));
                created.extend(name.map(|name| (child, name)));
                protos.push(child);
            }
        } else {
            break;
        }
    }
    // A variable that holds one function in one closure and another in the next is what they were passed as.
    let mut captured: HashMap<u64, Option<Arc<str>>> = HashMap::new();
    for (name, inner) in upvalue_of.into_values().filter(|(_, inner)| inner.len() == 1) {
        let known = inner.first().map(|inner| captured.entry(*inner).or_insert_with(|| Some(name.clone())));
        if let Some(known) = known.filter(|known| known.as_ref() != Some(&name)) {
            *known = None;
        }
    }
    fingerprints
        .into_iter()
        .map(|(address, fingerprint)| {
            let captured = captured.get(&address).cloned().flatten();
            (address, (fingerprint, Bytecode { created: created.remove(&address), captured }))
        })
        .collect()
}

/// The functions in a Lua function's upvalues, with their index.
fn upvalues(memory: &dyn Memory, vm: &Vm, function: &Function) -> Vec<(usize, Function)> {
    let mut found = Vec::new();
    let model = vm.layout.model;
    let references = function.address.wrapping_add(u64::from(vm.layout.func.uvptr));
    let count = u32::from(function.upvalues).min(MAX_UPVALUES);
    for index in 0..count {
        let slot = references.wrapping_add(u64::from(index) * model.reference_size());
        let value = read_reference(memory, model, slot)
            .and_then(|upvalue| read_reference(memory, model, upvalue.wrapping_add(model.upvalue_v().into())))
            .and_then(|value| memory.u64(value));
        if let Ok(value) = value
            && let Some(address) = model.value(value).object(Tag::Function)
            && let Ok(inner) = Function::read(memory, &vm.layout, address)
        {
            found.push((index as usize, inner));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::image::{Image, of_each_model, reference};
    use super::super::layout::Layout;
    use super::*;

    fn functions(layout: &Layout, entries: &[(&str, u64)]) -> Vec<(String, u64)> {
        let function = |address: u64| reference(layout.model, Tag::Function, address);
        entries.iter().map(|(name, address)| ((*name).to_owned(), function(*address))).collect()
    }

    fn table(image: &mut Image, layout: &Layout, entries: &[(String, u64)]) -> u64 {
        let entries: Vec<(&str, u64)> = entries.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        reference(layout.model, Tag::Table, image.table(layout, &entries))
    }

    #[test]
    fn builtins_and_c_functions_have_the_name_that_lua_code_uses() {
        for layout in of_each_model() {
            let mut image = Image::of(&layout);
            let mut function = |ffid: u8, code: u64| image.function(&layout, ffid, 0, code);
            let (format, pairs, ipairs) = (function(90, 0x10), function(5, 0x20), function(7, 0x30));
            let (encode, safe_encode, safe_decode) = (function(1, 0x1000), function(1, 0x2000), function(1, 0x2000));
            let other_encode = function(1, 0x1000);
            let command = function(1, 0x3000);

            let string = table(&mut image, &layout, &functions(&layout, &[("format", format)]));
            let cjson = table(&mut image, &layout, &functions(&layout, &[("encode", encode)]));
            let safe =
                table(&mut image, &layout, &functions(&layout, &[("encode", safe_encode), ("decode", safe_decode)]));
            let editor = table(&mut image, &layout, &functions(&layout, &[("command", command)]));
            let globals = image.table(
                &layout,
                &[
                    ("string", string),
                    ("editor", editor),
                    ("fmt", reference(layout.model, Tag::Function, format)),
                    ("ipairs", reference(layout.model, Tag::Function, ipairs)),
                    ("pairs", reference(layout.model, Tag::Function, pairs)),
                ],
            );
            let loaded = image.table(
                &layout,
                &[
                    ("_G", reference(layout.model, Tag::Table, globals)),
                    ("string", string),
                    ("cjson", cjson),
                    ("cjson.safe", safe),
                    ("editor.part", editor),
                ],
            );
            let registry = image.table(&layout, &[("_LOADED", reference(layout.model, Tag::Table, loaded))]);
            let vm = image.vm(&layout, registry, globals);
            let sandbox = image.table(&layout, &[]);
            let sandboxed = image.vm(&layout, registry, sandbox);

            let names = Names::read(&image, &vm);
            let name = |address: u64| {
                let function = Function::read(&image, &layout, address).expect("a function");
                names.function(&function).map(|name| name.to_string())
            };
            assert!(names.complete);
            assert_eq!(name(format).as_deref(), Some("string.format"), "not the global alias");
            assert_eq!(name(encode).as_deref(), Some("cjson.encode"));
            assert_eq!(name(other_encode).as_deref(), Some("cjson.encode"), "the same code, made anew");
            assert_eq!(name(safe_decode).as_deref(), Some("cjson.safe.decode"), "by the object");
            assert_eq!(name(command).as_deref(), Some("editor.command"), "not by the module that is the variable");
            let stranger = Function { address: 0x99, kind: FunctionKind::C { code: 0x2000 }, upvalues: 0 };
            assert_eq!(names.function(&stranger), None, "its code has two names");
            assert_eq!(names.fast_function(6).as_deref(), Some("ipairs_aux"), "between pairs and ipairs");
            assert_eq!(names.fast_function(8), None);
            let names = Names::read(&image, &sandboxed);
            assert_eq!(names.fast_function(5).as_deref(), Some("pairs"), "another table took the place of the globals");
        }
    }

    #[test]
    fn closures_of_one_prototype_do_not_bear_each_others_names() {
        for layout in of_each_model() {
            let mut image = Image::of(&layout);
            let chunkname = image.string(&layout, b"@/x.lua");
            let fields = &layout.proto;
            let mut proto = || {
                let proto = image.allocate(512);
                image.write(proto + u64::from(fields.gct), &[Tag::Proto.gct()]);
                image.put_u32(proto + u64::from(fields.sizebc), 8);
                image.put_u32(proto + u64::from(fields.sizept), 512);
                image.put_u32(proto + u64::from(fields.firstline), 3);
                image.put_u32(proto + u64::from(fields.numline), 2);
                image.put_reference(layout.model, proto + u64::from(fields.chunkname), chunkname);
                image.put_reference(layout.model, proto + u64::from(fields.k), proto + 256);
                image.put_reference(layout.model, proto + u64::from(fields.lineinfo), proto + 300);
                proto
            };
            let (shared, copied) = (proto(), proto());
            let mut closure = |proto: u64| image.function(&layout, 0, proto + u64::from(layout.proto.size), 0);
            let (resume, yielded) = (closure(shared), closure(shared));
            let (get, other_get) = (closure(copied), closure(copied));
            let wrapped = table(
                &mut image,
                &layout,
                &functions(&layout, &[("resume", resume), ("yield", yielded), ("get", get)]),
            );
            let other = table(&mut image, &layout, &functions(&layout, &[("get", other_get)]));
            let globals = image.table(&layout, &[]);
            let loaded = image.table(&layout, &[("coroutine", wrapped), ("other", other)]);
            let registry = image.table(&layout, &[("_LOADED", reference(layout.model, Tag::Table, loaded))]);
            let vm = image.vm(&layout, registry, globals);

            let mut names = Names::read(&image, &vm);
            let mut name = |proto: u64| {
                let proto = Proto::read(&image, &layout, proto).expect("a prototype");
                names.lua(&image, &vm, &proto, &mut Sources::default(), &mut |_| None).map(|name| name.to_string())
            };
            assert_eq!(name(shared), None, "`coroutine.resume` is not `coroutine.yield`");
            assert_eq!(name(copied).as_deref(), Some("other.get"), "copies of one function");
        }
    }

    #[test]
    fn what_the_source_says_is_the_name_and_what_holds_a_function_is_not() {
        let layout = &of_each_model()[0];
        let fields = &layout.proto;
        let name = |source: &str| {
            let mut image = Image::of(layout);
            let chunkname = image.string(layout, source.as_bytes());
            let proto = image.allocate(512);
            let field = |offset: u32| proto + u64::from(offset);
            image.write(field(fields.gct), &[Tag::Proto.gct()]);
            image.put_u32(field(fields.sizebc), 8);
            image.put_u32(field(fields.sizept), 512);
            image.put_u32(field(fields.firstline), 1);
            image.put_reference(layout.model, field(fields.chunkname), chunkname);
            image.put_reference(layout.model, field(fields.k), proto + 256);
            image.put_reference(layout.model, field(fields.lineinfo), proto + 300);
            let function = image.function(layout, 0, proto + u64::from(fields.size), 0);
            let module = table(&mut image, layout, &functions(layout, &[("f", function)]));
            let globals = image.table(layout, &[]);
            let loaded = image.table(layout, &[("module", module)]);
            let registry = image.table(layout, &[("_LOADED", reference(layout.model, Tag::Table, loaded))]);
            let vm = image.vm(layout, registry, globals);
            let proto = Proto::read(&image, layout, proto).expect("a prototype");
            let mut names = Names::read(&image, &vm);
            names.lua(&image, &vm, &proto, &mut Sources::default(), &mut |_| None).map(|name| name.to_string())
        };
        assert_eq!(name("function M.f() end").as_deref(), Some("module.f"), "the same function, and whose it is");
        assert_eq!(name("local function g() end M.f = g").as_deref(), Some("g"));
        assert_eq!(name("M['f' .. 1] = function() end"), None, "it is only stored there");
        assert_eq!(
            name("a = function() end b = function() end").as_deref(),
            Some("module.f"),
            "the source does not say"
        );
        assert_eq!(name("=something").as_deref(), Some("module.f"), "there is no source");
        assert_eq!(name("function M.f(a) end").as_deref(), Some("module.f"), "it has other parameters");
    }

    #[test]
    fn tables_that_contain_themselves_and_wrong_references_end_the_walk() {
        for layout in of_each_model() {
            let mut image = Image::of(&layout);
            let inner = image
                .table(&layout, &[("self", 0), ("bad", reference(layout.model, Tag::Table, 0x1234)), ("worse", 0)]);
            let globals = image.table(&layout, &[("t", reference(layout.model, Tag::Table, inner)), ("_G", 0)]);
            let node = Memory::u64(&image, inner + u64::from(layout.model.table().node)).expect("readable");
            image.put_u64(node, reference(layout.model, Tag::Table, inner));
            image.put_u64(node + 48, reference(layout.model, Tag::Function, inner));
            let registry = image.table(&layout, &[("_LOADED", reference(layout.model, Tag::Table, globals))]);
            let vm = image.vm(&layout, registry, globals);
            assert!(Names::read(&image, &vm).complete);
        }
    }

    #[test]
    fn no_memory_contents_make_the_readers_panic_or_loop() {
        let layouts: Vec<Arc<Layout>> = Layout::all().into_iter().map(Arc::new).collect();
        let layout = layouts[13].clone();
        let mut image = Image::of(&layout);
        let chunkname = image.string(&layout, b"@/x.lua");
        let proto = image.allocate(512);
        let fields = &layout.proto;
        image.write(proto + u64::from(fields.gct), &[Tag::Proto.gct()]);
        for (offset, value) in [(fields.sizebc, 8), (fields.sizept, 512), (fields.sizekgc, 4), (fields.sizeuv, 3)] {
            image.put_u32(proto + u64::from(offset), value);
        }
        let parts = [(fields.chunkname, chunkname), (fields.k, proto + 256), (fields.varinfo, proto + 300)];
        for (offset, value) in parts {
            image.put_u64(proto + u64::from(offset), value);
        }
        let function = image.function(&layout, 0, proto + u64::from(fields.size), 0);
        let module = image.table(&layout, &[("f", reference(layout.model, Tag::Function, function))]);
        let loaded = image.table(&layout, &[("m", reference(layout.model, Tag::Table, module))]);
        let registry = image.table(&layout, &[("_LOADED", reference(layout.model, Tag::Table, loaded))]);
        let vm = image.vm(&layout, registry, loaded);
        image.trace(&vm);
        let places: Vec<u64> = [proto, function, module, loaded, registry, vm.main_thread, vm.g]
            .into_iter()
            .flat_map(|start| (0..48).map(move |offset| start + offset))
            .chain(proto..proto + 512)
            .collect();

        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut named = 0;
        for _ in 0..2000 {
            let mut broken = image.clone();
            for _ in 0..next() % 6 {
                let place = places[next() as usize % places.len()];
                broken.write(place, &[[0, 1, 7, 0x7f, 0x80, 0xff][next() as usize % 6]]);
            }
            Vm::validate(&broken, vm.g, &layout).ok();
            let mut names = Names::read(&broken, &vm);
            if let Ok(proto) = Proto::read(&broken, &layout, proto) {
                let mut sources = Sources::default();
                named += u32::from(names.lua(&broken, &vm, &proto, &mut sources, &mut |_| None).is_some());
                for index in 0..20 {
                    proto.line(index);
                    proto.local_name(index, index as u8);
                    proto.upvalue_name(index as usize);
                }
            }
        }
        assert!(named > 0, "some images are whole enough to be read");
    }
}
