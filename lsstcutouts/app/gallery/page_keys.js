// ---- Controls and keys.

function resize(by) {
  $("size").value = Number($("size").value) + by;
  layout();
}

function toggle(id) {
  $(id).checked = !$(id).checked;
  layout();
}

function nextPicture() {
  const list = $("panel");
  list.selectedIndex = (list.selectedIndex + 1) % list.options.length;
  layout();
}

function pageful() {
  return Math.max(1, Math.floor(grid.clientHeight / rowHeight)) * across;
}

const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  ArrowUp: () => step(large.open ? -1 : -across),
  ArrowDown: () => step(large.open ? 1 : across),
  PageUp: () => step(-pageful()),
  PageDown: () => step(pageful()),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  Enter: () => enlarge(),
  Backspace: () => label(0),
  0: () => label(0),
  u: undo,
  "+": () => resize(16),
  "=": () => resize(16),
  "-": () => resize(-16),
  b: nextPicture,
  m: () => toggle("marks"),
  o: () => toggle("masks"),
  s: save,
  "?": () => $("keys").showModal(),
  ...Object.fromEntries(NUMBERS.map((n) => [n, () => label(n)])),
};

document.addEventListener("keydown", (event) => {
  const { target, key: pressed } = event;
  if (target.matches("input:not([type=checkbox], [type=range]), select")) {
    if (pressed === "Escape" || (pressed === "Enter" && target.matches("input"))) grid.focus();
    return;
  }
  if ($("keys").open || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (pressed === "z") {
      event.preventDefault();
      undo();
    }
    return;
  }
  if (target.matches("button") && pressed === "Enter") return;
  if (target.matches("[type=range]") && /^(Arrow|Page|Home|End)/.test(pressed)) return;
  // On a French keyboard the row of digits gives digits only with Shift.
  const digit = event.shiftKey ? undefined : /^Digit(\d)$/.exec(event.code)?.[1];
  const action = KEYS[pressed] ?? KEYS[digit];
  if (!action) return;
  event.preventDefault();
  action();
});

// A cell that the scrolling moves under a resting mouse is not selected.
let pointer = "";
grid.addEventListener("pointermove", (event) => {
  const at = `${event.clientX},${event.clientY}`;
  const node = event.target.closest(".cell");
  if (node && at !== pointer && Number(node.dataset.index) !== current) move(Number(node.dataset.index));
  pointer = at;
});
grid.addEventListener("click", (event) => {
  const node = event.target.closest(".cell");
  if (node) move(Number(node.dataset.index));
});
grid.addEventListener("dblclick", (event) => {
  if (event.target.closest(".cell")) enlarge();
});
let waiting = false;
grid.addEventListener("scroll", () => {
  if (!waiting) requestAnimationFrame(() => {
    waiting = false;
    showCells();
  });
  waiting = true;
});
new ResizeObserver(() => {
  if (grid.clientWidth) layout();
  if (large.open) enlarge();
}).observe(grid);
large.addEventListener("close", () => grid.focus());
$("keys").addEventListener("close", () => grid.focus());

for (const n of NUMBERS) {
  const input = make("input", { maxLength: 60, ariaLabel: `name of label ${n}`, onchange: () => rename(n, input.value) });
  const button = make("button", { type: "button", style: labelStyle(n), textContent: n, title: `label the selected target ${n}`, onclick: () => label(n) });
  $("labels").append(make("li", {}, button, input, make("output")));
}
fill($("column"), [["", "any column"], ...[...columns.keys()].map((name) => [name, name])]);
fill($("sort"), [["", "given order"], ...[...columns.keys()].map((name) => [name, name])]);
const panelNames = new Set(entries.flatMap((entry) => entry.panels.map(([name]) => name)));
fill($("panel"), [...panelNames].map((name) => [name, name]));
$("panel-group").hidden = panelNames.size < 2;
$("masks-group").hidden = page.planes.length === 0;
function show() {
  select(true);
  showLabels();
}
function showColumn() {
  const numeric = columns.get($("column").value);
  $("least").hidden = $("most").hidden = numeric !== true;
  $("contains").hidden = numeric !== false;
  show();
}
$("column").onchange = showColumn;
for (const id of ["label-filter", "sort"]) $(id).onchange = show;
for (const id of ["least", "most", "contains"]) $(id).oninput = show;
$("direction").onclick = () => {
  const up = $("direction").textContent === "\u2193";
  $("direction").textContent = up ? "\u2191" : "\u2193";
  $("direction").ariaLabel = up ? "ascending" : "descending";
  show();
};
$("panel").onchange = layout;
$("size").oninput = layout;
$("marks").onchange = layout;
$("masks").onchange = layout;
$("numbers").onchange = changed;
$("save").onclick = save;
$("undo").onclick = undo;
$("load").onclick = () => $("file").click();
$("file").onchange = async () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) load(await file.text());
};
$("show-keys").onclick = () => $("keys").showModal();
window.addEventListener("beforeunload", (event) => {
  if (unsaved()) event.preventDefault();
});
window.addEventListener("storage", (event) => {
  if (event.key !== key) return; // another tab with this page
  restore();
  showLabels();
  layout();
});

document.querySelector("header").addEventListener("change", (event) => {
  if (event.target.matches("select:not(:focus-visible)")) grid.focus(); // chosen with the mouse: keys label again
});

restore();
showColumn();
grid.focus({ focusVisible: false });
document.documentElement.dataset.ready = "";
