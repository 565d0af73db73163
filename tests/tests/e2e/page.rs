//! The page of the daemon in a real browser, on a store of made-up profiles.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use luaflame::daemon::config::{self, Listen};
use luaflame::daemon::sampler;
use luaflame::daemon::server::{Server, Shared};
use luaflame::daemon::store::Store;
use luaflame::profile::window::{Identity, ProcessProfile, Window};
use luaflame::profile::{Frame, FrameKind, Origin, Profile, State};
use luaflame_tests::browser::{ARGUMENTS, Driver};
use luaflame_tests::paths::target_dir;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot, watch};

use super::{Test, test};

/// How long the page may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Windows of the store: the last hour, and an hour before it that is slower.
const WINDOWS: u64 = 480;
/// Names that would be more than names on a page that is not careful.
const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)>",
    "]]></script><svg onload='alert(3)'>",
    "javascript:alert(4)//&amp;\\u003cscript\\u003e",
    "\u{202e}gnirts\u{2066} right to left",
    "very_long_name_that_goes_on_and_on_",
];

pub(super) fn tests() -> Vec<(String, Test)> {
    let in_browser = |name: &str, run: fn(Page) -> Boxed| test(format!("page_{name}"), move || on_the_page(run));
    vec![
        in_browser("lists_services_and_draws_the_graph_of_one", |page| Box::pin(draws(page))),
        in_browser("is_walked_and_searched_by_keyboard", |page| Box::pin(keyboard(page))),
        in_browser("sorts_functions_and_finds_them_in_the_graph", |page| Box::pin(top(page))),
        in_browser("compares_two_ranges", |page| Box::pin(compares(page))),
        in_browser("keeps_its_state_in_its_address", |page| Box::pin(address(page))),
        in_browser("says_when_there_is_nothing", |page| Box::pin(empty(page))),
        in_browser("shows_hostile_names_as_text", |page| Box::pin(hostile(page))),
        in_browser("is_drawn_in_light_and_dark_and_narrow", |page| Box::pin(pictures(page))),
    ]
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = Result<Page>>>>;

/// The browser with the page in it.
struct Page {
    client: Client,
    origin: String,
    now: u64,
}

/// Serves a store, opens the page in a browser of its own, and sees afterwards that it has asked nobody else and has had no errors.
fn on_the_page(run: fn(Page) -> Boxed) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let driver = Driver::start(folder.path())?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::bind(&Listen { address: ([127, 0, 0, 1], 0).into(), ..Listen::default() })?;
        let origin = format!("http://{}", server.address());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let (shared, _senders) = shared(&folder.path().join("profiles"), now)?;
        let serving = tokio::spawn(server.serve(Arc::new(shared), async {
            let _ = stopped.await;
        }));
        let client = browser(&driver, &folder.path().join("browser")).await?;
        let tried = async {
            let page = Page { client: client.clone(), origin, now };
            page.open("/").await?;
            run(page).await?.has_behaved().await
        }
        .await;
        client.close().await?;
        drop(stop);
        serving.await??;
        tried
    })
}

async fn browser(driver: &Driver, profile: &std::path::Path) -> Result<Client> {
    let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    arguments.push("--window-size=1280,900".to_owned());
    let options = json!({
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "unhandledPromptBehavior": "ignore",
    });
    let Value::Object(capabilities) = options else { unreachable!("an object") };
    let capabilities: Capabilities = capabilities.into_iter().collect();
    ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities)
        .connect(&driver.url)
        .await
        .context("the browser could not be started")
}

type Senders = (watch::Sender<sampler::State>, watch::Sender<Vec<Arc<Identity>>>);

fn shared(directory: &std::path::Path, now: u64) -> Result<(Shared, Senders)> {
    let store = Store::open(&config::Store { directory: directory.to_owned(), ..config::Store::default() })?;
    let identity = |pid, service: &str, worker| {
        Arc::new(Identity {
            pid,
            started: u64::from(pid),
            command: "nginx".to_owned(),
            service: service.to_owned(),
            worker,
            ..Identity::default()
        })
    };
    let shop = [identity(4711, "shop", Some(0)), identity(4712, "shop", Some(1))];
    let search = identity(900, "search-api", None);
    let hostile = Arc::new(Identity { command: HOSTILE[1].to_owned(), ..(*identity(666, HOSTILE[0], None)).clone() });
    for window in 0..WINDOWS {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(now - 15 * (WINDOWS - window));
        let is_slow = window < WINDOWS / 2;
        // The load of a day, in two hours.
        let load = 20 + (20.0 * (window as f64 / 40.0).sin().abs()) as u64;
        let of =
            |identity: &Arc<Identity>, profile: Profile| ProcessProfile { identity: Arc::clone(identity), profile };
        let mut processes = vec![
            of(&shop[0], handling(4711, load, is_slow)),
            of(&shop[1], handling(4712, load / 2, is_slow)),
            of(&search, handling(900, load / 4, false)),
        ];
        if window + 4 > WINDOWS {
            processes.push(of(&hostile, hostile_names(666)));
        }
        store.write(&Window { started, seconds: 15.0, processes })?;
    }
    let (state, known) = watch::channel(sampler::State::Sampling);
    let (living, processes) = watch::channel(vec![Arc::clone(&shop[0]), search]);
    let shared = Shared {
        slices: broadcast::channel(4).0,
        processes,
        store: Some(Arc::new(store)),
        metrics: Arc::new(Registry::default()),
        state: known,
    };
    Ok((shared, (state, living)))
}

/// A frame: what it is, its name, its file, and the first line of its function.
type Call<'a> = (FrameKind, &'a str, Option<&'a str>, u32);

/// What a web application does in a window; when it is slow, most of it is `render`.
fn handling(pid: u32, load: u64, is_slow: bool) -> Profile {
    use FrameKind::{Builtin, Compiled, Inlined, Interpreted, Kernel, Native};
    let main: &[Call<'_>] = &[
        (Native, "main", Some("nginx"), 0),
        (Native, "ngx_worker_process_cycle", Some("nginx"), 0),
        (Native, "ngx_http_lua_run_thread", Some("nginx"), 0),
        (Interpreted, "main chunk", Some("=content_by_lua(nginx.conf:61)"), 0),
        (Interpreted, "handle", Some("/srv/app/router.lua"), 12),
    ];
    let render = (Compiled, "render", Some("/srv/app/template.lua"), 40);
    let stacks: [(u64, &[Call<'_>]); 8] = [
        (
            if is_slow { 60 } else { 15 },
            &[render, (Builtin, "string.gsub", None, 0), (Native, "lj_str_new", Some("libluajit.so"), 0)],
        ),
        (12, &[render, (Inlined, "escape", Some("/srv/app/template.lua"), 9), (Builtin, "string.format", None, 0)]),
        (
            25,
            &[
                (Interpreted, "query", Some("/srv/app/db.lua"), 88),
                (Native, "lj_cf_socket_send", Some("nginx"), 0),
                (Kernel, "tcp_sendmsg", None, 0),
            ],
        ),
        (
            14,
            &[(Interpreted, "query", Some("/srv/app/db.lua"), 88), (Compiled, "decode", Some("/srv/app/json.lua"), 3)],
        ),
        (18, &[(Compiled, "authorise", Some("/srv/app/session.lua"), 21), (Builtin, "table.concat", None, 0)]),
        (
            9,
            &[
                (Compiled, "authorise", Some("/srv/app/session.lua"), 21),
                (Native, "SHA256_Update", Some("libcrypto.so"), 0),
            ],
        ),
        (6, &[(Native, "lj_gc_step", Some("libluajit.so"), 0)]),
        (4, &[(Interpreted, "log", Some("/srv/app/log.lua"), 5), (Kernel, "vfs_write", None, 0)]),
    ];
    let mut profile = started(pid);
    for (weight, stack) in stacks {
        add(&mut profile, pid, main.iter().chain(stack).copied(), (weight * load / 40).max(1));
    }
    profile
}

fn hostile_names(pid: u32) -> Profile {
    let mut profile = started(pid);
    let long = HOSTILE[5].repeat(60);
    for name in HOSTILE[..5].iter().copied().chain([&*long]) {
        let frames = [(FrameKind::Native, "main", None, 0), (FrameKind::Interpreted, name, Some(name), 1)];
        add(&mut profile, pid, frames.into_iter().chain([(FrameKind::Builtin, name, None, 0)]), 10);
    }
    profile
}

fn started(pid: u32) -> Profile {
    let mut profile = Profile::default();
    profile.meta.processes = vec![(pid, "nginx".into())];
    (profile.meta.frequency, profile.meta.seconds, profile.meta.lua) = (19, 15.0, true);
    profile.meta.event = "cpu-clock".into();
    profile
}

fn add<'a>(profile: &mut Profile, pid: u32, frames: impl Iterator<Item = Call<'a>>, count: u64) {
    let stack: Vec<_> = frames
        .map(|(kind, name, file, first_line)| {
            let (name, file) = (Some(name.into()), file.map(Into::into));
            profile.frame(Frame { kind, name, file, first_line, line: first_line, unresolved: false })
        })
        .collect();
    profile.add(Origin { pid, tid: pid, vm: 1, state: State::Interpreter }, &stack, count);
    profile.counters.samples += count;
    profile.counters.frames += count * stack.len() as u64;
}

/// A command of chromedriver that is not of the standard.
#[derive(Debug)]
struct Special(&'static str, Value);

impl WebDriverCompatibleCommand for Special {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

impl Page {
    async fn open(&self, path: &str) -> Result<()> {
        self.client.goto(&format!("{}{path}", self.origin)).await?;
        self.settles().await
    }

    /// Waits until a script tells something that is true.
    async fn until(&self, what: &str, script: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.tell(script).await?;
            if !matches!(told, Value::Null | Value::Bool(false)) {
                return Ok(told);
            }
            if Instant::now() > deadline {
                let page = self.text("return document.body.innerText").await?;
                anyhow::bail!("{what} has not come about; {:#?}; the page shows:\n{page}", self.log("browser").await?);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    async fn tell(&self, script: &str) -> Result<Value> {
        // What is most asked for, with short names.
        let helpers = "const $ = (id) => document.getElementById(id);
            const svg = (id = 'flame') => document.querySelector(`#${id} iframe`)?.contentDocument;
            const boxes = (id) => [...(svg(id)?.querySelectorAll('#frames > g') ?? [])];
            const named = (name, id) => boxes(id).find((box) => box.querySelector('title').textContent.startsWith(name));";
        // Elements are told as no more than that they are there: the driver knows none of another frame.
        let told = format!("{helpers}\nconst told = (() => {{ {script} }})();\nreturn told?.nodeType ? true : told");
        Ok(self.client.execute(&told, Vec::new()).await?)
    }

    /// Waits until all answers are there and drawn.
    async fn settles(&self) -> Result<()> {
        let done = "return document.readyState === 'complete' && $('services').children.length > 0 \
                    && !$('main').hasAttribute('aria-busy')";
        self.until("an answer to every question", done).await.map(drop)
    }

    async fn click(&self, css: &str) -> Result<()> {
        self.client.find(Locator::Css(css)).await?.click().await?;
        self.settles().await
    }

    async fn choose(&self, service: &str) -> Result<()> {
        let click = format!(
            "const button = [...document.querySelectorAll('#services button')]
                 .find((button) => button.textContent.startsWith({}));
             button?.click();
             return Boolean(button)",
            json!(service)
        );
        ensure!(self.tell(&click).await? == true, "{service} is not listed");
        self.settles().await
    }

    /// Presses keys, one after the other, wherever the keyboard is.
    async fn press(&self, keys: &str) -> Result<()> {
        let strokes = keys.chars().flat_map(|value| [KeyAction::Down { value }, KeyAction::Up { value }]);
        let keys = strokes.fold(KeyActions::new("keyboard".to_owned()), KeyActions::then);
        Ok(self.client.perform_actions(keys).await?)
    }

    async fn text(&self, script: &str) -> Result<String> {
        let told = self.tell(script).await?;
        Ok(told.as_str().with_context(|| format!("`{script}` tells {told}"))?.to_owned())
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let log = self.client.issue_cmd(Special("se/log", json!({ "type": kind }))).await?;
        Ok(log.as_array().cloned().unwrap_or_default())
    }

    /// Nobody else was asked, nothing was refused or failed, and nothing was said that a page may not.
    async fn has_behaved(self) -> Result<()> {
        let console = self.log("browser").await?;
        ensure!(console.is_empty(), "the console says {console:#?}");
        let mut elsewhere = BTreeSet::new();
        for entry in self.log("performance").await? {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"].as_str().unwrap_or_default();
                // Not what the browser has in itself, such as the page that it starts with.
                let is_of_itself = url.starts_with("chrome://") || url.starts_with("data:");
                if !is_of_itself && !url.starts_with(&format!("{}/", self.origin)) {
                    elsewhere.insert(url.to_owned());
                }
            }
        }
        ensure!(elsewhere.is_empty(), "others were asked: {elsewhere:?}");
        Ok(())
    }

    async fn picture(&self, name: &str) -> Result<()> {
        let folder = target_dir().join("page");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), self.client.screenshot().await?)?;
        Ok(())
    }

    async fn media(&self, scheme: &str, width: u32, height: u32) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        for (command, parameters) in
            [("Emulation.setEmulatedMedia", features), ("Emulation.setDeviceMetricsOverride", size)]
        {
            let body = json!({ "cmd": command, "params": parameters });
            self.client.issue_cmd(Special("goog/cdp/execute", body)).await?;
        }
        Ok(())
    }
}

async fn draws(page: Page) -> Result<Page> {
    let services = page.text("return $('services').innerText").await?;
    for known in ["All services", "shop", "search-api"] {
        ensure!(services.contains(known), "{known} is not among {services}");
    }
    page.choose("shop").await?;
    page.until("the graph of the service", "return named('render')").await?;
    ensure!(page.text("return $('what').textContent").await? == "shop");
    ensure!(page.text("return $('services').innerText").await?.contains("4712 nginx"), "no process is listed");
    let summary = page.text("return $('summary').textContent").await?;
    ensure!(summary.contains("samples") && summary.contains("19 Hz"), "{summary}");
    let all = page.text("return boxes().at(0).querySelector('title').textContent").await?;
    page.choose("4712").await?;
    page.until("the graph of the process", "return named('render')").await?;
    let one = page.text("return boxes().at(0).querySelector('title').textContent").await?;
    ensure!(all != one, "the graph of a process is that of its service");
    let bars = page.tell("return document.querySelectorAll('#strip rect').length").await?;
    ensure!(bars.as_u64() > Some(100), "{bars} bars over time");
    page.click("#lua").await?;
    page.until("a graph of Lua alone", "return named('render') && !named('ngx_worker')").await?;
    Ok(page)
}

async fn keyboard(page: Page) -> Result<Page> {
    page.choose("shop").await?;
    page.until("the graph", "return named('render')").await?;
    page.press("/").await?;
    ensure!(page.text("return document.activeElement.id").await? == "search", "`/` does not lead to the search");
    page.press("render").await?;
    page.until("what was found", "return /^\\d.*%$/.test($('matched').textContent)").await?;
    let marked = "return named('render').querySelector('rect').getAttribute('fill') === 'rgb(230,0,230)'";
    ensure!(page.tell(marked).await? == true, "the box that was found is not marked");
    page.press("\u{e007}").await?;
    let focus = "return svg().activeElement?.getAttribute('aria-label')";
    let root = page.text(focus).await?;
    ensure!(root.starts_with("all "), "Enter in the search leads to {root}");
    // Up to what was called, and down again.
    page.press("\u{e013}").await?;
    ensure!(page.text(focus).await?.starts_with("main "), "up leads to {}", page.text(focus).await?);
    page.press("\u{e013}\u{e013}\u{e013}\u{e013}").await?;
    ensure!(page.text(focus).await?.starts_with("handle"), "up leads to {}", page.text(focus).await?);
    page.press("\u{e013}").await?;
    let widest = page.text(focus).await?;
    page.press("\u{e012}").await?;
    ensure!(page.text(focus).await? != widest, "left of {widest} is nothing else");
    page.press("\u{e014}").await?;
    ensure!(page.text(focus).await? == widest, "right again is {}", page.text(focus).await?);
    page.press("\u{e015}\u{e013}\u{e015}").await?;
    ensure!(page.text(focus).await?.starts_with("handle"), "down leads to {}", page.text(focus).await?);
    ensure!(page.text("return $('details').textContent").await?.starts_with("handle"), "the box is not told");
    page.press("\u{e013}\u{e007}").await?;
    page.until("the zoom", "return boxes().some((box) => box.classList.contains('parent')) && !$('unzoom').hidden")
        .await?;
    page.press("\u{e00c}").await?;
    page.until(
        "the end of zoom and search",
        "return $('unzoom').hidden && $('search').value === '' \
        && !boxes().some((box) => box.classList.contains('parent'))",
    )
    .await?;
    let visible = "return svg().defaultView.getComputedStyle(svg().activeElement.querySelector('rect')).strokeWidth";
    ensure!(page.text(visible).await? == "2px", "the focus cannot be seen");
    Ok(page)
}

async fn top(page: Page) -> Result<Page> {
    page.choose("shop").await?;
    page.click("#tab-top").await?;
    let column = async |at: usize| -> Result<Vec<f64>> {
        let cells = page
            .tell(&format!(
                "return [...$('top').tBodies[0].rows].map((row) => parseFloat(row.cells[{at}].textContent))"
            ))
            .await?;
        Ok(serde_json::from_value(cells)?)
    };
    let falls = |column: &[f64]| column.len() > 10 && column.is_sorted_by(|one, two| one >= two);
    ensure!(falls(&column(1).await?), "by own time: {:?}", column(1).await?);
    page.click("#top [data-sort=total] button").await?;
    ensure!(falls(&column(2).await?), "by total time: {:?}", column(2).await?);
    ensure!(column(2).await?.first() == Some(&100.0), "nothing is always on the stack");
    page.click("#top [data-sort=name] button").await?;
    let first = page.text("return $('top').tBodies[0].rows[0].cells[0].innerText").await?;
    ensure!(first.contains("SHA256"), "first by name is {first}");
    page.press("/").await?;
    page.client.find(Locator::Id("search")).await?.send_keys("escape").await?;
    page.until("the rows that match", "return $('top').tBodies[0].rows.length === 1").await?;
    page.click("#top td.function button").await?;
    page.until(
        "the function in the graph",
        "return $('tab-flame').ariaSelected === 'true' \
        && named('escape')?.querySelector('rect').getAttribute('fill') === 'rgb(230,0,230)'",
    )
    .await?;
    Ok(page)
}

async fn compares(page: Page) -> Result<Page> {
    page.choose("shop").await?;
    page.click("#tab-diff").await?;
    page.until(
        "the table",
        "return [...$('changes').tBodies[0].rows].some((row) => row.textContent.includes('lj_str_new'))",
    )
    .await?;
    let points = "return [...$('changes').tBodies[0].rows].find((row) => row.textContent.includes('lj_str_new')).cells[3].textContent";
    ensure!(
        page.text(points).await?.starts_with('−'),
        "what has become faster has grown: {}",
        page.text(points).await?
    );
    page.until("the graph", "return named('lj_str_new', 'diff')?.textContent.includes('points')").await?;
    let color = page.text("return named('lj_str_new', 'diff').querySelector('rect').getAttribute('fill')").await?;
    ensure!(color == "rgb(91,143,242)", "what has shrunk is {color}");
    page.click("[data-by=total]").await?;
    page.until(
        "total time",
        "return [...$('changes').tBodies[0].rows].some((row) => row.textContent.includes('query'))",
    )
    .await?;
    page.click("[data-width=before]").await?;
    page.until(
        "the graph of before",
        "return svg('diff')?.URL.includes('width=before') && named('lj_str_new', 'diff')",
    )
    .await?;
    Ok(page)
}

async fn address(page: Page) -> Result<Page> {
    page.choose("search-api").await?;
    page.click("#tab-top").await?;
    page.click("[data-last='5m']").await?;
    let shown = "return $('what').textContent + $('top').tBodies[0].rows.length \
        + document.querySelector('[aria-pressed=true]').textContent";
    let before = page.text(shown).await?;
    ensure!(before.starts_with("search-api") && before.ends_with("5 min"), "{before}");
    page.client.refresh().await?;
    page.settles().await?;
    ensure!(page.text(shown).await? == before, "after a reload it shows {}", page.text(shown).await?);
    page.client.back().await?;
    page.until("the range before", "return $('ranges').querySelector('[aria-pressed=true]').textContent === '1 h'")
        .await?;
    page.client.back().await?;
    page.until("the view before", "return $('tab-flame').ariaSelected === 'true'").await?;
    page.settles().await?;
    // A range of the hour before that, dragged.
    let drag = "const strip = $('strip'); const { left, width } = strip.getBoundingClientRect();
        strip.setPointerCapture = () => {};
        const at = (kind, part) => strip.dispatchEvent(new PointerEvent(kind, { clientX: left + width * part, button: 0, pointerId: 1 }));
        at('pointerdown', 0.25); at('pointermove', 0.6); at('pointermove', 0.75); at('pointerup', 0.75);
        return new URLSearchParams(location.search).get('to') - new URLSearchParams(location.search).get('from')";
    let seconds = page.tell(drag).await?;
    ensure!(seconds.as_f64().is_some_and(|seconds| (1795.0..1805.0).contains(&seconds)), "{seconds} s were chosen");
    page.settles().await?;
    Ok(page)
}

async fn empty(page: Page) -> Result<Page> {
    let (from, to) = (page.now - 90 * 86400, page.now - 89 * 86400);
    page.open(&format!("/?from={from}&to={to}")).await?;
    let message = page.text("return $('message').innerText").await?;
    ensure!(
        message.contains("No profiles in this range") && message.contains("has stored profiles since"),
        "{message}"
    );
    page.open(&format!("/?view=diff&from={from}&to={to}")).await?;
    let message = page.text("return $('message').innerText").await?;
    ensure!(message.contains("No profiles in either range"), "{message}");
    Ok(page)
}

async fn hostile(page: Page) -> Result<Page> {
    let known = "html,head,meta,title,link,script,body,div,header,a,img,button,form,label,input,p,nav,h1,h2,ul,li,bdi,small,main,\
        section,span,output,kbd,table,thead,tr,th,tbody,td,select,option,b,svg,rect,iframe";
    let strange = format!(
        "const known = new Set('{known}'.split(','));
         const inPage = [...document.querySelectorAll('*')].map((element) => element.localName).filter((name) => !known.has(name));
         const graph = svg() ?? svg('diff');
         const inGraph = graph ? [...graph.querySelectorAll('script, img, svg svg:not(#frames), foreignObject, a, [onerror]')].slice(1) : [];
         const images = [...document.images].filter((image) => !image.src.endsWith('/icon.svg')).map((image) => image.src);
         return [...inPage, ...inGraph.map((element) => element.outerHTML.slice(0, 200)), ...images].join(' ')"
    );
    page.choose(HOSTILE[0]).await?;
    page.until("the graph", "return boxes().length > 10").await?;
    ensure!(page.text("return $('what').textContent").await? == HOSTILE[0]);
    let services = page.text("return $('services').textContent").await?;
    ensure!(services.contains(HOSTILE[1]), "the name of the process is not shown as it is: {services}");
    ensure!(page.text(&strange).await?.is_empty(), "added: {}", page.text(&strange).await?);
    let titles = page.text("return boxes().map((box) => box.querySelector('title').textContent).join('\\n')").await?;
    ensure!(titles.contains(HOSTILE[0]) && titles.contains(HOSTILE[1]), "{titles}");
    // Over each of them, as a mouse goes, and by keyboard.
    page.tell("for (const box of boxes()) { box.dispatchEvent(new MouseEvent('mouseover', { bubbles: true })); box.dispatchEvent(new MouseEvent('click', { bubbles: true })); }").await?;
    page.click("#tab-top").await?;
    let table = page.text("return $('top').tBodies[0].textContent").await?;
    ensure!(table.contains(HOSTILE[0]) && table.contains(HOSTILE[1]), "{table}");
    ensure!(page.text(&strange).await?.is_empty(), "added: {}", page.text(&strange).await?);
    page.client.find(Locator::Id("search")).await?.send_keys("\"><img src=x onerror=alert(2)>(").await?;
    page.until("the search", "return new URLSearchParams(location.search).has('q')").await?;
    page.open("/?service=%3Cscript%3Ealert(1)%3C/script%3E&view=diff&a=own&a_from=1&a_to=99999999999").await?;
    ensure!(page.text(&strange).await?.is_empty(), "added: {}", page.text(&strange).await?);
    ensure!(page.client.get_alert_text().await.is_err(), "a name has run");
    Ok(page)
}

async fn pictures(page: Page) -> Result<Page> {
    page.media("light", 1280, 900).await?;
    page.choose("shop").await?;
    page.until("the graph", "return named('render')").await?;
    page.picture("light.png").await?;
    page.media("dark", 1280, 900).await?;
    page.picture("dark.png").await?;
    page.click("#tab-top").await?;
    page.picture("dark-top.png").await?;
    page.media("light", 1280, 1300).await?;
    page.click("#tab-diff").await?;
    page.until("the graph", "return named('render', 'diff')").await?;
    page.picture("light-diff.png").await?;
    page.media("light", 390, 900).await?;
    page.click("#tab-flame").await?;
    page.until("the graph", "return named('render')").await?;
    let wide = page.tell("return document.documentElement.scrollWidth > innerWidth").await?;
    page.picture("narrow.png").await?;
    ensure!(wide == false, "a phone has to scroll to the side");
    Ok(page)
}
