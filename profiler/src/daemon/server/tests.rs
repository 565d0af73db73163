//! The server as its clients see it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use flate2::read::GzDecoder;
use prost::Message;
use reqwest::{Client, Response, StatusCode};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::format::pprof::message;
use crate::profile::window::ProcessProfile;
use crate::profile::{Frame, FrameKind, Origin, Profile};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A server at work, and what the rest of the daemon would tell it.
struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    state: watch::Sender<sampler::State>,
    _processes: watch::Sender<Vec<Arc<Identity>>>,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
    client: Client,
}

fn listen(change: impl FnOnce(&mut Listen)) -> Listen {
    let mut config = Listen { address: ([127, 0, 0, 1], 0).into(), ..Listen::default() };
    change(&mut config);
    config
}

fn identity(pid: u32, service: &str) -> Arc<Identity> {
    Arc::new(Identity { pid, service: service.to_owned(), command: "nginx".to_owned(), ..Identity::default() })
}

impl Running {
    fn start(config: &Listen) -> Running {
        // The client wants one to be chosen; that another test has done so is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = Server::bind(config).unwrap();
        let (state, known) = watch::channel(sampler::State::Sampling);
        let (living, processes) = watch::channel(vec![identity(7, "shop"), identity(8, "search")]);
        let shared = Arc::new(Shared {
            slices: broadcast::channel(2).0,
            processes,
            store: None,
            metrics: Arc::new(Registry::default()),
            state: known,
        });
        let (stop, stopped) = oneshot::channel();
        let address = server.address();
        let serving = tokio::spawn(server.serve(Arc::clone(&shared), async {
            let _ = stopped.await;
        }));
        Running { address, shared, state, _processes: living, stop, serving, client: Client::new() }
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap()
    }

    async fn refusal(&self, path: &str) -> (u16, String) {
        let response = self.get(path).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until so many profiles are being pulled.
    async fn pulls(&self, count: usize) {
        while self.shared.slices.receiver_count() < count {
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap().unwrap();
    }
}

/// A second in which each of these processes had so many samples.
fn slice(samples: &[(&Arc<Identity>, u64)]) -> Arc<Window> {
    let of = |identity: &Arc<Identity>, count| {
        let mut profile = Profile::default();
        let frame = Frame {
            kind: FrameKind::Native,
            name: Some("main".into()),
            file: None,
            first_line: 0,
            line: 0,
            unresolved: false,
        };
        let id = profile.frame(frame);
        profile.add(Origin { pid: identity.pid, tid: identity.pid, ..Origin::default() }, &[id], count);
        profile.counters.samples = count;
        profile.meta.frequency = 19;
        ProcessProfile { identity: Arc::clone(identity), profile }
    };
    let processes = samples.iter().map(|(identity, count)| of(identity, *count)).collect();
    Arc::new(Window { started: SystemTime::now(), seconds: 1.0, processes })
}

async fn decoded(response: Response) -> message::Profile {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let mut bytes = Vec::new();
    GzDecoder::new(&*response.bytes().await.unwrap()).read_to_end(&mut bytes).unwrap();
    message::Profile::decode(&*bytes).unwrap()
}

fn samples(profile: &message::Profile) -> i64 {
    profile.sample.iter().map(|sample| sample.value[0]).sum()
}

fn comments(profile: &message::Profile) -> String {
    let texts: Vec<&str> = profile.comment.iter().map(|&at| &*profile.string_table[at as usize]).collect();
    texts.join("\n")
}

fn token_file(folder: &Path, token: &str) -> std::path::PathBuf {
    let path = folder.join("token");
    fs::write(&path, format!("{token}\n")).unwrap();
    path
}

#[tokio::test]
async fn what_is_pulled_is_what_was_sampled_since() {
    let server = Running::start(&listen(|_| {}));
    let (shop, search) = (identity(7, "shop"), identity(8, "search"));
    let pull = async |path: &str| {
        let (response, ()) = tokio::join!(server.get(path), async {
            server.pulls(1).await;
            for _ in 0..2 {
                server.shared.slices.send(slice(&[(&shop, 10), (&search, 3)])).unwrap();
            }
        });
        decoded(response).await
    };
    let profile = pull("/debug/pprof/profile?seconds=2").await;
    assert_eq!((samples(&profile), profile.duration_nanos), (26, 2_000_000_000));
    assert_eq!(samples(&pull("/debug/pprof/profile?seconds=2&service=shop").await), 20);
    assert_eq!(samples(&pull("/debug/pprof/profile?seconds=2&pid=8").await), 6);
    server.stop().await;
}

#[tokio::test]
async fn a_pull_without_samples_is_a_profile_too_and_ends_with_the_daemon() {
    let server = Running::start(&listen(|_| {}));
    let pulling =
        tokio::spawn(server.client.get(format!("http://{}/debug/pprof/profile?seconds=300", server.address)).send());
    server.pulls(1).await;
    server.stop().await;
    let profile = decoded(pulling.await.unwrap().unwrap()).await;
    assert_eq!(samples(&profile), 0);
    assert_eq!(profile.string_table.first().map(String::as_str), Some(""));
}

#[tokio::test]
async fn slices_that_were_missed_are_told() {
    let server = Running::start(&listen(|_| {}));
    let shop = identity(7, "shop");
    let (response, ()) = tokio::join!(server.get("/debug/pprof/profile?seconds=5"), async {
        server.pulls(1).await;
        // More at once than wait for anybody, without letting the server run.
        for _ in 0..5 {
            server.shared.slices.send(slice(&[(&shop, 1)])).unwrap();
        }
    });
    let profile = decoded(response).await;
    assert_eq!(samples(&profile), 2);
    assert!(comments(&profile).contains("3 seconds are missing"), "{}", comments(&profile));
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_pulled_is_refused_in_words() {
    let server = Running::start(&listen(|_| {}));
    for (path, status, word) in [
        ("seconds=0", 400, "from 1 to 300"),
        ("seconds=301", 400, "from 1 to 300"),
        ("seconds=-1", 400, "number"),
        ("seconds=1&pid=x", 400, "number"),
        ("seconds=1&pid=9", 404, "no process 9"),
        ("seconds=1&service=shop&pid=8", 404, "of this service"),
        ("seconds=1&service=%3Cscript%3E", 404, "no process of this service"),
    ] {
        let (got, text) = server.refusal(&format!("/debug/pprof/profile?{path}")).await;
        assert!(got == status && text.contains(word), "{path}: {got} {text}");
    }
    server.state.send_replace(sampler::State::SwitchedOff("/run/luaflame/off".into()));
    let (status, text) = server.refusal("/debug/pprof/profile?seconds=1").await;
    assert!(status == 503 && text.contains("/run/luaflame/off"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn only_so_many_profiles_are_pulled_at_once() {
    let server = Running::start(&listen(|_| {}));
    let url = format!("http://{}/debug/pprof/profile?seconds=300", server.address);
    let pulling: Vec<_> = (0..PULLS).map(|_| tokio::spawn(server.client.get(&url).send())).collect();
    server.pulls(PULLS).await;
    let (status, text) = server.refusal("/debug/pprof/profile?seconds=1").await;
    assert!(status == 503 && text.contains("already"), "{text}");
    server.stop().await;
    for pulled in pulling {
        decoded(pulled.await.unwrap().unwrap()).await;
    }
}

#[tokio::test]
async fn health_is_told_to_everybody_and_nothing_else_without_the_token() {
    let folder = TempDir::new().unwrap();
    let server = Running::start(&listen(|config| config.token_file = Some(token_file(folder.path(), TOKEN))));
    assert_eq!(server.refusal("/healthz").await, (200, "ok\n".to_owned()));
    server.state.send_replace(sampler::State::Failed("the probe is gone".to_owned()));
    assert_eq!(server.refusal("/healthz").await, (503, "not ok\n".to_owned()));
    for path in ["/", "/page.js", "/metrics", "/api/services", "/debug/pprof/profile", "/nothing"] {
        let response = server.get(path).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    }
    let url = format!("http://{}/metrics", server.address);
    let with = async |token: &str| {
        let bearer = server.client.get(&url).bearer_auth(token).send().await.unwrap().status();
        let basic = server.client.get(&url).basic_auth("anybody", Some(token)).send().await.unwrap().status();
        (bearer.as_u16(), basic.as_u16())
    };
    assert_eq!(with(TOKEN).await, (200, 200));
    assert_eq!(with(&TOKEN[1..]).await, (401, 401));
    assert_eq!(with("").await, (401, 401));
    server.stop().await;
}

#[tokio::test]
async fn names_of_other_hosts_are_refused_on_this_one() {
    let server = Running::start(&listen(|_| {}));
    let as_host = async |host: &str| {
        let request = server.client.get(format!("http://{}/metrics", server.address)).header("host", host);
        request.send().await.unwrap().status().as_u16()
    };
    for host in ["localhost", "LOCALHOST:7117", "127.0.0.1:1", "[::1]:7117", "[::1]"] {
        assert_eq!(as_host(host).await, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example:7117", "127.0.0.1.evil.example", "evil.example:127"] {
        assert_eq!(as_host(host).await, 403, "{host}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let server = Running::start(&listen(|_| {}));
    for path in
        ["/", "/page.css", "/page.js", "/graph.js", "/icon.svg", "/healthz", "/metrics", "/nothing", "/flame.svg"]
    {
        let response = server.get(path).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(!header("content-security-policy").contains("unsafe-inline"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
    }
    assert_eq!(server.client.post(format!("http://{}/", server.address)).send().await.unwrap().status(), 405);
    server.stop().await;
}

#[tokio::test]
async fn who_says_nothing_or_too_much_is_sent_away() {
    let server = Running::start(&listen(|_| {}));
    let address = server.address;
    let closed = tokio::task::spawn_blocking(move || {
        // More than there is room for: those that came too late are closed, and nobody else.
        let silent: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut late = silent.last().unwrap();
        let closed = late.read(&mut [0; 1]);
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        drop(silent);
        let mut long = TcpStream::connect(address).unwrap();
        let _ = write!(long, "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
        let mut answer = String::new();
        let _ = long.read_to_string(&mut answer);
        answer
    });
    let answer = closed.await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop().await;
}

#[test]
fn a_server_that_would_be_open_to_everybody_is_refused() {
    let folder = TempDir::new().unwrap();
    let refused = |change: &dyn Fn(&mut Listen)| format!("{:#}", check(&listen(change)).unwrap_err());
    let open = |config: &mut Listen| config.address = ([0, 0, 0, 0], 0).into();
    assert!(refused(&open).contains("nothing says who may ask"));
    check(&listen(|config| (config.enabled, config.address) = (false, ([0, 0, 0, 0], 0).into()))).unwrap();
    let token = token_file(folder.path(), TOKEN);
    check(&listen(|config| (config.address, config.token_file) = (([0, 0, 0, 0], 0).into(), Some(token.clone()))))
        .unwrap();
    token_file(folder.path(), "short");
    assert!(refused(&|config| config.token_file = Some(token.clone())).contains("holds no token"));
    assert!(refused(&|config| config.token_file = Some("/nowhere".into())).contains("/nowhere"));
    assert!(refused(&|config| config.key_file = Some("/nowhere".into())).contains("belong together"));
    assert!(refused(&|config| config.client_ca_file = Some("/nowhere".into())).contains("needs certificate_file"));
    let both = |config: &mut Listen| {
        (config.certificate_file, config.key_file) = (Some(token.clone()), Some(token.clone()));
    };
    assert!(refused(&both).contains("holds no certificate"));
}
