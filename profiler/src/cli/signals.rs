//! Ctrl-C: the first one ends sampling, the second one ends luaflame.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Whether the user, or whoever supervises us, wants an end.
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    busy: Arc<Mutex<()>>,
}

impl Interrupt {
    /// Takes over SIGINT and SIGTERM: the first sets [`Self::stop`], the second exits with 128 and the signal's number.
    ///
    /// # Errors
    /// When the system refuses to install the handlers.
    pub fn install() -> io::Result<Interrupt> {
        let interrupt = Interrupt { stop: Arc::default(), busy: Arc::default() };
        let (stop, busy) = (interrupt.stop.clone(), interrupt.busy.clone());
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if stop.swap(true, Ordering::SeqCst) {
                    let _idle = busy.lock().unwrap_or_else(PoisonError::into_inner);
                    // The progress line, if there is one, is left where it is.
                    let _ = writeln!(
                        io::stderr(),
                        "{}luaflame: given up",
                        if io::stderr().is_terminal() { "\n" } else { "" }
                    );
                    signal_hook::low_level::exit(128 + signal);
                }
            }
        })?;
        Ok(interrupt)
    }

    /// Set from the first signal on.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// While the guard lives a second signal waits: for work that would leave something half done, and is soon over.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
