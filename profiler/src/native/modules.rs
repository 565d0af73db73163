//! The images mapped into one process, by address.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::image::{Image, ImageError, Images, Named, bias_at};
use crate::luajit::memory::Memory;
use crate::target::files::NoFile;
use crate::target::maps::{Backing, Mapping};
use crate::target::process::Process;

/// Largest vDSO that is read; it has two to four pages.
const MAX_VDSO: u64 = 64 << 10;

/// Why the code of a mapping is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoImage {
    /// The file cannot be had.
    #[error(transparent)]
    File(#[from] NoFile),
    /// The file is no ELF image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The mapping is of a part of the file that no segment of the image covers.
    #[error("The mapping shows a part of the file that the image does not load.")]
    NotLoaded,
    /// The vDSO could not be read from memory.
    #[error("The vDSO cannot be read from the memory of the process.")]
    UnreadableVdso,
}

/// One executable mapping of a file or of the vDSO.
#[derive(Debug, Clone)]
pub struct Module {
    mapping: Mapping,
    name: Arc<str>,
    image: Result<(Arc<Image>, u64), NoImage>,
}

impl Module {
    /// The runtime addresses that it covers.
    pub fn range(&self) -> Range<u64> {
        self.mapping.range.clone()
    }

    /// Its file name without folders, such as `nginx` or `libc.so.6`, or `[vdso]`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The image, or why there is none.
    ///
    /// # Errors
    /// The reason why the code here is not known.
    pub fn image(&self) -> Result<&Arc<Image>, &NoImage> {
        self.image.as_ref().map(|(image, _)| image)
    }

    /// Which of its functions have names in this process.
    ///
    /// # Errors
    /// The reason why the code here is not known.
    pub fn named(&self, process: &Process) -> Result<Named, &NoImage> {
        Ok(self.image()?.named(process, self.path()))
    }

    /// What to add to an image address to get the runtime address, wrapping; 0 without an image.
    pub fn bias(&self) -> u64 {
        self.image.as_ref().map_or(0, |(_, bias)| *bias)
    }

    /// The image and the image address of a runtime address.
    pub(super) fn locate(&self, address: u64) -> Option<(&Arc<Image>, u64)> {
        let (image, bias) = self.image.as_ref().ok()?;
        Some((image, address.wrapping_sub(*bias)))
    }

    /// The offset of a runtime address in the file. Only of use when there is no image.
    pub(super) fn file_offset(&self, address: u64) -> u64 {
        address.wrapping_sub(self.mapping.range.start).wrapping_add(self.mapping.offset)
    }

    /// The path of the file as the process sees it.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.mapping.backing {
            Backing::File { path, .. } => Some(Path::new(OsStr::from_bytes(path))),
            _ => None,
        }
    }

    fn new(mapping: &Mapping, process: &Process, images: &Images) -> Self {
        let image = load(mapping, process, images).and_then(|image| {
            // The vDSO is one small image, mapped as a whole.
            let bias = bias_at(&image, mapping).ok_or(NoImage::NotLoaded)?;
            Ok((image, bias))
        });
        Self { mapping: mapping.clone(), name: mapping.name().into(), image }
    }
}

fn load(mapping: &Mapping, process: &Process, images: &Images) -> Result<Arc<Image>, NoImage> {
    if mapping.is_vdso() {
        let length = mapping.range.end - mapping.range.start;
        let bytes = (length <= MAX_VDSO)
            .then(|| process.memory().bytes(mapping.range.start, length as usize).ok())
            .flatten()
            .ok_or(NoImage::UnreadableVdso)?;
        return Ok(images.vdso(bytes)?);
    }
    Ok(images.open(&process.mapped_file(mapping)?.file)?)
}

/// What is mapped at an address, as far as code goes.
#[derive(Debug, Clone, Copy)]
pub enum Code<'a> {
    /// A file or the vDSO.
    Module(&'a Module),
    /// Executable memory without a file: machine code of a JIT compiler, usually.
    Anonymous,
    /// Not executable, or nothing at all, when the mappings were last read.
    None,
}

/// The executable mappings of a process.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// By address.
    modules: Vec<Module>,
    /// Executable mappings without a file, by address.
    anonymous: Vec<Range<u64>>,
}

impl Modules {
    /// Takes over the mappings of the process; keeps what is known of those that stayed. Whether anything changed.
    pub(super) fn update(&mut self, mappings: &[Mapping], process: &Process, images: &Images) -> bool {
        let mut modules = Vec::new();
        let mut anonymous = Vec::new();
        let mut changed = false;
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            if !(mapping.is_vdso() || matches!(mapping.backing, Backing::File { .. })) {
                anonymous.push(mapping.range.clone());
                continue;
            }
            let known = self.modules.binary_search_by_key(&mapping.range.start, |module| module.mapping.range.start);
            let known = known.ok().map(|at| &self.modules[at]).filter(|module| is_same(&module.mapping, mapping));
            modules.push(match known {
                Some(module) => module.clone(),
                None => {
                    changed = true;
                    Module::new(mapping, process, images)
                }
            });
        }
        changed |= modules.len() != self.modules.len() || anonymous != self.anonymous;
        self.modules = modules;
        self.anonymous = anonymous;
        changed
    }

    pub(super) fn at(&self, address: u64) -> Code<'_> {
        let after = self.modules.partition_point(|module| module.mapping.range.start <= address);
        if let Some(module) = after.checked_sub(1).map(|at| &self.modules[at])
            && address < module.mapping.range.end
        {
            return Code::Module(module);
        }
        let after = self.anonymous.partition_point(|range| range.start <= address);
        match after.checked_sub(1).map(|at| &self.anonymous[at]) {
            Some(range) if address < range.end => Code::Anonymous,
            _ => Code::None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter()
    }
}

/// The same part of the same file at the same place; that its path has been deleted since changes nothing.
fn is_same(left: &Mapping, right: &Mapping) -> bool {
    left.range == right.range
        && left.offset == right.offset
        && left.device == right.device
        && left.inode == right.inode
        && match (&left.backing, &right.backing) {
            (Backing::File { path: left, .. }, Backing::File { path: right, .. }) => left == right,
            (left, right) => left == right,
        }
}
