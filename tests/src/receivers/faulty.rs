//! Servers that profiles are sent to, and that do not do what they should.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::Instant;

use anyhow::Result;

/// What such a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It answers with this status line, and these headers, each with its end of line.
    Status(&'static str, &'static str),
    /// It answers that all is well, with a page, as a proxy does that wants somebody to log in.
    Page,
    /// It answers that all is well, with a body that does not end.
    Endless,
    /// It takes requests, and never answers.
    Silent,
}

/// Such a server on the loopback interface.
#[derive(Debug)]
pub struct Faulty {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    asked: Mutex<Vec<Instant>>,
}

impl State {
    fn asked(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faulty {
    /// Starts one.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(fault: Fault) -> Result<Faulty> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let accepting = spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&shared);
                // It ends with the connection.
                spawn(move || serve(&stream, fault, &shared));
            }
        });
        Ok(Faulty { address, state, accepting: Some(accepting) })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// When each of the requests came, complete.
    pub fn asked(&self) -> Vec<Instant> {
        self.state.asked().clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        // It waits for a connection.
        if TcpStream::connect(self.address).is_ok()
            && let Some(accepting) = self.accepting.take()
        {
            let _ = accepting.join();
        }
    }
}

/// Does that to one request. What the other side does meanwhile is its own matter.
fn serve(stream: &TcpStream, fault: Fault, state: &State) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
    state.asked().push(Instant::now());
    let mut writer = stream;
    match fault {
        Fault::Status(line, headers) => {
            write!(writer, "HTTP/1.1 {line}\r\n{headers}connection: close\r\ncontent-length: 0\r\n\r\n")
        }
        Fault::Page => {
            let page = "<!doctype html><title>Log in</title>";
            let length = page.len();
            write!(
                writer,
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{page}"
            )
        }
        Fault::Endless => {
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\nconnection: close\r\n\r\n")?;
            loop {
                writer.write_all(&[0; 4096])?;
            }
        }
        Fault::Silent => io::copy(&mut reader, &mut io::sink()).map(drop),
    }
}
