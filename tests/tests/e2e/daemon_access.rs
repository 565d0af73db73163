//! Who may ask the daemon, where others than this host can.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use luaflame_tests::daemon::{Daemon, LIMIT, OFTEN, prepared};
use luaflame_tests::luaflame::program;
use luaflame_tests::process::wait_until;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Certificate, Client, Identity, StatusCode};
use tempfile::TempDir;
use tokio::runtime;

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("daemon_access::open_to_nobody", open_to_nobody),
        test("daemon_access::with_a_token", with_a_token),
        test("daemon_access::with_a_certificate", with_a_certificate),
    ]
}

/// A daemon's folder and address, whose configuration has it listen on all interfaces, with these settings of `[listen]`, in which
/// `{folder}` is the folder.
fn listening(settings: &str) -> Result<(TempDir, String)> {
    let (folder, address) = prepared(OFTEN, "")?;
    let file = folder.path().join("luaflame.toml");
    let text = fs::read_to_string(&file)?;
    let everywhere = address.replace(&Ipv4Addr::LOCALHOST.to_string(), &Ipv4Addr::UNSPECIFIED.to_string());
    let settings = settings.replace("{folder}", &folder.path().display().to_string());
    let before = format!("address = \"{address}\"\n");
    ensure!(text.contains(&before), "it has no address:\n{text}");
    fs::write(&file, text.replace(&before, &format!("address = \"{everywhere}\"\n{settings}\n")))?;
    Ok((folder, address))
}

fn open_to_nobody() -> Result<()> {
    for settings in ["", "certificate_file = \"{folder}/certificate\"\nkey_file = \"{folder}/key\""] {
        let (folder, address) = listening(settings)?;
        let (authority, _) = authority()?;
        let (certificate, key) = signed(&authority, "localhost")?;
        fs::write(folder.path().join("certificate"), certificate)?;
        fs::write(folder.path().join("key"), key)?;
        let config = folder.path().join("luaflame.toml");
        let checked = Command::new(program()).args(["daemon", "--check-config", "--config"]).arg(&config).output()?;
        let said = String::from_utf8(checked.stderr)?;
        ensure!(!checked.status.success() && said.contains("nothing says who may ask"), "{said}");
        let mut daemon = Daemon::spawn(folder, address, Command::new(program()))?;
        let status = daemon.wait()?;
        ensure!(!status.success() && daemon.log().contains("nothing says who may ask"), "{status}: {}", daemon.log());
    }
    Ok(())
}

fn with_a_token() -> Result<()> {
    let (folder, address) = listening("token_file = \"{folder}/token\"")?;
    fs::write(folder.path().join("token"), "correct-horse-battery\n")?;
    let mut daemon = Daemon::spawn(folder, address, Command::new(program()))?;
    daemon.wait_until("it answers", |daemon| daemon.get("/metrics").is_ok())?;
    for path in ["/", "/metrics", "/debug/pprof/profile?seconds=1"] {
        let answer = daemon.get(path)?;
        ensure!(answer.status == 401, "{path} without a token has status {}", answer.status);
        ensure!(!String::from_utf8_lossy(&answer.body).contains("luaflame_samples"), "it tells something");
    }
    for (token, status) in [("correct-horse-battery", 200), ("correct-horse-batterz", 401), ("", 401)] {
        let bearer = format!("Bearer {token}");
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT)).build().into();
        let answer =
            agent.get(format!("http://{}/metrics", daemon.address())).header("authorization", bearer).call()?;
        ensure!(answer.status().as_u16() == status, "{token:?} has status {}", answer.status());
    }
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    ensure!(!daemon.log().contains("correct-horse"), "the token is in the log");
    Ok(())
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Somebody who signs certificates, and the certificate of that.
fn authority() -> Result<(Authority, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let certificate = authority.pem();
    Ok((authority, certificate))
}

/// A certificate for a name, and its key.
fn signed(authority: &Authority, name: &str) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn with_a_certificate() -> Result<()> {
    let settings =
        ["certificate_file", "key_file", "client_ca_file"].map(|name| format!("{name} = \"{{folder}}/{name}\"\n"));
    let (folder, address) = listening(&settings.concat())?;
    let (authority, authority_file) = authority()?;
    let (certificate, key) = signed(&authority, "localhost")?;
    for (name, text) in [("certificate_file", &certificate), ("key_file", &key), ("client_ca_file", &authority_file)] {
        fs::write(folder.path().join(name), text)?;
    }
    let (_, port) = address.split_once(':').context("it has a port")?;
    let url = format!("https://localhost:{port}/metrics");
    let mut daemon = Daemon::spawn(folder, address.clone(), Command::new(program()))?;

    luaflame::export::credentials::choose_cryptography();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = |identity: Option<(String, String)>| -> Result<(StatusCode, String)> {
        let mut client = Client::builder().no_proxy().timeout(Duration::from_secs(10));
        client = client.tls_certs_only(Certificate::from_pem_bundle(authority_file.as_bytes())?);
        if let Some((certificate, key)) = identity {
            client = client.identity(Identity::from_pem((certificate + &key).as_bytes())?);
        }
        runtime.block_on(async {
            let answer = client.build()?.get(&url).send().await?;
            Ok((answer.status(), answer.text().await?))
        })
    };
    let ours = || signed(&authority, "scraper");
    let mut last = String::new();
    let answers = wait_until(LIMIT, || match ours().and_then(|ours| ask(Some(ours))) {
        Ok((status, text)) => status == StatusCode::OK && text.contains("luaflame_samples"),
        Err(error) => {
            last = format!("{error:?}");
            false
        }
    });
    ensure!(answers, "it does not answer ({last}); it logged:\n{}", daemon.log());
    ensure!(ask(None).is_err(), "it answers somebody without a certificate");
    let (other, _) = self::authority()?;
    ensure!(ask(Some(signed(&other, "scraper")?)).is_err(), "it answers somebody with a certificate of somebody else");
    ensure!(daemon.get("/metrics").is_err(), "it answers without TLS");
    ensure!(ask(Some(ours()?))?.0 == StatusCode::OK, "it does not answer any more");
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    Ok(())
}
