//! Load for servers on the loopback interface.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::wait_until;

/// How long a server may take until it answers.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A port that nothing listens on at this moment, neither for TCP nor for UDP.
///
/// # Errors
/// When the kernel has none.
pub fn free_port() -> Result<u16> {
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr())?.port();
        match UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// wrk, which asks a server for a path or, with a script, for what that says, for at most `seconds`, from one thread
/// with `connections` connections.
pub fn wrk(address: &str, path: &str, script: Option<&Path>, connections: u32, seconds: u32) -> Command {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections"]).arg(connections.to_string());
    wrk.arg("--duration").arg(format!("{seconds}s"));
    if let Some(script) = script {
        wrk.arg("--script").arg(script);
    }
    wrk.arg(format!("http://{address}{path}"));
    wrk
}

/// A thread that asks a DNS server one question after another, until this is dropped.
#[derive(Debug)]
pub struct Questions {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The address of `www.example`, please.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

impl Questions {
    /// Asks the server at a port; it has answered when this returns.
    ///
    /// # Errors
    /// When it does not answer within ten seconds.
    pub fn start(port: u16) -> Result<Questions> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = spawn({
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            move || {
                let mut answer = [0; 512];
                while !stop.load(Ordering::Relaxed) {
                    // Refused while nothing listens yet, and an answer may be lost: the next question is the remedy.
                    if socket.send(QUESTION).and_then(|_| socket.recv(&mut answer)).is_ok() {
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let questions = Questions { stop, thread: Some(thread) };
        ensure!(wait_until(PATIENCE, || answers.load(Ordering::Relaxed) > 0), "nothing answers on port {port}");
        Ok(questions)
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
