//! What a file tells of itself in the header of its compression: which service it is of, its processes, and how many samples
//! they have.
//!
//! The header has an "extra field" (RFC 1952, 2.3.1.1) for such things, which other readers pass over: `LF`, the length, and JSON.

use std::io::{self, Read, Write};
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::format::pprof::message;
use crate::profile::window::ProcessProfile;

/// Most processes that a summary tells of.
pub(super) const MAX_PROCESSES: usize = 256;
/// Most bytes of a name.
const MAX_NAME: usize = 1024;
/// What ours is called among the fields that may be there.
const FIELD: [u8; 2] = *b"LF";
/// Most bytes of a header.
const MAX_HEADER: u64 = 0x1_0000 + 64;

/// What a file tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// The service.
    pub service: String,
    /// All samples.
    pub samples: u64,
    /// Its processes.
    pub processes: Vec<Process>,
}

/// What a file tells of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub pid: u32,
    pub started: u64,
    pub command: String,
    pub worker: Option<u32>,
    pub container: Option<String>,
}

impl Summary {
    pub fn of(service: &str, processes: &[&ProcessProfile]) -> Summary {
        let process = |process: &&ProcessProfile| {
            let identity = &process.identity;
            Process {
                pid: identity.pid,
                started: identity.started,
                command: bounded(&identity.command),
                worker: identity.worker,
                container: identity.container.as_deref().map(bounded),
            }
        };
        Summary {
            service: service.to_owned(),
            samples: processes.iter().flat_map(|process| process.profile.stacks()).map(|(_, count)| count).sum(),
            processes: processes.iter().take(MAX_PROCESSES).map(process).collect(),
        }
    }

    /// The bytes of a file of this profile.
    pub fn compressed(&self, profile: &message::Profile) -> Vec<u8> {
        let mut known = self.clone();
        let mut json = json(&known);
        // Four bytes are ours, and the length of all has two.
        while json.len() > usize::from(u16::MAX) - 4 && !known.processes.is_empty() {
            known.processes.truncate(known.processes.len() / 2);
            json = self::json(&known);
        }
        let mut extra = FIELD.to_vec();
        extra.extend(u16::try_from(json.len()).unwrap_or_default().to_le_bytes());
        extra.extend(json);
        let mut compressed = GzBuilder::new().extra(extra).write(Vec::new(), Compression::fast());
        let written = compressed.write_all(&profile.encode_to_vec()).and_then(|()| compressed.finish());
        written.expect("a vector takes everything")
    }

    /// What the beginning of a file tells; `None` when it is no file of ours.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn read(reader: impl Read) -> io::Result<Option<Summary>> {
        let mut bytes = Vec::new();
        let mut reader = reader.take(MAX_HEADER);
        // Most headers are short.
        (&mut reader).take(1024).read_to_end(&mut bytes)?;
        if let Some(length) = bytes.get(10..12)
            && usize::from(u16::from_le_bytes([length[0], length[1]])) + 12 > bytes.len()
        {
            reader.read_to_end(&mut bytes)?;
        }
        let decoder = GzDecoder::new(&*bytes);
        let field = decoder.header().and_then(|header| header.extra()).and_then(|extra| extra.strip_prefix(&FIELD));
        let json = field.and_then(|field| field.split_at_checked(2)).map(|(_, json)| json);
        Ok(json.and_then(|json| serde_json::from_slice(json).ok()))
    }

    /// Its processes, sharing what is known of an earlier file.
    pub fn shared(&self, earlier: Option<&Arc<[Arc<Process>]>>) -> Arc<[Arc<Process>]> {
        let known = earlier.map_or(&[][..], |known| &**known);
        if let Some(earlier) = earlier
            && known.iter().map(|process| &**process).eq(&self.processes)
        {
            return Arc::clone(earlier);
        }
        let share = |process: &Process| {
            let same = known.iter().find(|known| ***known == *process);
            same.map_or_else(|| Arc::new(process.clone()), Arc::clone)
        };
        self.processes.iter().map(share).collect()
    }
}

fn json(summary: &Summary) -> Vec<u8> {
    serde_json::to_vec(summary).expect("texts and numbers are JSON")
}

fn bounded(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}
