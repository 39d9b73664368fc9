// ---- Labels: names, counts, and the file.

function showLabels() {
  const counts = Array(10).fill(0);
  for (const n of labels.values()) counts[n]++;
  for (const n of NUMBERS) {
    const item = $("labels").children[n - 1];
    item.querySelector("input").value = names[n];
    item.querySelector("output").textContent = counts[n] || "";
  }
  const options = [["", "all"], ["0", "unlabelled"], ["any", "labelled"], ...NUMBERS.map((n) => [n, `${names[n] === String(n) ? "label" : n} ${names[n]}`])];
  fill($("label-filter"), options);
  const all = Math.max(entries.length, page.total ?? 0);
  $("count").textContent = view.length < all ? `${view.length} of ${all} targets` : `${all} targets`;
  $("labelled").textContent = `${labels.size} labelled`;
  $("save").disabled = labels.size === 0;
  $("save").classList.toggle("unsaved", unsaved());
  $("undo").disabled = history.length === 0;
}

function fill(list, options) {
  const { value } = list;
  list.replaceChildren(...options.map(([option, text]) => make("option", { value: option, textContent: text })));
  list.value = value || "";
  if (list.selectedIndex < 0) list.selectedIndex = 0;
}

function rename(n, text) {
  const name = text.trim() || String(n);
  if (names.some((other, i) => i && i !== n && other === name)) say(`Label ${names.indexOf(name)} has the name ${name} already.`);
  else names[n] = name;
  changed();
  if (large.open) enlarge();
}

const quoted = (value) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

function csv() {
  const numbers = $("numbers").checked;
  const rows = [["object_id", "ra", "dec", "label", ...(numbers ? ["label_name"] : [])]];
  for (const [index, n] of [...labels].sort((a, b) => a[0] - b[0])) {
    const { id, values } = entries[index];
    rows.push([id, values.get("ra") ?? "", values.get("dec") ?? "", ...(numbers ? [n, names[n]] : [names[n]])]);
  }
  return rows.map((row) => `${row.map((value) => quoted(String(value))).join(",")}\n`).join("");
}

function save() {
  if (!labels.size) return say("No target has a label.");
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: url, download: "labels.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  saved = state();
  changed();
  say(`Labels saved as labels.csv: ${labels.size}.`);
}

function parse(text) {
  const rows = [[]];
  for (const [, quotedValue, plain, end] of text.replace(/^\ufeff/, "").matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/g)) {
    rows.at(-1).push(quotedValue === undefined ? plain : quotedValue.replaceAll('""', '"'));
    if (end === "") break;
    if (end !== ",") rows.push([]);
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

// Rows are matched by id; where several targets have one id, also by position, and then by order.
function load(text) {
  const [header = [], ...rows] = parse(text);
  const [idColumn, raColumn, decColumn, labelColumn, nameColumn] = ["object_id", "ra", "dec", "label", "label_name"].map((name) => header.indexOf(name));
  if (idColumn < 0 || labelColumn < 0) return say("The file has no columns object_id and label.");
  const byId = Map.groupBy ? Map.groupBy(entries.keys(), (i) => String(entries[i].id)) : grouped();
  const used = new Set();
  const changes = [];
  let unknown = 0;
  const full = new Set();
  for (const row of rows) {
    const candidates = byId.get(row[idColumn]) ?? [];
    const at = (i, name, column) => column < 0 || entries[i].values.get(name) === Number(row[column]);
    const index = candidates.length > 1
      ? candidates.find((i) => !used.has(i) && at(i, "ra", raColumn) && at(i, "dec", decColumn)) : candidates[0];
    if (index === undefined) {
      unknown++;
      continue;
    }
    used.add(index);
    const n = numberOf(row[labelColumn], nameColumn < 0 ? "" : row[nameColumn], changes);
    if (n) changes.push([index, n]);
    else full.add(row[labelColumn]);
  }
  change(changes);
  showLabels();
  layout();
  const others = unknown ? ` Rows of targets that are not in this page: ${unknown}.` : "";
  const left = full.size ? ` No number is free for ${[...full].join(", ")}.` : "";
  say(`Labels loaded: ${changes.length}.${others}${left}`);
}

function grouped() {
  const found = new Map();
  entries.forEach((entry, i) => found.set(String(entry.id), [...(found.get(String(entry.id)) ?? []), i]));
  return found;
}

// The number of a label in a file: that of its name, or the number itself, or the first that has neither name nor targets.
function numberOf(text, name, changes) {
  if (/^[1-9]$/.test(text) && name) {
    if (names[text] === text && !names.includes(name)) names[text] = name;
    return names.indexOf(name) > 0 ? names.indexOf(name) : Number(text);
  }
  if (names.indexOf(text) > 0) return names.indexOf(text);
  if (/^[1-9]$/.test(text)) return Number(text);
  const taken = new Set([...labels.values(), ...changes.map(([, n]) => n)]);
  const free = text && NUMBERS.find((n) => names[n] === String(n) && !taken.has(n));
  if (free) names[free] = text;
  return free;
}
