//! Names, files and lines of native code.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::modules::{Code, Module};
use super::unwind::Unwinder;

/// Places in the code whose frames are remembered. When it is full it starts afresh.
const MAX_PLACES: usize = 32 << 10;

/// Longest name that is shown, in bytes.
const MAX_NAME: usize = 1024;

/// A function at a place in the native code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeFrame {
    /// Its name, demangled. When it has none, `module+0x1234` with the image address of the function's start, or of the
    /// place itself when the start is not known either: what `addr2line -e module 0x1234` takes.
    pub name: Arc<str>,
    /// File name of the image, `[vdso]`, or `[anonymous]` for executable memory without a file.
    pub module: Arc<str>,
    /// Source file as the compiler was given it, when the debug information tells.
    pub file: Option<Arc<str>>,
    /// Line being run, or 0 when unknown.
    pub line: u32,
    /// The compiler inlined it into the frame before it.
    pub inlined: bool,
    /// Nothing is known but an address.
    pub unresolved: bool,
}

/// Turns places in native code into functions; remembers the answers for all processes.
#[derive(Debug, Default)]
pub struct Symbolizer {
    /// By image and image address.
    places: FxHashMap<(u32, u64), Box<[NativeFrame]>>,
    strings: FxHashSet<Arc<str>>,
}

impl Symbolizer {
    /// Appends the functions at a runtime address to `out`: the outermost one first, then those that were inlined into
    /// it, innermost last. There is always at least one.
    ///
    /// `lookup` is [`lookup`](super::registers::CodeAddress::lookup) of a frame's place in the code.
    pub fn symbolize(&mut self, unwinder: &Unwinder, lookup: u64, out: &mut Vec<NativeFrame>) {
        let module = match unwinder.code_at(lookup) {
            Code::Module(module) => module,
            Code::Anonymous => return out.push(self.unknown("[anonymous]", "[anonymous]".to_owned())),
            Code::None => return out.push(self.unknown("[unmapped]", "[unmapped]".to_owned())),
        };
        let Some((image, address)) = module.locate(lookup) else {
            let name = format!("{}+{:#x}", module.name(), module.file_offset(lookup));
            return out.push(self.unknown(module.name(), name));
        };
        let key = (image.id(), address);
        if let Some(frames) = self.places.get(&key) {
            return out.extend_from_slice(frames);
        }
        let frames = self.resolve(unwinder, module, lookup);
        out.extend_from_slice(&frames);
        if self.places.len() >= MAX_PLACES {
            self.places.clear();
            self.strings.clear();
        }
        self.places.insert(key, frames.into());
    }

    fn resolve(&mut self, unwinder: &Unwinder, module: &Module, lookup: u64) -> Vec<NativeFrame> {
        let Some((image, address)) = module.locate(lookup) else { return Vec::new() };
        let process = unwinder.process();
        let symbol = image.symbol(address, process, module.path());
        let symbol_name = symbol.map(|symbol| addr2line::demangle_auto(String::from_utf8_lossy(symbol.name), None));
        let functions = image.info(process, module.path()).map(|info| info.functions(address)).unwrap_or_default();
        let module_name = self.intern(module.name());
        let last = functions.len().saturating_sub(1);
        let mut frames: Vec<NativeFrame> = functions
            .into_iter()
            .enumerate()
            .rev()
            .map(|(depth, function)| {
                // The symbol names the whole function: the outermost frame.
                let name = if depth == last {
                    symbol_name.as_deref().or(function.name.as_deref())
                } else {
                    function.name.as_deref()
                };
                let (file, line) = function.place.map_or((None, 0), |(file, line)| (Some(self.intern(&file)), line));
                let unresolved = name.is_none();
                let name = match name {
                    Some(name) => self.intern(name),
                    None => self.intern(&format!(
                        "{module_name}+{:#x}",
                        image.fde_range(address).map_or(address, |range| range.start)
                    )),
                };
                NativeFrame { name, module: Arc::clone(&module_name), file, line, inlined: depth != last, unresolved }
            })
            .collect();
        if frames.is_empty() {
            frames.push(match &symbol_name {
                Some(name) => NativeFrame {
                    name: self.intern(name),
                    module: module_name,
                    file: None,
                    line: 0,
                    inlined: false,
                    unresolved: false,
                },
                None => {
                    let start = image.fde_range(address).map_or(address, |range| range.start);
                    self.unknown(module.name(), format!("{}+{start:#x}", module.name()))
                }
            });
        }
        frames
    }

    fn unknown(&mut self, module: &str, name: String) -> NativeFrame {
        NativeFrame {
            name: self.intern(&name),
            module: self.intern(module),
            file: None,
            line: 0,
            inlined: false,
            unresolved: true,
        }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        let text = &text[..text.floor_char_boundary(MAX_NAME)];
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&new));
        new
    }
}
