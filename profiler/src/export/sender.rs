//! One endpoint at work: windows come in, become requests that wait in a queue, and are sent one after the other.
//!
//! There are two tasks, which meet in the queue only. Whatever the endpoint does, windows are taken in; whatever the disk
//! does, nobody waits who samples: what is too much is dropped and counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::Instant;

use super::endpoint::{Encoded, Endpoint, Outcome};
use super::http::LONGEST_WAIT;
use super::metrics::{EndpointMetrics, Reason};
use super::queue::{Limits, Queue};
use crate::profile::window::Window;

/// Windows that wait to be encoded.
const WINDOWS: usize = 4;

/// The shortest and the longest time between two attempts, where the endpoint does not ask for another.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// One endpoint at work. It ends when it is dropped; what is in the spool stays there.
#[derive(Debug)]
pub struct Sender {
    windows: mpsc::Sender<Arc<Window>>,
    shared: Arc<Shared>,
    intake: JoinHandle<()>,
    /// One task, which ends with the set.
    sending: JoinSet<()>,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was pushed.
    pushed: Notify,
    endpoint: watch::Sender<Arc<dyn Endpoint>>,
    /// No more will be pushed: the sending task ends when all is sent.
    is_last: watch::Sender<bool>,
    metrics: EndpointMetrics,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic while it was locked has been told; what is in the spool is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the queue, which may wait for the disk.
    async fn with_queue<T: Send + 'static>(
        self: &Arc<Shared>,
        work: impl FnOnce(&mut Queue, std::time::Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (shared, now) = (Arc::clone(self), Instant::now().into_std());
        spawn_blocking(move || work(&mut shared.queue(), now)).await.ok()
    }
}

impl Sender {
    /// Starts to send what is in a queue, and what will be.
    pub fn start(endpoint: Arc<dyn Endpoint>, queue: Queue, metrics: EndpointMetrics) -> Sender {
        let (windows, incoming) = mpsc::channel(WINDOWS);
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            pushed: Notify::new(),
            endpoint: watch::Sender::new(endpoint),
            is_last: watch::Sender::new(false),
            metrics,
        });
        let intake = tokio::spawn(take_in(Arc::clone(&shared), incoming));
        let mut sending = JoinSet::new();
        sending.spawn(send(Arc::clone(&shared)));
        Sender { windows, shared, intake, sending }
    }

    /// Takes a window, or drops it when there are too many already. Never waits.
    pub fn push(&self, window: Arc<Window>) {
        if let Err(error) = self.windows.try_send(window) {
            let (mpsc::error::TrySendError::Full(window) | mpsc::error::TrySendError::Closed(window)) = error;
            let requests = window.services().len() as u64;
            self.shared.metrics.drop(Reason::Busy, requests);
            log::warn!(
                "Export to {}: a window of {requests} services is dropped, since {WINDOWS} wait to be written already",
                self.shared.metrics.endpoint()
            );
        }
    }

    /// Sends to another endpoint from now on, and with other limits, at once.
    pub async fn change(&self, endpoint: Arc<dyn Endpoint>, protocol: &'static str, limits: Limits) {
        self.shared.with_queue(move |queue, now| queue.set(protocol, limits, now)).await;
        self.shared.endpoint.send_replace(endpoint);
    }

    /// Ends: all that was pushed is put into the queue, and is sent as far as there is time until the deadline. The rest stays
    /// in the spool, which is told.
    pub async fn finish(self, deadline: Instant, is_sent: bool) {
        let Sender { windows, shared, mut intake, mut sending } = self;
        drop(windows);
        if tokio::time::timeout_at(deadline, &mut intake).await.is_err() {
            log::error!(
                "Export to {}: there was no time to write all that was profiled to the spool",
                shared.metrics.endpoint()
            );
            intake.abort();
        }
        if is_sent {
            shared.is_last.send_replace(true);
            if tokio::time::timeout_at(deadline, sending.join_next()).await.is_ok() {
                return;
            }
        }
        sending.shutdown().await;
        // Somebody who waits for a disk that hangs holds the queue.
        let Ok(mut queue) = shared.queue.try_lock() else { return };
        queue.put_back(Instant::now().into_std());
        let ((waiting, _), in_memory) = (queue.waiting(), queue.in_memory());
        shared.metrics.drop(Reason::Stopped, in_memory);
        let (name, in_spool) = (shared.metrics.endpoint(), waiting - in_memory);
        match in_spool {
            0 => {}
            _ => log::warn!("Export to {name}: {in_spool} requests are not sent, and stay in the spool"),
        }
        if in_memory > 0 {
            log::error!(
                "Export to {name}: {in_memory} requests are not sent, and are lost, since they were in no spool"
            );
        }
    }
}

/// Makes requests of windows, and puts them into the queue.
async fn take_in(shared: Arc<Shared>, mut windows: mpsc::Receiver<Arc<Window>>) {
    while let Some(window) = windows.recv().await {
        let endpoint = Arc::clone(&shared.endpoint.borrow());
        let now = Instant::now().into_std();
        let into = Arc::clone(&shared);
        // Encoding takes CPU time, and writing waits for the disk.
        let encoded = spawn_blocking(move || {
            for (_, processes) in window.services() {
                let Encoded { bodies, left_out } = endpoint.encode(&window, &processes);
                into.metrics.left_out(left_out);
                for body in bodies {
                    into.queue().push(body, now);
                }
            }
        });
        if let Err(error) = encoded.await {
            log::error!("Export to {}: a window is lost: {error}", shared.metrics.endpoint());
        }
        shared.pushed.notify_one();
    }
}

/// Sends what is in the queue, in its order.
async fn send(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    let (mut endpoints, mut is_last) = (shared.endpoint.subscribe(), shared.is_last.subscribe());
    loop {
        let Some(body) = shared.with_queue(Queue::take).await.flatten() else {
            if *is_last.borrow_and_update() && shared.queue().waiting().0 == 0 {
                return;
            }
            tokio::select! {
                () = shared.pushed.notified() => {}
                _ = is_last.changed() => {}
            }
            continue;
        };
        let endpoint = Arc::clone(&endpoints.borrow_and_update());
        match attempt(&shared, &*endpoint, body).await {
            None => backoff = Backoff::default(),
            Some((why, after)) => {
                let pause = backoff.next(after);
                if backoff.is_new(&why) {
                    let name = shared.metrics.endpoint();
                    log::warn!(
                        "Export to {name}: {why}. Profiles wait, and are sent again from {pause:.0?} from now on"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // Both are reasons to try at once.
                    _ = endpoints.changed() => {}
                    _ = is_last.changed() => {}
                }
            }
        }
    }
}

/// Sends one request, and says why and for how long not to try it again if it has to wait.
async fn attempt(shared: &Arc<Shared>, endpoint: &dyn Endpoint, body: Bytes) -> Option<(String, Option<Duration>)> {
    let (name, metrics, bytes) = (shared.metrics.endpoint(), &shared.metrics, body.len());
    match endpoint.send(body).await {
        Outcome::Taken { rejected, why } => {
            metrics.answer("ok");
            metrics.sent(bytes, rejected);
            if rejected > 0 || why.is_some() {
                let why = why.unwrap_or_default();
                log::warn!("Export to {name}: a request was taken but for {rejected} parts of it: {why}");
            }
            shared.with_queue(Queue::done).await;
            None
        }
        Outcome::Refused { status, why } => {
            metrics.answer(&status);
            log::error!("Export to {name}: a request is dropped, since the endpoint refuses it: {why}");
            shared.with_queue(Queue::refused).await;
            None
        }
        Outcome::Later { status, why, after } => {
            metrics.answer(&status);
            shared.with_queue(Queue::put_back).await;
            Some((why, after))
        }
    }
}

/// How long to wait between attempts.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
    told: String,
}

impl Backoff {
    /// Twice as long each time, as it comes out by chance up to its half less, so that not all hosts come at the same moment; and never
    /// less than what the endpoint asks for.
    fn next(&mut self, after: Option<Duration>) -> Duration {
        let longest = (PAUSES.0 * 2_u32.saturating_pow(self.attempts + 1)).min(PAUSES.1);
        self.attempts = (self.attempts + 1).min(16);
        let pause = longest.mul_f64(1.0 - fastrand::f64() / 2.0);
        pause.max(after.unwrap_or_default().min(LONGEST_WAIT))
    }

    /// It was another reason the last time.
    fn is_new(&mut self, why: &str) -> bool {
        let is_new = self.told != why;
        why.clone_into(&mut self.told);
        is_new
    }
}
