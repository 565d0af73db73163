//! Profiles sent to real programs and to servers that apply the rules of those that cannot be had: what arrives is what was sampled.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use luaflame::daemon::config::{ClientTls, Export, Protocol};
use luaflame::export::endpoint::{Endpoint, Outcome, endpoint};
use luaflame::format::pprof;
use luaflame::profile::view::Lines;
use luaflame::profile::window::{Identity, ProcessProfile, Window, merged};
use luaflame::profile::{Frame, FrameKind, Origin, Profile, State};
use luaflame_tests::receivers::collector::Collector;
use luaflame_tests::receivers::parca::Parca;
use luaflame_tests::receivers::pprof_tool::pprof as pprof_tool;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::runtime::{self, Runtime};
use tonic::Status;
use tonic::transport::{Certificate, Identity as TlsIdentity, ServerTlsConfig};

use crate::{Test, test};

/// Those of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("exports/otlp_grpc_reaches_a_real_collector", || reaches_the_collector(Protocol::OtlpGrpc)),
        test("exports/otlp_http_reaches_a_real_collector", || reaches_the_collector(Protocol::OtlpHttp)),
        test("exports/parca_takes_what_is_sent", parca_takes_what_is_sent),
        test("exports/a_status_of_grpc_decides_what_becomes_of_a_profile", statuses),
        test("exports/grpc_is_spoken_over_tls_with_certificates_of_both_sides", mutual_tls),
        test("exports/what_does_not_answer_in_grpc_may_do_so_later", not_grpc),
        test("exports/the_real_pprof_reads_what_is_written", the_real_pprof),
    ]
}

const PERIOD: i64 = 1_000_000_000 / 19;

/// The samples of a process: each stack, leaf first, with its number.
type Stacks = BTreeMap<Vec<String>, i64>;

fn frame(kind: FrameKind, name: &str, file: Option<&str>, line: u32) -> Frame {
    let file = file.map(Into::into);
    Frame { kind, name: Some(name.into()), file, first_line: line, line: line + 1, unresolved: false }
}

/// A worker with names that mean something elsewhere.
fn process(pid: u32, factor: u64) -> ProcessProfile {
    let mut profile = Profile::default();
    profile.meta.frequency = 19;
    profile.meta.event = "cpu-clock".into();
    profile.threads.insert((pid, pid), "nginx".into());
    let main = profile.frame(frame(FrameKind::Native, "main", Some("nginx"), 0));
    let handle = profile.frame(frame(FrameKind::Interpreted, "handle", Some("/srv/app.lua"), 12));
    let compiled = profile.frame(frame(FrameKind::Compiled, "handle", Some("/srv/app.lua"), 12));
    let odd = profile.frame(frame(FrameKind::Builtin, "</script>\u{1b}[2J \u{202e}'\"\n漢字", None, 0));
    let kernel = profile.frame(frame(FrameKind::Kernel, "vfs_read", None, 0));
    let origin = |state| Origin { pid, tid: pid, vm: 0x7f00_0000_1000, state };
    profile.add(origin(State::Interpreter), &[main, handle], 3 * factor);
    profile.add(origin(State::Compiled), &[main, compiled], 4 * factor);
    profile.add(origin(State::Interpreter), &[main, handle, odd], 2 * factor);
    profile.add(Origin { vm: 0, ..origin(State::Outside) }, &[main, kernel], factor);
    let labels = [("cluster".to_owned(), "west".to_owned())].into();
    let identity = Identity {
        pid,
        started: 1,
        command: "nginx".into(),
        service: "shop".into(),
        container: Some("0123456789ab".into()),
        namespace: Some("web".into()),
        worker: Some(pid - 100),
        labels,
    };
    ProcessProfile { identity: Arc::new(identity), profile }
}

fn window() -> Window {
    Window { started: SystemTime::now(), seconds: 15.0, processes: vec![process(100, 1), process(101, 10)] }
}

/// What must arrive of a process.
fn expected(factor: i64) -> Stacks {
    let stack = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let handle = "handle (/srv/app.lua:12)";
    let odd = "</script>\\u{1b}[2J \\u{202e}'\"\\n漢字";
    [
        (stack(&[handle, "main"]), 7 * factor),
        (stack(&[odd, handle, "main"]), 2 * factor),
        (stack(&["vfs_read", "main"]), factor),
    ]
    .into()
}

fn config(protocol: Protocol, url: String) -> Export {
    Export {
        name: "tested".into(),
        protocol,
        url,
        path: None,
        headers: BTreeMap::new(),
        header_files: BTreeMap::new(),
        token_file: None,
        tenant: None,
        timeout: Duration::from_secs(10),
        tls: ClientTls::default(),
    }
}

/// Sends what an endpoint makes of a window.
fn send(endpoint: &dyn Endpoint, window: &Window) -> Result<Outcome> {
    let processes: Vec<_> = window.processes.iter().collect();
    let mut encoded = endpoint.encode(window, &processes);
    ensure!(encoded.left_out == 0 && encoded.bodies.len() == 1, "{} bodies", encoded.bodies.len());
    let body = encoded.bodies.pop().context("there is one")?;
    send_body(endpoint, body)
}

fn send_body(endpoint: &dyn Endpoint, body: Vec<u8>) -> Result<Outcome> {
    // Connections are those of the runtime that they were made in.
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            RUNTIME.get_or_init(|| runtime)
        }
    };
    Ok(runtime.block_on(endpoint.send(body.into())))
}

fn reaches_the_collector(protocol: Protocol) -> Result<()> {
    let collector = Collector::start()?;
    let url = if protocol == Protocol::OtlpGrpc { collector.grpc() } else { collector.http() };
    let endpoint = endpoint(&config(protocol, url))?;
    let window = window();
    let outcome = send(&*endpoint, &window)?;
    ensure!(outcome == Outcome::Taken { rejected: 0, why: None }, "{outcome:?}\n{}", collector.log());
    let passed_on = collector.passed_on();
    let [request] = &*passed_on else { bail!("{} requests were passed on", passed_on.len()) };
    for (index, (pid, factor)) in [(100, 1), (101, 10)].into_iter().enumerate() {
        let (attributes, stacks) = understood(request, index)?;
        ensure!(stacks == expected(factor), "{stacks:#?}");
        let known = [
            ("cluster", "west"),
            ("container.id", "0123456789ab"),
            ("k8s.namespace.name", "web"),
            ("process.command", "nginx"),
            ("process.pid", &pid.to_string()),
            ("service.name", "shop"),
            ("worker", &(pid - 100).to_string()),
        ];
        let known: BTreeMap<_, _> = known.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        ensure!(attributes == known, "{attributes:#?}");
    }
    Ok(())
}

/// The attributes and the samples of one of the resources of a request.
fn understood(request: &ExportProfilesServiceRequest, index: usize) -> Result<(BTreeMap<String, String>, Stacks)> {
    let dictionary = request.dictionary.as_ref().context("there is no dictionary")?;
    let resource = request.resource_profiles.get(index).context("a resource is missing")?;
    let mut attributes = BTreeMap::new();
    for attribute in &resource.resource.as_ref().context("a resource is empty")?.attributes {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => bail!("{}: {other:?}", attribute.key),
        };
        attributes.insert(attribute.key.clone(), value);
    }
    let scope = resource.scope_profiles.first().context("a scope is missing")?;
    ensure!(scope.scope.as_ref().is_some_and(|scope| scope.name == "luaflame"), "{:?}", scope.scope);
    let profile = scope.profiles.first().context("a profile is missing")?;
    ensure!(profile.period == PERIOD && profile.duration_nano == 15_000_000_000, "{}", profile.period);
    let mut stacks = Stacks::new();
    for sample in &profile.samples {
        let stack = &dictionary.stack_table[sample.stack_index as usize];
        let name = |location: &i32| {
            let line = dictionary.location_table[*location as usize].lines[0];
            let function = dictionary.function_table[line.function_index as usize];
            dictionary.string_table[function.name_strindex as usize].clone()
        };
        *stacks.entry(stack.location_indices.iter().map(name).collect()).or_default() += sample.values[0];
    }
    Ok((attributes, stacks))
}

fn parca_takes_what_is_sent() -> Result<()> {
    let parca = Parca::start()?;
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    fs::write(&token, "first\n")?;
    let mut config = config(Protocol::Parca, format!("http://{}", parca.address()));
    config.token_file = Some(token.clone());
    config.tenant = Some("tenant-1".into());
    let endpoint = endpoint(&config)?;
    let window = window();
    for word in ["first", "second"] {
        fs::write(&token, word)?;
        let outcome = send(&*endpoint, &window)?;
        ensure!(outcome == Outcome::Taken { rejected: 0, why: None }, "{outcome:?}");
        let metadata = parca.metadata();
        let told = |name| metadata.first().and_then(|metadata| metadata.get(name)).map(|value| value.to_str());
        ensure!(told("authorization").transpose()? == Some(&*format!("Bearer {word}")), "{metadata:?}");
        ensure!(told("x-scope-orgid").transpose()? == Some("tenant-1"), "{metadata:?}");

        let series = parca.taken();
        ensure!(series.len() == 2 && series.iter().all(|series| series.name == "process_cpu"), "{series:?}");
        for (series, (pid, factor)) in series.iter().zip([("100", 1), ("101", 10)]) {
            ensure!(series.labels["pid"] == pid && series.labels["service_name"] == "shop", "{:?}", series.labels);
            let [profile] = &*series.profiles else { bail!("{} profiles", series.profiles.len()) };
            let types = [
                "process_cpu:samples:count:cpu:nanoseconds:delta",
                "process_cpu:cpu:nanoseconds:cpu:nanoseconds:delta",
            ];
            ensure!(profile.types == types, "{:?}", profile.types);
            let mut stacks = Stacks::new();
            for sample in &profile.samples {
                *stacks.entry(sample.stack.clone()).or_default() += sample.values[0];
                ensure!(sample.values[1] == sample.values[0] * PERIOD, "{sample:?}");
                ensure!(!sample.labels.keys().any(|name| name.starts_with("exported_")), "{:?}", sample.labels);
                ensure!(sample.labels["thread"] == "nginx" && sample.labels["tid"] == pid, "{:?}", sample.labels);
            }
            ensure!(stacks == expected(factor), "{stacks:#?}");
        }
    }
    Ok(())
}

fn statuses() -> Result<()> {
    let parca = Parca::start()?;
    let endpoint = endpoint(&config(Protocol::Parca, format!("http://{}", parca.address())))?;
    let window = window();
    for (status, later) in [
        (Status::unavailable("restarting"), true),
        (Status::internal("disk\nfull"), true),
        (Status::unauthenticated("token has expired"), true),
        (Status::resource_exhausted("slow down"), true),
        (Status::resource_exhausted("grpc: received message larger than max (9 vs. 8)"), false),
        (Status::invalid_argument("invalid profile"), false),
        (Status::unimplemented("unknown service"), false),
    ] {
        parca.answer_next(status.clone());
        let outcome = send(&*endpoint, &window)?;
        let is_as_it_should = match &outcome {
            Outcome::Later { status: code, .. } => later && *code == format!("{:?}", status.code()),
            Outcome::Refused { status: code, .. } => !later && *code == format!("{:?}", status.code()),
            Outcome::Taken { .. } => false,
        };
        ensure!(is_as_it_should, "{status:?} has become {outcome:?}");
    }
    let outcome = send(&*endpoint, &window)?;
    ensure!(matches!(outcome, Outcome::Taken { .. }) && parca.taken().len() == 2, "{outcome:?}");

    // The receiver has rules.
    let outcome = send_body(&*endpoint, b"\x12\x02\x0a\x00".to_vec())?;
    ensure!(matches!(&outcome, Outcome::Refused { why, .. } if why.contains("__name__")), "{outcome:?}");
    Ok(())
}

fn mutual_tls() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: String| -> Result<_> {
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let signed = |name: &str| -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &authority)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let (server, client) = (signed("localhost")?, signed("agent")?);
    let tls = ServerTlsConfig::new()
        .identity(TlsIdentity::from_pem(&server.0, &server.1))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let parca = Parca::start_tls(tls)?;
    let url = format!("https://localhost:{}", parca.address().rsplit_once(':').context("no port")?.1);
    let window = window();

    let mut config = config(Protocol::Parca, url);
    config.tls.ca_file = Some(write("ca.pem", authority.pem())?);
    let outcome = send(&*endpoint(&config)?, &window)?;
    ensure!(matches!(outcome, Outcome::Later { .. }), "taken without a certificate of ours: {outcome:?}");
    config.tls.certificate_file = Some(write("client.pem", client.0)?);
    config.tls.key_file = Some(write("client.key", client.1)?);
    let outcome = send(&*endpoint(&config)?, &window)?;
    ensure!(matches!(outcome, Outcome::Taken { .. }) && parca.taken().len() == 2, "{outcome:?}");
    config.tls.ca_file = None;
    let outcome = send(&*endpoint(&config)?, &window)?;
    ensure!(matches!(outcome, Outcome::Later { .. }), "a server that nobody vouches for was believed: {outcome:?}");
    Ok(())
}

/// A server that reads what it is sent and answers each connection with this.
fn answering(answer: &'static [u8]) -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(answer);
            // Nothing is answered until the other side gives up.
            while answer.is_empty() && connection.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {}
        }
    });
    Ok(address)
}

fn not_grpc() -> Result<()> {
    let window = window();
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
    for (what, address) in [
        ("connection", gone),
        ("connection", answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?),
        ("connection", answering(&[0xff; 4096])?),
        ("timeout", answering(b"")?),
    ] {
        let mut config = config(Protocol::OtlpGrpc, format!("http://{address}"));
        config.timeout = Duration::from_secs(1);
        let outcome = send(&*endpoint(&config)?, &window)?;
        ensure!(matches!(&outcome, Outcome::Later { status, .. } if status == what), "{what} has become {outcome:?}");
    }
    Ok(())
}

fn the_real_pprof() -> Result<()> {
    let window = window();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.pb.gz");
    let profile = merged(&window.processes);
    pprof::write(&profile, Lines::Both, &mut File::create(&file)?)?;

    let traces = pprof_tool(&["-traces", "-sample_index=samples"], &file)?;
    let mut stacks = Stacks::new();
    // The first piece says what the file is.
    for piece in traces.split("-----------+").skip(1) {
        let mut stack = Vec::new();
        let mut count = 0;
        for line in piece.lines().filter(|line| !line.contains("---")) {
            // A label is `name:  value`, and the count stands before the leaf.
            let line = line.trim();
            match line.split_once("   ") {
                Some((number, leaf)) if number.parse::<i64>().is_ok() => {
                    count = number.parse()?;
                    stack.push(leaf.trim().to_owned());
                }
                _ if !stack.is_empty() && !line.is_empty() => stack.push(line.to_owned()),
                _ => {}
            }
        }
        if !stack.is_empty() {
            *stacks.entry(stack).or_default() += count;
        }
    }
    ensure!(stacks == expected(11), "{stacks:#?}\nof\n{traces}");
    let top = pprof_tool(&["-top", "-sample_index=samples"], &file)?;
    ensure!(top.contains("110 total"), "{top}");
    let raw = pprof_tool(&["-raw"], &file)?;
    ensure!(raw.contains("service_name:[shop]") && raw.contains("state:[compiled]"), "{raw}");
    Ok(())
}
