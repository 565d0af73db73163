// A flame graph in a frame of its own: drawn by the server, zoomed and searched by the script in it, walked by the keyboard from here.

// What is above the boxes in the file, and told by the page instead.
const HEADING = 58;

const STYLE = `
  #title, #subtitle, #details, #search, #unzoom, #matched { display: none }
  #frames > g { outline: none }
  #frames > g:focus rect { stroke: #000; stroke-width: 2px }
`;
const DARK = `
  svg > rect { fill: #201e1c }
  svg > text, #legend text { fill: #a49d93 }
  #frames > g:focus rect { stroke: #fff }
`;

export class Graph {
  // `told` is given what a box says when it is looked at, `zoomed` whether the graph is, `keyed` keys that mean nothing here.
  constructor(place, { label, told, zoomed, keyed }) {
    Object.assign(this, { place, label, told, zoomed, keyed, url: null, frame: null, boxes: [], at: undefined });
  }

  // Shows the graph at an address; throws what the server says when there is none.
  async show(url) {
    if (this.url === url) return;
    this.clear();
    this.url = url;
    const frame = document.createElement("iframe");
    frame.title = this.label;
    frame.src = url;
    const loaded = new Promise((done) => frame.addEventListener("load", done, { once: true }));
    // A new element: another address for the old one would be a step of the browser's history.
    this.place.replaceChildren(frame);
    await loaded;
    if (this.url !== url || !frame.isConnected) return;
    const root = frame.contentDocument?.documentElement;
    if (root?.nodeName !== "svg") {
      this.clear();
      throw new Error(root?.textContent.trim() || "The flame graph could not be loaded.");
    }
    this.frame = frame;
    this.prepare(root);
  }

  clear() {
    this.place.replaceChildren();
    Object.assign(this, { url: null, frame: null, boxes: [], at: undefined });
    this.told("");
    this.zoomed(false);
  }

  prepare(root) {
    const { contentWindow: window, contentDocument: document } = this.frame;
    this.frame.style.height = `${root.getAttribute("height")}px`;
    this.frame.style.marginTop = `-${HEADING}px`;
    const sheet = new window.CSSStyleSheet();
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const paint = () => sheet.replaceSync(STYLE + (dark.matches ? DARK : ""));
    dark.addEventListener("change", paint);
    paint();
    document.adoptedStyleSheets = [sheet];

    root.setAttribute("role", "application");
    root.setAttribute("aria-label", `${this.label}; arrow keys walk, Enter zooms`);
    const number = (rect, name) => Number(rect.getAttribute(name));
    this.boxes = [...document.getElementById("frames").children].map((group) => {
      const rect = group.querySelector("rect");
      return { group, x: number(rect, "fg:x"), width: number(rect, "fg:w"), y: number(rect, "y") };
    });
    // The root is lowest.
    this.boxes.sort((one, two) => two.y - one.y || one.x - two.x);
    this.rows = [...new Set(this.boxes.map((box) => box.y))];
    this.reach(this.boxes[0]);
    const at = (event) => this.boxes.find((box) => box.group.contains(event.target));
    document.addEventListener("mouseover", (event) => this.told(at(event) ? this.text(at(event)) : ""));
    document.addEventListener("focusin", (event) => at(event) && this.told(this.text(at(event))));
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("click", (event) => {
      const box = at(event);
      if (box) {
        this.reach(box);
        this.zoomed(box !== this.boxes[0]);
      }
    });
  }

  text(box) {
    return box.group.querySelector("title").textContent;
  }

  // The one box that Tab leads to.
  reach(box) {
    if (!box || box === this.at) return;
    this.at?.group.removeAttribute("tabindex");
    this.at = box;
    box.group.setAttribute("tabindex", "0");
    box.group.setAttribute("role", "button");
    box.group.setAttribute("aria-label", this.text(box));
  }

  key(event) {
    const box = this.at;
    if (!box || event.ctrlKey || event.altKey || event.metaKey) return;
    const row = this.rows.indexOf(box.y);
    const visible = (at) => this.boxes.filter(({ group, y }) => y === this.rows[at] && !group.classList.contains("hide"));
    const steps = {
      ArrowUp: () => visible(row + 1).filter(({ x, width }) => x >= box.x && x + width <= box.x + box.width)
        .reduce((widest, other) => (widest && widest.width >= other.width ? widest : other), undefined),
      ArrowDown: () => visible(row - 1).find(({ x, width }) => x <= box.x && x + width >= box.x + box.width),
      ArrowLeft: () => visible(row).findLast(({ x }) => x < box.x),
      ArrowRight: () => visible(row).find(({ x }) => x > box.x),
      Home: () => this.boxes[0],
    };
    if (steps[event.key]) {
      event.preventDefault();
      this.reach(steps[event.key]());
      this.at.group.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const { MouseEvent } = this.frame.contentWindow;
      box.group.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    } else {
      this.keyed(event);
    }
  }

  unzoom() {
    this.frame?.contentWindow.unzoom();
    this.zoomed(false);
  }

  // Marks the boxes whose text matches, and tells how much of the time that is.
  search(term) {
    const window = this.frame?.contentWindow;
    if (!window) return "";
    window.reset_search();
    window.searching = 0;
    if (!term) return "";
    window.search(pattern(term).source);
    return window.searching ? this.frame.contentDocument.getElementById("matched").textContent.replace("Matched: ", "") : "no match";
  }
}

// What is searched for: a regular expression, or the text itself where it is none.
export function pattern(term) {
  try {
    return new RegExp(term);
  } catch {
    return new RegExp(term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  }
}
