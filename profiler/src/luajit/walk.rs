//! What the target's Lua code calls its functions: a walk through the loaded modules and the global variables.
//!
//! The same function is often reachable under several names. The one that counts is, in this order: that of Lua's,
//! LuaJIT's and ngx_lua's own libraries (`string.format`), of a loaded module (`cjson.encode`), of a global
//! variable; then the one with fewer dots, the shorter one, the first in the alphabet. So names do not depend on the order
//! of hash tables, which differs between processes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::arch::{Tag, Value};
use super::discover::Vm;
use super::memory::Memory;
use super::object::{Function, FunctionKind, Table, Text, read_reference};

/// Dots of a name, minus those in a module's name.
const MAX_DEPTH: u32 = 4;
/// Table entries looked at in all.
const MAX_ENTRIES: u64 = 200_000;
/// Entries of a single table; larger ones hold data.
const MAX_TABLE: u64 = 1 << 14;
/// Bytes of a key that can be part of a name.
const MAX_KEY: usize = 64;
/// Longest name.
const MAX_NAME: usize = 200;

/// Libraries whose names come first.
const LIBRARIES: [&str; 13] =
    ["string", "table", "math", "io", "os", "debug", "coroutine", "package", "jit", "bit", "ffi", "ngx", "ndk"];
/// The functions of Lua 5.1 and LuaJIT that are global variables.
const BASE: [&str; 29] = [
    "assert",
    "collectgarbage",
    "dofile",
    "error",
    "gcinfo",
    "getfenv",
    "getmetatable",
    "ipairs",
    "load",
    "loadfile",
    "loadstring",
    "module",
    "newproxy",
    "next",
    "pairs",
    "pcall",
    "print",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "require",
    "select",
    "setfenv",
    "setmetatable",
    "tonumber",
    "tostring",
    "type",
    "unpack",
];

/// Where a name comes from, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Library,
    Module,
    Global,
}

/// How good a name is: less is better.
type Rank = (Origin, usize, usize, Arc<str>);

fn rank(origin: Origin, name: &Arc<str>) -> Rank {
    (origin, name.matches('.').count(), name.len(), name.clone())
}

/// The functions found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Each function object with its best name.
    pub functions: BTreeMap<u64, (Function, Arc<str>)>,
    /// Lua functions without a name that may hold or define others: in lists, and in the registry, where hosts keep their
    /// compiled code.
    pub unnamed: Vec<Function>,
    /// Everything in reach was seen; otherwise a limit ended the walk.
    pub complete: bool,
}

/// Walks the modules, the global variables and the registry of a VM.
pub(super) fn walk(memory: &dyn Memory, vm: &Vm) -> Walk {
    let mut walker = Walker {
        memory,
        vm,
        budget: MAX_ENTRIES,
        queue: VecDeque::new(),
        seen: HashSet::new(),
        best: HashMap::new(),
        keys: HashMap::new(),
        unnamed: Vec::new(),
    };
    walker.run();
    let complete = walker.budget > 0;
    let functions = walker.best.into_iter().map(|(address, (function, (.., name)))| (address, (function, name)));
    Walk { functions: functions.collect(), unnamed: walker.unnamed, complete }
}

struct Walker<'a> {
    memory: &'a dyn Memory,
    vm: &'a Vm,
    budget: u64,
    /// Tables to look into, with their names.
    queue: VecDeque<(u64, Arc<str>, Origin, u32)>,
    /// Tables in `queue` now or before.
    seen: HashSet<u64>,
    best: HashMap<u64, (Function, Rank)>,
    keys: HashMap<u64, Option<Arc<str>>>,
    unnamed: Vec<Function>,
}

impl Walker<'_> {
    fn run(&mut self) {
        let globals = self.globals();
        let registry = self.vm.registry(self.memory).ok().flatten();
        let registered = registry.map(|address| self.pairs(address)).unwrap_or_default();
        let by_name = |name: &str, entries: &[(Option<Arc<str>>, Value)]| {
            entries.iter().find(|(key, _)| key.as_deref() == Some(name)).and_then(|(_, value)| value.object(Tag::Table))
        };
        let loaded = by_name("_LOADED", &registered);
        let modules = loaded.map(|address| self.pairs(address)).unwrap_or_default();
        // A host may have put another table in the place of the globals, which shows the first one through metamethods only.
        let first_globals = by_name("_G", &modules).filter(|address| Some(*address) != globals);
        // These are no modules, although they can be reached as fields of some.
        self.seen.extend([globals, first_globals, registry, loaded].into_iter().flatten());

        let mut variables: Vec<_> =
            [globals, first_globals].into_iter().flatten().flat_map(|address| self.pairs(address)).collect();
        variables.sort_by(|(left, _), (right, _)| left.cmp(right));

        let mut modules: Vec<(Arc<str>, Value)> = modules
            .into_iter()
            .filter_map(|(key, value)| Some((key?, value)))
            .filter(|(name, _)| &**name != "_G")
            .map(|(name, value)| (variable(&name, value, &variables).unwrap_or(name), value))
            .collect();
        modules.sort_by_key(|(name, _)| rank(if is_library(name) { Origin::Library } else { Origin::Module }, name));
        // First all modules under their own names, then what is below them, then what only global variables reach.
        for (name, value) in modules {
            let origin = if is_library(&name) { Origin::Library } else { Origin::Module };
            self.meet(value, name, origin, 0);
        }
        self.drain();
        for (key, value) in variables {
            let Some(name) = key else { continue };
            let origin = if BASE.contains(&&*name) || is_library(&name) { Origin::Library } else { Origin::Global };
            self.meet(value, name, origin, 0);
        }
        self.drain();
        self.collect_unnamed(registered.into_iter().map(|(_, value)| value).collect());
    }

    /// The main thread's table of globals.
    fn globals(&self) -> Option<u64> {
        let env = self.vm.main_thread.wrapping_add(u64::from(self.vm.layout.lua_state.env));
        read_reference(self.memory, self.vm.layout.model, env).ok().filter(|address| *address != 0)
    }

    /// The pairs of a table whose key is a short string, and those with other keys, without a key.
    fn pairs(&mut self, address: u64) -> Vec<(Option<Arc<str>>, Value)> {
        let Ok(table) = Table::read(self.memory, self.vm.layout.model, address) else { return Vec::new() };
        let mut allowed = self.budget.min(MAX_TABLE);
        let before = allowed;
        let pairs = table.pairs(self.memory, &mut allowed);
        self.budget -= before - allowed;
        pairs
            .into_iter()
            .filter(|(_, value)| matches!(value, Value::Object(Tag::Table | Tag::Function, _)))
            .map(|(key, value)| (key.object(Tag::String).and_then(|address| self.key(address)), value))
            .collect()
    }

    fn key(&mut self, address: u64) -> Option<Arc<str>> {
        let (memory, layout) = (self.memory, &self.vm.layout);
        let read = || {
            let text = Text::read(memory, layout, address, MAX_KEY).ok().filter(|text| !text.cut)?;
            let text = String::from_utf8(text.bytes).ok()?;
            (!text.is_empty() && !text.chars().any(char::is_control)).then(|| Arc::from(text))
        };
        self.keys.entry(address).or_insert_with(read).clone()
    }

    /// Notes a function under a name, or queues a table.
    fn meet(&mut self, value: Value, name: Arc<str>, origin: Origin, depth: u32) {
        match value {
            Value::Object(Tag::Function, address) => {
                let rank = rank(origin, &name);
                match self.best.get_mut(&address) {
                    Some((_, best)) if *best <= rank => {}
                    Some((_, best)) => *best = rank,
                    None => {
                        if let Ok(function) = Function::read(self.memory, &self.vm.layout, address) {
                            self.best.insert(address, (function, rank));
                        }
                    }
                }
            }
            Value::Object(Tag::Table, address) if depth < MAX_DEPTH && self.seen.insert(address) => {
                self.queue.push_back((address, name, origin, depth));
            }
            _ => {}
        }
    }

    /// Looks into the tables queued, the nearest first.
    fn drain(&mut self) {
        while let Some((address, table, origin, depth)) = self.queue.pop_front() {
            self.array(address);
            let mut pairs: Vec<(Arc<str>, Value)> =
                self.pairs(address).into_iter().filter_map(|(key, value)| Some((key?, value))).collect();
            pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
            for (key, value) in pairs {
                if table.len() + key.len() < MAX_NAME {
                    self.meet(value, format!("{table}.{key}").into(), origin, depth + 1);
                }
            }
        }
    }

    /// Collects the Lua functions of a table's array part: lists of handlers.
    fn array(&mut self, address: u64) {
        let Ok(table) = Table::read(self.memory, self.vm.layout.model, address) else { return };
        let mut allowed = self.budget.min(MAX_TABLE);
        let before = allowed;
        let values = table.values(self.memory, &mut allowed);
        self.budget -= before - allowed;
        for value in values {
            if let Some(address) = value.object(Tag::Function)
                && let Ok(function) = Function::read(self.memory, &self.vm.layout, address)
                && matches!(function.kind, FunctionKind::Lua { .. })
            {
                self.unnamed.push(function);
            }
        }
    }

    /// Collects the Lua functions in tables of the registry that the walk did not meet.
    fn collect_unnamed(&mut self, values: Vec<Value>) {
        let mut values: VecDeque<(Value, u32)> = values.into_iter().map(|value| (value, 0)).collect();
        let mut functions = HashSet::new();
        while let Some((value, depth)) = values.pop_front() {
            match value {
                Value::Object(Tag::Function, address)
                    if !self.best.contains_key(&address) && functions.insert(address) =>
                {
                    if let Ok(function) = Function::read(self.memory, &self.vm.layout, address)
                        && matches!(function.kind, FunctionKind::Lua { .. })
                    {
                        self.unnamed.push(function);
                    }
                }
                Value::Object(Tag::Table, address) if depth < MAX_DEPTH && self.seen.insert(address) => {
                    let Ok(table) = Table::read(self.memory, self.vm.layout.model, address) else { continue };
                    let mut allowed = self.budget.min(MAX_TABLE);
                    let before = allowed;
                    let mut inside: Vec<Value> =
                        table.pairs(self.memory, &mut allowed).into_iter().map(|(_, value)| value).collect();
                    inside.extend(table.values(self.memory, &mut allowed));
                    self.budget -= before - allowed;
                    values.extend(inside.into_iter().map(|value| (value, depth + 1)));
                }
                _ => {}
            }
        }
        self.unnamed.sort_by_key(|function| function.address);
        self.unnamed.dedup_by_key(|function| function.address);
    }
}

/// The global variable that a module is and that its name begins with: Neovim's `vim.shared` is nothing but `vim`.
fn variable(module: &str, value: Value, variables: &[(Option<Arc<str>>, Value)]) -> Option<Arc<str>> {
    let begins = |name: &str| module.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    variables.iter().find_map(|(name, same)| name.clone().filter(|name| *same == value && begins(name)))
}

/// Whether a name is one of the libraries, or in one.
fn is_library(name: &str) -> bool {
    LIBRARIES.contains(&name.split('.').next().unwrap_or(name))
}
