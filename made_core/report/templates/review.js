"use strict";
// The page of `made review`. Marks are kept in the browser's storage, by pair; nothing is sent anywhere.
const { run, decisions_digest, bands, pairs } = JSON.parse(document.getElementById("data").textContent);
const KEY = `made-review ${run} ${decisions_digest}`;
const Z = 1.959963984540054; // 95 %
const at = (id) => document.getElementById(id);
const keyOf = (pair) => `${bands[pair.band].eps} ${pair.removed.uid} ${pair.kept.uid}`;

let marks = {}; // key of a pair -> whether it is right
try {
  marks = JSON.parse(localStorage.getItem(KEY)) || {};
} catch {
  at("storage").hidden = false;
}
let place = Math.max(0, pairs.findIndex((pair) => !(keyOf(pair) in marks)));

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify(marks));
  } catch {
    at("storage").hidden = false;
  }
}

// The same as made_core/report/marks.py: Wilson's interval of a band, and its sum over bands.
function ofBand(removed, marked, right) {
  if (!marked) return null;
  const p = right / marked;
  if (marked >= removed) return { p, low: p, high: p };
  const z2 = (Z * Z) / marked;
  const middle = (p + z2 / 2) / (1 + z2);
  const half = (Z / (1 + z2)) * Math.sqrt((p * (1 - p)) / marked + z2 / (4 * marked));
  return { p, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

function upTo(some) {
  const total = some.reduce((sum, band) => sum + band.removed, 0);
  let p = 0, below = 0, above = 0;
  for (const band of some.filter((band) => band.removed)) {
    const part = ofBand(band.removed, band.marked, band.right);
    if (!part) return null;
    const weight = band.removed / total;
    p += weight * part.p;
    below += (weight * (part.p - part.low)) ** 2;
    above += (weight * (part.high - part.p)) ** 2;
  }
  if (!total) return null;
  return { p, low: Math.max(0, p - Math.sqrt(below)), high: Math.min(1, p + Math.sqrt(above)) };
}

const text = (found) =>
  found ? `${found.p.toFixed(3)} (${found.low.toFixed(3)} to ${found.high.toFixed(3)})` : "\u2013";

function counts() {
  const every = bands.map((band) => ({ removed: band.removed, marked: 0, right: 0 }));
  for (const pair of pairs) {
    const key = keyOf(pair);
    if (!(key in marks)) continue;
    every[pair.band].marked += 1;
    every[pair.band].right += marks[key] ? 1 : 0;
  }
  return every;
}

function showCounts() {
  const every = counts();
  every.forEach((band, n) => {
    const cells = at(`band-${n}`).cells;
    cells[2].textContent = band.marked;
    cells[3].textContent = band.right;
    cells[4].textContent = text(ofBand(band.removed, band.marked, band.right));
    cells[5].textContent = text(upTo(every.slice(0, n + 1)));
  });
  const marked = every.reduce((sum, band) => sum + band.marked, 0);
  at("progress").textContent = `${marked} of ${pairs.length} pairs marked`;
  at("bar").value = marked;
  at("save").disabled = !marked;
}

function showSide(name, sample) {
  const figure = at(name), image = figure.querySelector("img");
  image.hidden = !sample.image;
  figure.querySelector(".blank").hidden = !!sample.image;
  if (sample.image) image.src = sample.image;
  image.alt = `${name === "kept" ? "Kept" : "Removed"} image ${sample.where}`;
  const caption = figure.querySelector(".caption");
  caption.textContent = sample.caption.trim() || "no caption";
  caption.classList.toggle("label", !sample.caption.trim());
  figure.querySelector(".where").textContent = sample.where;
  figure.querySelector(".where").title = `uid ${sample.uid}`;
}

function showPair() {
  const pair = pairs[place], mark = marks[keyOf(pair)];
  showSide("kept", pair.kept);
  showSide("removed", pair.removed);
  const similarity = pair.removed.similarity;
  const number = Number.isFinite(similarity) ? similarity.toFixed(4) : "unknown";
  at("about").textContent = `Pair ${place + 1} of ${pairs.length} \u00b7 similarity ${number}`;
  at("mark").textContent = mark === undefined ? "not marked" : mark ? "marked right" : "marked wrong";
  at("mark").className = mark === undefined ? "label" : mark ? "good" : "bad";
  at("right").setAttribute("aria-pressed", mark === true);
  at("wrong").setAttribute("aria-pressed", mark === false);
  at("clear").disabled = mark === undefined;
}

function go(to) {
  place = (to + pairs.length) % pairs.length;
  showPair();
}

function set(value) {
  const key = keyOf(pairs[place]);
  if (value === undefined) delete marks[key];
  else marks[key] = value;
  keep();
  showCounts();
  if (value === undefined) return showPair();
  // On to the next pair without a mark; at the end of the last one, stay.
  const order = pairs.map((_, n) => (place + 1 + n) % pairs.length);
  const next = order.find((n) => !(keyOf(pairs[n]) in marks));
  go(next === undefined ? place : next);
}

function save() {
  const some = pairs.filter((pair) => keyOf(pair) in marks);
  const content = {
    format: "made-marks", run, decisions_digest, eps: bands.map((band) => band.eps),
    marks: some.map((pair) => ({
      eps: bands[pair.band].eps, kept: pair.kept.uid, removed: pair.removed.uid, right: marks[keyOf(pair)],
    })),
  };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }));
  link.download = `marks-${run}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

if (pairs.length) {
  const actions = {
    right: () => set(true), wrong: () => set(false), clear: () => set(undefined),
    next: () => go(place + 1), previous: () => go(place - 1),
  };
  const keys = {
    r: "right", w: "wrong", n: "next", p: "previous", u: "clear", ArrowRight: "next", ArrowLeft: "previous",
  };
  for (const [name, act] of Object.entries(actions)) at(name).addEventListener("click", act);
  document.addEventListener("keydown", (event) => {
    const name = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!name || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[name]();
  });
  at("save").addEventListener("click", save);
  at("work").hidden = false;
  showCounts();
  showPair();
}
