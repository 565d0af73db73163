// The page of the daemon. Its state is its address; names of programs go into it as text only.

import { Graph, pattern } from "./graph.js";

const LAST = { "5m": 300, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600 };
const DEFAULTS = { view: "flame", last: "1h", sort: "own", by: "own", width: "after", a: "before" };
const $ = (id) => document.getElementById(id);

// --- The state, which is in the address.

let state;

function read() {
  state = { ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(location.search)) };
  if (!LAST[state.last]) state.last = DEFAULTS.last;
  if (!$(`panel-${state.view}`)) state.view = DEFAULTS.view;
  if (!(Number(state.from) < Number(state.to))) delete state.from, delete state.to;
}

// The address with some things changed; `undefined` takes them out.
function address(change) {
  const next = { ...state, ...change };
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(next)) {
    if (value !== undefined && value !== "" && value !== DEFAULTS[name]) query.set(name, value);
  }
  return `${location.pathname}${query.size ? `?${query}` : ""}`;
}

function go(change) {
  history.pushState(null, "", address(change));
  read();
  update();
}

// Without a step of the browser's history, and without asking again.
function note(change) {
  history.replaceState(null, "", address(change));
  read();
}

// The range that is looked at: up to now, or the one that was chosen.
function range() {
  if (state.from) return { from: Number(state.from), to: Number(state.to) };
  const to = Math.ceil(Date.now() / 1000);
  return { from: to - LAST[state.last], to };
}

// The range that it is compared with.
function before({ from, to }) {
  if (state.a === "own" && Number(state.a_from) < Number(state.a_to)) {
    return { from: Number(state.a_from), to: Number(state.a_to) };
  }
  const earlier = LAST[state.a] ?? to - from;
  return { from: from - earlier, to: to - earlier };
}

// --- Asking the server.

let asking = new AbortController();

async function ask(path, parameters) {
  const response = await fetch(url(path, parameters), { signal: asking.signal });
  if (!response.ok) throw new Error((await response.text()).trim() || `The daemon has answered with status ${response.status}.`);
  return response.json();
}

function url(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined && value !== "") query.set(name, value);
  return `${path}?${query}`;
}

// --- Making elements. What is not an element is text.

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const name = (text) => element("bdi", { title: text }, text);
const count = (number) => Math.round(number).toLocaleString("en");
const percent = (share) => `${share.toFixed(share === 0 ? 0 : share < 10 ? 2 : 1)} %`;

function time(seconds, withDay = true) {
  const day = { year: "numeric", month: "short", day: "numeric" };
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
  return new Date(seconds * 1000).toLocaleString("en-GB", withDay ? { ...day, ...clock } : clock);
}

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [unit, name] = parts.find(([unit]) => seconds >= unit) ?? [1, "s"];
  return `${Number((seconds / unit).toFixed(1))} ${name}`;
}

function span({ from, to }) {
  const sameDay = new Date(from * 1000).toDateString() === new Date(to * 1000).toDateString();
  return `${time(from)} – ${time(to, !sameDay)}`;
}

// What inputs of date and time hold: local time.
function toInput(seconds) {
  const date = new Date(seconds * 1000);
  return new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}
const fromInput = (input) => Math.floor(new Date(input.value) / 1000);

// --- Services and processes.

function drawServices({ services, idle }) {
  $("idle").hidden = !idle;
  $("idle").textContent = idle ? `No samples are taken now: ${idle}.` : "";
  const total = services.reduce((sum, { samples }) => sum + samples, 0);
  const choice = (text, side, chosen, change, kind) =>
    element("button", { onclick: () => go(change), "aria-current": chosen, className: "choice" },
      element("bdi", { title: text, className: kind }, text), element("small", {}, side));
  const all = element("li", {}, choice("All services", count(total), !state.service && !state.pid, { service: undefined, pid: undefined }));
  $("services").replaceChildren(all, ...services.map((service) => {
    const isChosen = service.name === state.service;
    const isLive = service.processes.some(({ live }) => live);
    const item = element("li", {},
      choice(service.name, count(service.samples), isChosen && !state.pid, { service: service.name, pid: undefined }, isLive ? "live" : "gone"));
    if (isChosen) {
      item.append(element("ul", {}, ...service.processes.map((process) => {
        const worker = process.worker === null ? "" : ` · worker ${process.worker}`;
        const chosen = String(process.pid) === state.pid;
        return element("li", {},
          choice(`${process.pid} ${process.command}${worker}`, process.live ? "" : "ended", chosen,
            { pid: chosen ? undefined : process.pid }, process.live ? "live" : "gone"));
      })));
    }
    return item;
  }));
}

// --- Samples over time, where a range can be dragged.

const SVG = "http://www.w3.org/2000/svg";

function drawStrip({ bars, from, to }) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${bars.length} 100`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  const most = Math.max(...bars);
  drawing.setAttribute("aria-label", `${count(bars.reduce((sum, bar) => sum + bar, 0))} samples over time`);
  bars.forEach((bar, place) => {
    if (!bar) return;
    const rect = document.createElementNS(SVG, "rect");
    const height = Math.max(2, (100 * bar) / most);
    for (const [key, value] of Object.entries({ x: place + 0.08, y: 100 - height, width: 0.84, height })) rect.setAttribute(key, value);
    drawing.append(rect);
  });
  const strip = $("strip");
  strip.replaceChildren(drawing);
  [...$("axis").children].forEach((label, place) => (label.textContent = time(from + ((to - from) * place) / 2, to - from > 86400)));
  const at = (event) => {
    const { left, width } = strip.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width));
  };
  strip.onpointerdown = (down) => {
    if (down.button !== 0) return;
    const start = at(down);
    const chosen = element("div", { className: "chosen" });
    strip.append(chosen);
    strip.setPointerCapture(down.pointerId);
    let ends = [start, start];
    strip.onpointermove = (move) => {
      ends = [Math.min(start, at(move)), Math.max(start, at(move))];
      chosen.style.left = `${100 * ends[0]}%`;
      chosen.style.width = `${100 * (ends[1] - ends[0])}%`;
    };
    const end = (isDone) => () => {
      strip.onpointermove = strip.onpointerup = strip.onpointercancel = null;
      chosen.remove();
      const [first, last] = ends.map((end) => Math.round(from + (to - from) * end));
      if (isDone && ends[1] - ends[0] > 0.005 && first < last) go({ from: first, to: last });
    };
    strip.onpointerup = end(true);
    strip.onpointercancel = end(false);
  };
}

// --- The table of functions.

let top = { functions: [], samples: 0 };

function drawTop() {
  const { functions, samples } = top;
  const wanted = pattern(state.q ?? "");
  const order = {
    name: (one, two) => (one.name < two.name ? -1 : one.name > two.name ? 1 : 0),
    own: (one, two) => two.own - one.own || two.total - one.total,
    total: (one, two) => two.total - one.total || two.own - one.own,
  };
  const rows = functions.filter(({ name }) => wanted.test(name)).sort(order[state.sort] ?? order.own);
  for (const head of $("top").querySelectorAll("th")) {
    const is = head.dataset.sort === state.sort;
    head.setAttribute("aria-sort", is ? (state.sort === "name" ? "ascending" : "descending") : "none");
  }
  const share = (part) => {
    const cell = element("td", { className: "number share" }, `${percent((100 * part) / samples)} `, element("small", {}, count(part)));
    cell.style.setProperty("--part", `${(100 * part) / samples}%`);
    return cell;
  };
  $("top").tBodies[0].replaceChildren(...rows.map((row) => element("tr", {}, functionCell(row), share(row.own), share(row.total))));
  if (state.view === "top") $("matched").textContent = state.q ? `${rows.length} of ${functions.length}` : "";
}

// A function, which leads to its boxes in the flame graph.
function functionCell(row) {
  const exactly = `^${row.name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")} \\(`;
  const find = () => go({ view: "flame", q: exactly });
  return element("td", { className: "function" },
    element("button", { onclick: find, title: row.name }, element("span", { className: "kind" }, row.class), name(row.name)));
}

// --- The comparison.

function drawChanges(changes) {
  const rows = changes[state.by] ?? changes.own;
  const wanted = pattern(state.q ?? "");
  const shown = rows.filter(({ name, clear }) => clear && wanted.test(name));
  const signed = (points) => `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(2)}`;
  $("changes").tBodies[0].replaceChildren(...shown.map((row) => element("tr", {}, functionCell(row),
    element("td", { className: "number" }, percent(row.before)), element("td", { className: "number" }, percent(row.after)),
    element("td", { className: `number ${row.points > 0 ? "grew" : "shrank"}` }, `${signed(row.points)} `,
      element("small", {}, `± ${row.chance.toFixed(2)}`)))));
  const unclear = rows.filter(({ clear }) => !clear).length;
  $("chance").textContent = shown.length
    ? `${count(shown.length)} functions have changed. ${count(unclear)} others differ by no more than chance brings about.`
    : "No function has changed by more than chance brings about.";
}

// --- The whole page.

const keyed = (event) => {
  if (event.key === "/") {
    event.preventDefault();
    $("search").focus();
    $("search").select();
  } else if (event.key === "Escape") {
    graphs.flame.unzoom();
    graphs.diff.unzoom();
    $("search").value = "";
    search();
  }
};

const graphs = {
  flame: new Graph($("flame"), {
    label: "Flame graph",
    told: (text) => ($("details").textContent = text),
    zoomed: (is) => ($("unzoom").hidden = !is),
    keyed,
  }),
  diff: new Graph($("diff"), {
    label: "Flame graph of what has changed",
    told: (text) => ($("diff-details").textContent = text),
    zoomed: () => {},
    keyed,
  }),
};

let changes;

// Shows what is searched for in the view that is there.
function mark() {
  if (state.view === "top") drawTop();
  else $("matched").textContent = graphs[state.view].search(state.q);
  if (state.view === "diff" && changes) drawChanges(changes);
}

function search() {
  note({ q: $("search").value || undefined });
  mark();
}

function say(text, isError = false) {
  $("message").hidden = !text;
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
  for (const view of ["flame", "top", "diff"]) $(`panel-${view}`).hidden = view !== state.view || (Boolean(text) && view !== "diff");
  $("panel-diff").classList.toggle("empty", Boolean(text));
}

// Puts the state into the controls.
function controls(now) {
  const title = [state.service ?? "All services", state.pid && `process ${state.pid}`].filter(Boolean).join(" · ");
  $("what").replaceChildren(name(title));
  document.title = `${title} – luaflame`;
  $("when").textContent = span(now);
  $("from").value = toInput(now.from);
  $("to").value = toInput(now.to);
  for (const button of $("ranges").children) button.setAttribute("aria-pressed", !state.from && button.dataset.last === state.last);
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const is = tab.dataset.view === state.view;
    tab.setAttribute("aria-selected", is);
    tab.tabIndex = is ? 0 : -1;
  }
  $("lua").checked = state.show === "lua";
  $("search").value = state.q ?? "";
  $("a").value = state.a;
  $("a-from").value = toInput(before(now).from);
  $("a-to").value = toInput(before(now).to);
  $("b-when").textContent = span(now);
  for (const kind of ["by", "width"]) {
    for (const button of document.querySelectorAll(`[data-${kind}]`)) button.setAttribute("aria-pressed", button.dataset[kind] === state[kind]);
  }
}

// Asks for what the state shows, and shows it. An answer that comes when something else is wanted already is left alone.
async function update() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const now = range();
  controls(now);
  const { service, pid, show } = state;
  const waiting = setTimeout(() => ($("loading").hidden = false), 150);
  $("main").setAttribute("aria-busy", "true");
  try {
    const services = await ask("/api/services", now);
    drawServices(services);
    if (!services.stored) return say("Nothing is stored on this host, so that there is nothing to show here: [store] directory is empty in the configuration of the daemon. Profiles can still be pulled.");
    drawStrip(await ask("/api/timeline", { service, ...now }));
    await views[state.view](now, { service, pid, show }, services);
  } catch (error) {
    if (!signal.aborted) say(error instanceof TypeError ? "The daemon does not answer. Is it running?" : error.message, true);
  } finally {
    if (!signal.aborted) $("main").removeAttribute("aria-busy");
    clearTimeout(waiting);
    if (!signal.aborted) $("loading").hidden = true;
  }
}

function empty({ since, services }) {
  const stored = since === null ? "The daemon has stored nothing yet; the first window is stored within a minute." : `The daemon has stored profiles since ${time(since)}.`;
  const known = !state.service || services.some(({ name }) => name === state.service) ? "" : " Nor is this service running.";
  return `No profiles in this range.${known} ${stored}`;
}

async function ofOneRange(now, selection, services) {
  const answer = await ask("/api/functions", { ...selection, ...now });
  const lost = answer.lost ? `, ${count(answer.lost)} lost` : "";
  $("summary").textContent = answer.samples ? `${count(answer.samples)} samples${lost} at ${answer.frequency} Hz, in ${duration(answer.seconds)}` : "";
  top = answer;
  if (!answer.samples) say(empty(services));
  return answer.samples > 0;
}

const views = {
  async flame(now, selection, services) {
    if (!(await ofOneRange(now, selection, services))) return graphs.flame.clear();
    say("");
    await graphs.flame.show(url("/flame.svg", { ...selection, ...now }));
    mark();
  },
  async top(now, selection, services) {
    if (!(await ofOneRange(now, selection, services))) return;
    say("");
    mark();
  },
  async diff(now, selection, services) {
    const a = before(now);
    const ranges = { ...selection, a_from: a.from, a_to: a.to, b_from: now.from, b_to: now.to };
    changes = await ask("/api/diff", ranges);
    const [first, last] = changes.samples;
    $("summary").textContent = `${count(first)} samples in A, ${count(last)} in B`;
    if (!first || !last) {
      graphs.diff.clear();
      const which = !first && !last ? "either range" : first ? "range B" : "range A";
      return say(`No profiles in ${which}: choose another one to compare with. ${empty(services).split(". ").slice(1).join(". ")}`);
    }
    say("");
    await graphs.diff.show(url("/diff.svg", { ...ranges, width: state.width }));
    mark();
  },
};

// --- What the controls do.

for (const button of $("ranges").children) button.onclick = () => go({ last: button.dataset.last, from: undefined, to: undefined });
$("own").onsubmit = (event) => {
  event.preventDefault();
  const [from, to] = [fromInput($("from")), fromInput($("to"))];
  if (from < to) go({ from, to });
  else say("The range must begin before it ends.", true);
};
$("reload").onclick = () => update();
const tabs = [...document.querySelectorAll("[role=tab]")];
tabs.forEach((tab, place) => {
  tab.onclick = () => go({ view: tab.dataset.view });
  tab.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  };
});
$("lua").onchange = () => go({ show: $("lua").checked ? "lua" : undefined });
let typing;
$("search").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(search, 120);
};
$("search").onkeydown = (event) => {
  if (event.key === "Enter") graphs[state.view]?.at?.group.focus();
};
$("unzoom").onclick = () => graphs.flame.unzoom();
for (const head of $("top").querySelectorAll("th")) {
  head.firstElementChild.onclick = () => {
    note({ sort: head.dataset.sort });
    drawTop();
  };
}
$("a").onchange = () => {
  const own = before(range());
  go({ a: $("a").value, ...($("a").value === "own" ? { a_from: own.from, a_to: own.to } : { a_from: undefined, a_to: undefined }) });
};
for (const input of [$("a-from"), $("a-to")]) {
  input.onchange = () => go({ a: "own", a_from: fromInput($("a-from")), a_to: fromInput($("a-to")) });
}
$("compare").onsubmit = (event) => event.preventDefault();
for (const kind of ["by", "width"]) {
  for (const button of document.querySelectorAll(`[data-${kind}]`)) button.onclick = () => go({ [kind]: button.dataset[kind] });
}
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, select") && event.key !== "Escape";
  if (!isTyping && !event.ctrlKey && !event.altKey && !event.metaKey) keyed(event);
});
addEventListener("popstate", () => {
  read();
  update();
});

read();
update();
