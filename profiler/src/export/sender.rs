//! One endpoint at work: windows come in, become requests that wait in a queue, and are sent one after the other.
//!
//! There are two tasks, which meet in the queue only. Whatever the endpoint does, windows are taken in; whatever the
//! disk
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

    /// Ends: all that was pushed is put into the queue, and is sent as far as there is time until the deadline. The
    /// rest stays
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
    let (mut backoff, mut is_refusing) = (Backoff::default(), false);
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
        match attempt(&shared, &*endpoint, body, &mut is_refusing).await {
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

/// Sends one request, and says why and for how long not to try it again if it has to wait. `is_refusing` is whether the last one was
/// refused: what refuses one may refuse all, which is counted, and told once.
async fn attempt(
    shared: &Arc<Shared>,
    endpoint: &dyn Endpoint,
    body: Bytes,
    is_refusing: &mut bool,
) -> Option<(String, Option<Duration>)> {
    let (name, metrics, bytes) = (shared.metrics.endpoint(), &shared.metrics, body.len());
    match endpoint.send(body).await {
        Outcome::Taken { rejected, why } => {
            *is_refusing = false;
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
            let level = if std::mem::replace(is_refusing, true) { log::Level::Debug } else { log::Level::Error };
            log::log!(level, "Export to {name}: a request is dropped, since the endpoint refuses it: {why}");
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
    /// Twice as long each time, as it comes out by chance up to its half less, so that not all hosts come at the
    /// same moment; and never
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::path::{Path, PathBuf};
    use std::time::SystemTime;

    use super::*;
    use crate::export::endpoint::Sending;
    use crate::export::metrics::ExportMetrics;
    use crate::profile::window::{Identity, ProcessProfile};

    const NAME: &str = "test";
    const LIMITS: Limits = Limits { disk: 1 << 20, memory: 1 << 20, age: Duration::from_hours(1) };

    /// It answers what it has been told to, and after that takes everything.
    #[derive(Debug, Default)]
    struct Told {
        answers: Mutex<VecDeque<Outcome>>,
        /// What was sent, and when.
        asked: Mutex<Vec<(String, Instant)>>,
        /// It never answers.
        is_stuck: bool,
    }

    impl Told {
        fn answering(answers: impl Into<VecDeque<Outcome>>) -> Arc<Told> {
            Arc::new(Told { answers: Mutex::new(answers.into()), ..Told::default() })
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().iter().map(|(body, _)| body.clone()).collect()
        }

        /// The time between attempts.
        fn pauses(&self) -> Vec<Duration> {
            self.asked.lock().unwrap().windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
        }
    }

    impl Endpoint for Told {
        fn encode(&self, _: &Window, processes: &[&ProcessProfile]) -> Encoded {
            let bodies = processes.iter().map(|process| process.identity.service.clone().into_bytes());
            Encoded { bodies: bodies.collect(), left_out: 0 }
        }

        fn send<'a>(&'a self, body: Bytes) -> Sending<'a> {
            Box::pin(async move {
                self.asked.lock().unwrap().push((String::from_utf8(body.to_vec()).unwrap(), Instant::now()));
                if self.is_stuck {
                    std::future::pending::<()>().await;
                }
                let answer = self.answers.lock().unwrap().pop_front();
                answer.unwrap_or(Outcome::Taken { rejected: 0, why: None })
            })
        }
    }

    fn later(after: Option<u64>) -> Outcome {
        Outcome::Later { status: "503".into(), why: "too much".into(), after: after.map(Duration::from_secs) }
    }

    fn window(services: &[&str]) -> Arc<Window> {
        let process = |service: &&str| ProcessProfile {
            identity: Arc::new(Identity { service: (*service).to_owned(), ..Identity::default() }),
            profile: crate::profile::Profile::default(),
        };
        let processes = services.iter().map(process).collect();
        Arc::new(Window { started: SystemTime::now(), seconds: 15.0, processes })
    }

    fn start(endpoint: Arc<dyn Endpoint>, directory: Option<&Path>) -> (Sender, ExportMetrics) {
        let all = ExportMetrics::default();
        let metrics = all.of(NAME);
        let now = Instant::now().into_std();
        let directory = directory.map(Path::to_owned);
        let queue = Queue::open(directory, "pyroscope", LIMITS, metrics.clone(), now).unwrap();
        (Sender::start(endpoint, queue, metrics), all)
    }

    async fn until(condition: impl Fn() -> bool) {
        let waited = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_hours(10), waited).await.expect("it does not happen");
    }

    fn in_an_hour() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_sent_is_sent_in_order_with_growing_pauses() {
        let endpoint = Told::answering(vec![later(None); 9]);
        let (sender, metrics) = start(endpoint.clone(), None);
        sender.push(window(&["a", "b"]));
        sender.push(window(&["c"]));
        until(|| metrics.of(NAME).taken() == 3).await;
        let asked = endpoint.asked();
        assert_eq!(asked, ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "b", "c"]);
        for (pause, longest) in endpoint.pauses().iter().zip([2, 4, 8, 16, 32, 60, 60, 60, 60]) {
            let longest = Duration::from_secs(longest);
            assert!(*pause >= longest / 2 && *pause < longest + Duration::from_secs(1), "{pause:?} of {longest:?}");
        }
        sender.finish(in_an_hour(), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_says_how_long_to_wait_and_not_more_than_five_minutes() {
        let endpoint = Told::answering([later(Some(100)), later(Some(1_000_000)), later(Some(0))]);
        let (sender, metrics) = start(endpoint.clone(), None);
        sender.push(window(&["a"]));
        until(|| metrics.of(NAME).taken() == 1).await;
        let pauses: Vec<_> = endpoint.pauses().iter().map(Duration::as_secs).collect();
        assert_eq!(pauses[..2], [100, 300]);
        assert!((4..=8).contains(&pauses[2]), "{pauses:?}");
        sender.finish(in_an_hour(), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_dropped_and_counted_and_the_next_is_sent() {
        let refused = Outcome::Refused { status: "400".into(), why: "no".into() };
        let endpoint = Told::answering([refused, Outcome::Taken { rejected: 2, why: Some("bad".into()) }]);
        let (sender, metrics) = start(endpoint.clone(), None);
        sender.push(window(&["a", "b"]));
        until(|| metrics.of(NAME).taken() == 1).await;
        assert_eq!((endpoint.asked(), metrics.dropped(NAME, Reason::Refused)), (vec!["a".into(), "b".into()], 1));
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"luaflame_export_sent_total{endpoint="test"} 1"#,
            r#"luaflame_export_sent_bytes_total{endpoint="test"} 1"#,
            r#"luaflame_export_answers_total{endpoint="test",status="400"} 1"#,
            r#"luaflame_export_dropped_total{endpoint="test",reason="refused"} 1"#,
            r#"luaflame_export_rejected_parts_total{endpoint="test"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        sender.finish(in_an_hour(), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_windows_are_dropped_and_counted_and_nobody_waits() {
        let endpoint = Told::answering([]);
        let (sender, metrics) = start(endpoint.clone(), None);
        // On this runtime no task runs meanwhile.
        for _ in 0..10 {
            sender.push(window(&["a", "b"]));
        }
        assert_eq!(metrics.dropped(NAME, Reason::Busy), 2 * (10 - WINDOWS as u64));
        sender.finish(in_an_hour(), true).await;
        assert_eq!(endpoint.asked().len(), 2 * WINDOWS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_in_time_and_the_rest_is_sent_after_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let stuck = Arc::new(Told { is_stuck: true, ..Told::default() });
        let (sender, metrics) = start(stuck.clone(), Some(directory.path()));
        sender.push(window(&["a", "b", "c"]));
        let before = Instant::now();
        sender.finish(before + Duration::from_secs(10), true).await;
        assert_eq!(before.elapsed().as_secs(), 10);
        assert_eq!((stuck.asked(), metrics.dropped(NAME, Reason::Stopped)), (vec!["a".to_owned()], 0));

        let endpoint = Told::answering([]);
        let (sender, metrics) = start(endpoint.clone(), Some(directory.path()));
        until(|| metrics.of(NAME).taken() == 3).await;
        assert_eq!(endpoint.asked(), ["a", "b", "c"]);
        sender.finish(in_an_hour(), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_a_pause_and_what_is_in_no_spool_is_counted_as_lost() {
        let endpoint = Told::answering(vec![later(Some(300)); 2]);
        let (sender, metrics) = start(endpoint.clone(), None);
        sender.push(window(&["a", "b"]));
        until(|| endpoint.asked().len() == 1).await;
        sender.finish(Instant::now() + Duration::from_secs(10), true).await;
        assert_eq!((endpoint.asked().len(), metrics.dropped(NAME, Reason::Stopped)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_endpoint_is_sent_to_at_once() {
        let (down, up) = (Told::answering(vec![later(Some(300)); 2]), Told::answering([]));
        let (sender, metrics) = start(down.clone(), None);
        sender.push(window(&["a"]));
        until(|| down.asked().len() == 1).await;
        let before = Instant::now();
        sender.change(up.clone(), "pyroscope", LIMITS).await;
        until(|| metrics.of(NAME).taken() == 1).await;
        assert!(before.elapsed() < Duration::from_secs(1));
        assert_eq!(up.asked(), ["a"]);
        sender.finish(in_an_hour(), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_spool_that_is_a_file_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("spool");
        std::fs::write(&path, "").unwrap();
        let endpoint = Told::answering([]);
        let (sender, metrics) = start(endpoint.clone(), Some(&path));
        sender.push(window(&["a", "b"]));
        until(|| metrics.of(NAME).taken() == 2).await;
        sender.finish(in_an_hour(), true).await;
    }
}
