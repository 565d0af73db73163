//! What a connection may take.

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_layer::Layer;

/// Most connections at once; further ones are closed.
const CONNECTIONS: usize = 64;
/// How long a client may leave an answer waiting that it does not take.
const UNREAD: Duration = Duration::from_secs(30);

/// Lets no more connections in than there is room for.
#[derive(Debug, Clone)]
pub(super) struct Limited {
    room: Arc<Semaphore>,
}

impl Default for Limited {
    fn default() -> Limited {
        Limited { room: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl<S> Accept<TcpStream, S> for Limited {
    type Stream = TcpStream;
    /// It keeps the place of its connection for as long as it lives.
    type Service = AddExtension<S, Arc<OwnedSemaphorePermit>>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accept = || {
            let place = Arc::clone(&self.room).try_acquire_owned().map_err(io::Error::other)?;
            set_tcp_user_timeout(&stream, UNREAD.as_millis() as u32)?;
            Ok(Extension(Arc::new(place)).layer(service))
        };
        let accepted = accept();
        ready(accepted.map(|service| (stream, service)))
    }
}
