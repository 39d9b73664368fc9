"use strict";

const $ = (id) => document.getElementById(id);
const grid = $("grid");
const large = $("large");

// Okabe & Ito (2008): colours that people with any colour vision tell apart; the number is always shown as well.
const COLOURS = [null, "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999", "var(--text)"];
const WHITE_TEXT = new Set([3, 5, 6]);
const NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8, 9];
const GAP = 10;
const LINE = 14;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function say(text) {
  $("message").textContent = text;
}

// ---- Targets. What a number of JSON cannot hold comes as a list of its text: large integers, infinity.

const exact = (value) => (!Array.isArray(value) ? value : value[0].endsWith("Infinity") ? Number(value[0]) : BigInt(value[0]));
const page = JSON.parse($("page").textContent);
const entries = [...document.querySelectorAll("script.entries")].flatMap((script) => JSON.parse(script.textContent));
const columns = new Map(); // name -> whether it holds numbers
for (const entry of entries) {
  entry.id = exact(entry.id);
  entry.values = new Map([["object_id", entry.id], ["row", entry.row], ...entry.values.map(([name, v]) => [name, exact(v)])]);
  for (const [name, value] of entry.values) {
    const number = value === null || typeof value === "number" || typeof value === "bigint";
    columns.set(name, (columns.get(name) ?? true) && number);
  }
}

// The pictures stay text, one line for each target, until the target comes into view.
const blocks = [...document.querySelectorAll("script.pictures")];
const lines = [];
function pictures(index) {
  const block = Math.floor(index / page.block);
  lines[block] ??= blocks[block].textContent.split("\n");
  return JSON.parse(lines[block][index % page.block]);
}

const planeColour = (name) => COLOURS[1 + (page.planes.indexOf(name) % 8)];
const labelStyle = (n) => `background:${COLOURS[n]};color:${n === 9 ? "var(--surface)" : WHITE_TEXT.has(n) ? "#fff" : "#000"}`;
function legend({ outlines }) {
  const names = $("masks").checked ? Object.keys(outlines) : [];
  const spans = names.map((name) => make("span", { style: `color:${planeColour(name)}` }, make("b", { textContent: name })));
  return make("div", { className: "legend" }, ...spans);
}

// Numbers with up to nine digits, integers with all; what is missing is empty.
function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" && !Number.isInteger(value) && Number.isFinite(value)) {
    return String(Number(value.toPrecision(9)));
  }
  return String(value);
}

// ---- State. Labels are kept by the place of the target in the given order.

const labels = new Map();
const names = [null, ...NUMBERS.map(String)];
const history = [];
let saved = ""; // the state at the last download
let view = entries.map((_, index) => index); // the targets that pass the filters, sorted
let place = new Map(); // index -> place in the view
let current = 0;

const state = () => JSON.stringify([[...labels].sort((a, b) => a[0] - b[0]), names, $("numbers").checked]);
const unsaved = () => labels.size > 0 && state() !== saved;
const key = `lsstcutouts-gallery-${page.fingerprint}`;

function store() {
  try {
    localStorage.setItem(key, JSON.stringify({ state: state(), saved: !unsaved() }));
  } catch {
    say("This browser does not keep labels: they are lost on leaving unless you save them.");
  }
}

function restore() {
  try {
    const text = localStorage.getItem(key);
    if (!text) return;
    const kept = JSON.parse(text);
    const [pairs, keptNames, numbers] = JSON.parse(kept.state);
    labels.clear();
    for (const [index, n] of pairs) labels.set(index, n);
    names.splice(0, 10, ...keptNames);
    $("numbers").checked = numbers;
    saved = kept.saved ? kept.state : "";
  } catch {
    say("This browser does not keep labels: they are lost on leaving unless you save them.");
  }
}

function change(changes) {
  if (!changes.length) return;
  history.push({ changes: changes.map(([index]) => [index, labels.get(index) ?? 0]), current });
  apply(changes);
}

function apply(changes) {
  for (const [index, n] of changes) {
    if (n) labels.set(index, n);
    else labels.delete(index);
    cells.get(index)?.replaceWith(cell(index));
  }
  changed();
  if ($("label-filter").value) select();
}

function changed() {
  store();
  showLabels();
}

function label(n) {
  if (!view.length) return;
  const next = n ? view[Math.min(place.get(current) + 1, view.length - 1)] : current;
  const labelled = current;
  say("");
  current = next;
  change([[labelled, n]]);
  move(current);
}

function undo() {
  const last = history.pop();
  if (!last) return say("There is nothing to undo.");
  say("");
  current = last.changes[0][0];
  apply(last.changes);
  move(last.changes.length === 1 ? last.changes[0][0] : last.current);
}

// ---- Filter and sort.

const limit = (text) => (/^\s*[+-]?\d+\s*$/.test(text) ? BigInt(text.trim().replace("+", "")) : Number(text));

// After a change of filter or order, `fresh`, the first target is selected; while labelling, the one that took the place.
function select(fresh) {
  const wanted = $("label-filter").value;
  const column = $("column").value;
  const numeric = columns.get(column);
  const range = ["least", "most"].map((id) => {
    const value = $(id).value.trim() ? limit($(id).value) : null;
    $(id).setAttribute("aria-invalid", String(Number.isNaN(value)));
    return Number.isNaN(value) ? null : value;
  });
  const text = $("contains").value.toLowerCase();
  const passes = (index) => {
    const n = labels.get(index) ?? 0;
    if (wanted === "any" ? !n : wanted && Number(wanted) !== n) return false;
    if (!column) return true;
    const value = entries[index].values.get(column) ?? null;
    if (!numeric) return !text || shown(value).toLowerCase().includes(text);
    if (range[0] === null && range[1] === null) return true;
    return value !== null && (range[0] === null || value >= range[0]) && (range[1] === null || value <= range[1]);
  };
  const position = place.get(current) ?? 0;
  view = entries.map((_, index) => index).filter(passes);
  sortView();
  place = new Map(view.map((index, i) => [index, i]));
  if (fresh || !place.has(current)) current = view[fresh ? 0 : Math.min(position, view.length - 1)] ?? 0;
  layout();
}

function sortView() {
  const column = $("sort").value;
  const sign = $("direction").textContent === "\u2191" ? 1 : -1;
  if (!column) {
    if (sign < 0) view.reverse();
    return;
  }
  const order = columns.get(column) ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : new Intl.Collator("en", { numeric: true }).compare;
  const values = new Map(view.map((index) => [index, entries[index].values.get(column) ?? null]));
  view.sort((i, j) => {
    const [a, b] = [values.get(i), values.get(j)];
    if (a === null || b === null) return (a === null) - (b === null); // missing values come last in both directions
    return sign * order(a, b);
  });
}

// ---- The grid: only cells in view, and one row above and below, exist.

const largest = (values, least) => values.reduce((a, b) => Math.max(a, b), least);
const tallest = largest(entries.map((entry) => entry.size[1] / entry.size[0]), 0.25);
const captionLines = Math.min(4, largest(entries.map((entry) => entry.caption && entry.caption.split("\n").length), 0));
const cells = new Map();
let across = 1;
let cellWidth = 112;
let rowHeight = 1;

function layout() {
  const room = grid.clientWidth - GAP;
  across = Math.max(1, Math.floor(room / (Number($("size").value) + GAP)));
  cellWidth = Math.floor(room / across) - GAP; // at least the chosen size: rows fill the width
  rowHeight = Math.ceil(cellWidth * tallest) + captionLines * LINE + 4 + GAP;
  $("canvas").style.height = `${Math.ceil(view.length / across) * rowHeight + GAP}px`;
  cells.clear();
  $("canvas").replaceChildren();
  if (!view.length) {
    const text = entries.length ? "No target passes the filters." : "This page has no targets.";
    $("canvas").append(make("p", { id: "empty", textContent: text }));
  }
  showCells();
  move(current);
}

function showCells() {
  const first = Math.max(0, Math.floor(grid.scrollTop / rowHeight) - 1) * across;
  const last = Math.min(view.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / rowHeight) + 1) * across);
  for (const [index, node] of cells) {
    const i = place.get(index);
    if (i < first || i >= last) {
      node.remove();
      cells.delete(index);
    }
  }
  const added = [];
  for (let i = first; i < last; i++) if (!cells.has(view[i])) added.push(cell(view[i]));
  $("canvas").append(...added);
}

function cell(index) {
  const entry = entries[index];
  const i = place.get(index);
  const n = labels.get(index);
  const number = Math.max(0, entry.panels.findIndex(([name]) => name === $("panel").value));
  const node = make("div", { className: "cell", id: `target-${index}` });
  node.setAttribute("role", "option");
  node.setAttribute("aria-selected", String(index === current));
  node.setAttribute("aria-label", `${entry.id}, ${n ? `label ${names[n]}` : "no label"}`);
  node.setAttribute("aria-posinset", i + 1);
  node.setAttribute("aria-setsize", view.length);
  node.dataset.index = index;
  node.style.cssText = `left:${GAP + (i % across) * (cellWidth + GAP)}px;top:${GAP + Math.floor(i / across) * rowHeight}px;width:${cellWidth}px`;
  const image = picture(entry, pictures(index), number, cellWidth);
  if (n) {
    node.classList.add("labelled");
    node.style.setProperty("--label", COLOURS[n]);
    image.append(make("span", { className: "badge", style: labelStyle(n), textContent: n }));
  }
  node.classList.toggle("current", index === current);
  node.append(image, caption(entry));
  cells.set(index, node);
  return node;
}

// Ids often differ in their last digits: a line that is too long loses its middle.
const pen = document.createElement("canvas").getContext("2d");
function shortened(text) {
  pen.font = `11px ${getComputedStyle(grid).fontFamily}`;
  const { width } = pen.measureText(text.slice(0, 1000));
  if (text.length < 1000 && width <= cellWidth) return text;
  const half = Math.floor((Math.min(text.length, 1000) * cellWidth) / width / 2) - 1;
  return `${text.slice(0, half)}\u2026${text.slice(-half)}`;
}

function caption(entry, whole) {
  const lines = entry.caption ? entry.caption.split("\n") : [];
  const texts = whole ? lines : lines.slice(0, captionLines).map(shortened);
  return make("div", { className: "caption" }, ...texts.map((textContent) => make("div", { textContent })));
}

function picture(entry, { panels, outlines }, number, width) {
  const [across, down] = entry.size;
  const [name, missing] = entry.panels[number];
  const node = make("div", { className: "picture", style: `width:${width}px;height:${(width * down) / across}px` });
  node.append(make("img", { alt: name, decoding: "async", draggable: false, src: `data:image/webp;base64,${panels[number]}` }));
  const scale = width / across;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${width * (down / across)}` });
  if ($("masks").checked) {
    for (const [plane, d] of Object.entries(outlines)) {
      const shape = { d, transform: `scale(${scale})`, "vector-effect": "non-scaling-stroke" };
      svg.append(draw("path", { ...shape, class: "under" }));
      svg.append(draw("path", { ...shape, stroke: planeColour(plane), "stroke-width": 1.4 }));
    }
  }
  if ($("marks").checked) svg.append(...marks(entry, scale, width, width * (down / across)));
  node.append(svg);
  if (missing) node.append(make("span", { className: "missing", textContent: missing }));
  return node;
}

// Circle at the target, arrows to north and east, and a bar of 1, 2 or 5 times a power of ten arcseconds.
function marks(entry, scale, width, height) {
  const [x, y] = [(entry.target[0] + 0.5) * scale, (entry.size[1] - 0.5 - entry.target[1]) * scale];
  const radius = Math.max(5, width * 0.09);
  const lines = [`M${x - radius},${y}a${radius},${radius} 0 1 0 ${2 * radius},0a${radius},${radius} 0 1 0 ${-2 * radius},0`];
  const texts = [];
  if (width >= 80 && entry.scale) { // null: no file of this target was read
    // Where the arrows start, so that both lie in the lower right corner, however the sky is turned.
    const length = width < 200 ? 12 : 26;
    const sx = width - length / 2 - 10 - ((entry.north[0] + entry.east[0]) * length) / 2;
    const sy = height - length / 2 - 10 + ((entry.north[1] + entry.east[1]) * length) / 2;
    for (const [letter, [dx, dy]] of [["N", entry.north], ["E", entry.east]]) {
      const [ex, ey] = [sx + dx * length, sy - dy * length];
      const [hx, hy] = [dx * length * 0.25, -dy * length * 0.25];
      lines.push(`M${sx},${sy}L${ex},${ey}M${ex - hx - hy * 0.7},${ey - hy + hx * 0.7}L${ex},${ey}L${ex - hx + hy * 0.7},${ey - hy - hx * 0.7}`);
      texts.push(draw("text", { x: ex + dx * 5, y: ey - dy * 5 + 3, "text-anchor": "middle" }, letter));
    }
    const most = width * 0.4 * (entry.scale / scale);
    const power = 10 ** Math.floor(Math.log10(most));
    const arcsec = power * [5, 2, 1].find((step) => step * power <= most);
    const bar = (arcsec / entry.scale) * scale;
    const bottom = height - 5;
    lines.push(`M5,${bottom - 2}v4M5,${bottom}h${bar}m0,-2v4`);
    texts.push(draw("text", { x: 5 + bar / 2, y: bottom - 4, "text-anchor": "middle" }, `${shown(arcsec)}\u2033`));
  }
  const d = lines.join("");
  return [draw("path", { d, class: "under" }), draw("path", { d, class: "over" }), ...texts];
}

// ---- The selected target, and what is shown of it.

function move(index) {
  for (const [i, node] of cells) {
    node.classList.toggle("current", i === index);
    node.setAttribute("aria-selected", String(i === index));
  }
  current = index;
  if (!view.length) {
    grid.removeAttribute("aria-activedescendant");
    $("details").replaceChildren();
    if (large.open) large.close();
    return;
  }
  const top = Math.floor(place.get(index) / across) * rowHeight;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + rowHeight + GAP > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + rowHeight + GAP - grid.clientHeight;
  grid.setAttribute("aria-activedescendant", `target-${index}`);
  const entry = entries[index];
  $("details").replaceChildren(caption(entry, true), legend(pictures(index)), table(entry));
  if (large.open) enlarge();
}

function step(by) {
  if (view.length) move(view[Math.min(view.length - 1, Math.max(0, place.get(current) + by))]);
}

function table(entry) {
  const rows = [...entry.values].map(([name, value]) => {
    const cell = make("td", { title: value ?? "" }, make("div", { textContent: shown(value) }));
    return make("tr", {}, make("th", { scope: "row", textContent: name }), cell);
  });
  return make("table", { className: "columns" }, ...rows);
}

// All pictures of the selected target, as large as they fit.
function enlarge() {
  if (!view.length) return;
  const entry = entries[current];
  const found = pictures(current);
  if (!large.open) large.showModal();
  const narrow = window.innerWidth <= 760;
  const [width, height] = narrow ? [window.innerWidth * 0.86, Infinity] : [window.innerWidth * 0.96 - 356, window.innerHeight * 0.94 - 36];
  const first = entry.panels.length > 2 && !narrow ? 2 : 1; // of several pictures the first is twice as large
  const [across, unit] = fitted(entry.panels.length, first, entry.size[1] / entry.size[0], width, height);
  const figures = entry.panels.map(([name], number) => {
    const panelWidth = number ? unit : first * (unit + GAP) - GAP;
    return make("figure", {}, picture(entry, found, number, panelWidth), make("figcaption", { textContent: name }));
  });
  const n = labels.get(current);
  const tag = n ? make("span", { className: "tag", style: labelStyle(n), textContent: names[n] === String(n) ? n : `${n} ${names[n]}` })
    : make("span", { className: "tag", textContent: "no label" });
  const button = (textContent, title, onclick) => make("button", { type: "button", textContent, title, onclick });
  const bar = make("div", { className: "bar" }, tag, button("\u2190", "previous", () => step(-1)),
    button("\u2192", "next", () => step(1)), button("Close", "Escape", () => large.close()));
  const side = make("div", { className: "side" }, bar, caption(entry, true), legend(found), table(entry));
  const panels = make("div", { className: "panels", style: `grid-template-columns:repeat(${across},${unit}px)` }, ...figures);
  panels.classList.toggle("first", first > 1);
  large.replaceChildren(panels, side);
}

// Columns and width in screen pixels of the largest pictures that fit in a room; the first takes `first` rows and columns.
// Full rows are worth a little size.
function fitted(count, first, shape, width, height) {
  let best = [first, 60];
  let most = 0;
  for (let across = first; across <= count + 3; across++) {
    const down = Math.max(first, Math.ceil((count - 1 + first * first) / across));
    const unit = Math.floor(Math.min(width / across - GAP, (height / down - GAP - 20) / shape));
    const score = unit * (1 - 0.05 * (across * down - (count - 1 + first * first)));
    if (score > most && unit >= 60) [best, most] = [[across, unit], score];
  }
  return best;
}
