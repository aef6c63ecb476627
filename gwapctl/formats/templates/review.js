"use strict";
(() => {
const review = JSON.parse(document.getElementById("data").textContent);
// an image: {n, id, image, w, h, doubt, none, shown: [box], maps: [[class, ...], ...]}; a box: [class, score, x0, y0, x1, y1]
const { images, classes, colours } = review;
const KEY = "gwapctl-review:" + review.review;
const STEP = 0.01;  // of the longer side: what an arrow key moves
const SMALLEST = 4;  // pixels on the screen that a drawn box has at least
const $ = (id) => document.getElementById(id);
const make = (tag, name, text) => Object.assign(document.createElement(tag), { className: name || "", textContent: text || "" });
const draw = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const colour = (c) => colours[c % colours.length];
const label = (c) => classes[c].label;
const percent = (value) => Math.round(100 * value) + " %";

// ------------------------------------------------------------------------------------------------------- what is decided

const decided = new Map();  // number of an image -> {decision, boxes}
const past = [];  // what undo restores: {i, before, key}
const boxesOf = (i) => (decided.get(i) || { boxes: images[i].shown }).boxes;
const stateOf = (i) => (decided.get(i) || { decision: "open" }).decision;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) || "{}");
    for (const name of kept.classes || []) classNumber(name.label, name.label_id);
    for (const [i, decision, boxes] of kept.decided || []) if (images[i]) decided.set(i, { decision, boxes });
  } catch (error) { notice("This browser keeps nothing for this page. Download decisions.json before you close it."); }
}

let timer = 0;
function save() {
  clearTimeout(timer);
  timer = setTimeout(write, 150);
}
function write() {
  clearTimeout(timer);
  const rows = [...decided].map(([i, one]) => [i, one.decision, one.boxes]);
  try { localStorage.setItem(KEY, JSON.stringify({ classes, decided: rows })); }
  catch (error) { notice("This browser cannot keep the decisions. Download decisions.json before you close the page."); }
}
addEventListener("pagehide", write);
document.addEventListener("visibilitychange", () => { if (document.hidden) write(); });

function notice(text) { $("notice").textContent = text; $("notice").hidden = false; }

function put(i, now, key) {
  const last = past[past.length - 1];
  if (!(key && last && last.key === key && last.i === i)) past.push({ i, before: decided.get(i), key });
  if (now) decided.set(i, now); else decided.delete(i);
  changed(i);
}
const waiting = new Set();  // what the next frame does, once
function soon(does) {
  if (!waiting.size) requestAnimationFrame(() => { const all = [...waiting]; waiting.clear(); all.forEach((one) => one()); });
  waiting.add(does);
}
function changed(i) {
  save();
  paintCard(i);
  soon(progress);
  if (open === i) paintEditor();
}
function edit(i, boxes, key) {
  put(i, { decision: same(boxes, images[i].shown) ? "accepted" : "corrected", boxes }, key);
}
function accept(i) {
  if (stateOf(i) === "accepted") put(i, undefined);
  else if (stateOf(i) !== "corrected") edit(i, boxesOf(i));
}
function reject(i) {
  put(i, stateOf(i) === "rejected" ? undefined : { decision: "rejected", boxes: boxesOf(i) });
}
function undo() {
  const last = past.pop();
  if (!last) return;
  if (last.before) decided.set(last.i, last.before); else decided.delete(last.i);
  if (open !== null && open !== last.i) show(last.i);
  chosen = null;
  changed(last.i);
}
function classNumber(name, id) {
  const found = classes.findIndex((one) => one.label === name && (id === undefined || one.label_id === id));
  return found >= 0 ? found : classes.push({ label: name, label_id: id === undefined ? "" : id }) - 1;
}

function documentOf() {
  const predictions = (boxes, score) => boxes.map((box) => (
    { label: label(box[0]), label_id: classes[box[0]].label_id, score: score === undefined ? box[1] : score, box: box.slice(2) }));
  const rows = images.flatMap((one, i) => {
    const { decision, boxes } = decided.get(i) || {};
    if (!decision) return [];
    const kept = decision === "rejected" ? [] : predictions(boxes, 1);
    return [{ image: one.image, id: one.id, width: one.w, height: one.h, decision, predictions: kept, proposed: predictions(one.shown) }];
  });
  return { schema_version: 1, review: review.review, model: review.model, images: rows };
}
function download() {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(documentOf(), null, 1) + "\n"], { type: "application/json" }));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// -------------------------------------------------------------------------------------------------------------- the grid

const cards = new Array(images.length);
let listed = [];  // numbers of the images that are shown, in order

function card(i) {
  if (cards[i]) return cards[i];
  const one = images[i];
  const node = make("article", "card");
  const button = make("button", "open");
  button.type = "button";
  const img = make("img");
  Object.assign(img, { loading: "lazy", decoding: "async", alt: "", src: `thumbs/${one.n}.jpg` });
  button.append(img, draw("svg", { viewBox: `0 0 ${one.w} ${one.h}`, "aria-hidden": "true" }));
  button.addEventListener("click", () => show(i));
  const text = make("div", "text"), act = make("div", "act");
  text.append(make("b"), make("span"));
  const yes = make("button", "good", "✓"), no = make("button", "bad", "✕");
  for (const [knob, title, does] of [[yes, "Accept", accept], [no, "Reject", reject]]) {
    knob.type = "button";
    knob.title = title;
    knob.setAttribute("aria-label", `${title} ${one.id}`);
    knob.addEventListener("click", () => does(i));
  }
  act.append(make("span"), yes, no);
  node.append(button, text, act);
  node.dataset.number = i;
  cards[i] = node;
  paintCard(i);
  return node;
}

function names(i) {
  const found = new Set(boxesOf(i).map((box) => label(box[0])));
  if (!found.size && !decided.has(i)) images[i].unboxed.forEach((c) => found.add(label(c) + " (no box)"));
  return [...found].join(", ") || "none of the classes";
}

function paintCard(i) {
  const node = cards[i];
  if (!node) return;
  const state = stateOf(i), one = images[i];
  node.dataset.state = state;
  node.querySelector("svg").replaceChildren(...boxesOf(i).flatMap((box) => {
    const [c, , x, y, x1, y1] = box, where = { x, y, width: x1 - x, height: y1 - y };
    return [draw("rect", { ...where, class: "halo" }), draw("rect", { ...where, class: "edge", stroke: colour(c) })];
  }));
  node.querySelector(".text b").textContent = names(i);
  node.querySelector(".text b").title = one.id;
  node.querySelector(".text span").textContent = one.none ? "" : "doubt " + percent(one.doubt);
  node.querySelector(".act span").textContent = state === "open" ? "to check" : state;
  const [yes, no] = node.querySelectorAll(".act button");
  yes.setAttribute("aria-pressed", state === "accepted" || state === "corrected");
  no.setAttribute("aria-pressed", state === "rejected");
  node.querySelector(".open").setAttribute("aria-label", `${one.id}: ${names(i)}, ${state === "open" ? "to check" : state}`);
}

// only the rows in view are in the page, with room for the others above and below: 5,000 images scroll like 50
const MARGIN = 2;  // rows beyond the view
let groups = [];  // {box, numbers, height, range}

function group(title, numbers) {
  const section = make("section"), head = make("h2", "", title + " "), box = make("div", "cards");
  head.append(make("span", "", numbers.length.toLocaleString("en")));
  section.append(head, box);
  $("grid").append(section);
  groups.push({ box, numbers, height: 0, range: "" });
}
function columns() {
  return groups.length ? getComputedStyle(groups[0].box).gridTemplateColumns.split(" ").length : 1;
}
function paintRows() {
  const across = columns();
  for (const one of groups) {
    const { box, numbers } = one, rows = Math.ceil(numbers.length / across);
    if (!one.height) {
      box.replaceChildren(card(numbers[0]));
      one.height = box.firstChild.getBoundingClientRect().height + parseFloat(getComputedStyle(box).rowGap);
    }
    const top = box.getBoundingClientRect().top;
    const within = (row) => Math.min(Math.max(row, 0), rows);
    const first = within(Math.floor(-top / one.height) - MARGIN), last = within(Math.ceil((innerHeight - top) / one.height) + MARGIN);
    const range = [first, last, across].join();
    if (range === one.range) continue;
    one.range = range;
    box.style.paddingTop = first * one.height + "px";
    box.style.paddingBottom = (rows - last) * one.height + "px";
    box.replaceChildren(...numbers.slice(first * across, last * across).map(card));
  }
}
function measureAnew() {
  for (const one of groups) Object.assign(one, { height: 0, range: "" });
  paintRows();
}
function reveal(i) {  // scrolls to an image of the list and gives its card the focus
  const one = groups.find(({ numbers }) => numbers.includes(i));
  if (!one) return;
  const top = one.box.getBoundingClientRect().top + Math.floor(one.numbers.indexOf(i) / columns()) * one.height;
  const header = getComputedStyle(document.querySelector("header")).position === "sticky" ? document.querySelector("header").offsetHeight : 0;
  if (top < header) scrollBy(0, top - header - 8);
  else if (top + one.height > innerHeight) scrollBy(0, top + one.height - innerHeight);
  paintRows();
  cards[i].querySelector(".open").focus({ preventScroll: true });
}

function list() {
  const wanted = $("by-class").value, state = $("by-state").value;
  const fits = (i) => (!state || stateOf(i) === state) && (wanted === "" || (wanted === "none" ? images[i].none
    : boxesOf(i).some((box) => box[0] === +wanted) || images[i].unboxed.includes(+wanted)));
  const found = images.map((_, i) => i).filter(fits);
  if ($("by-order").value === "doubt") found.sort((a, b) => images[b].doubt - images[a].doubt || a - b);
  else found.sort((a, b) => images[a].id < images[b].id ? -1 : 1);
  const some = found.filter((i) => !images[i].none), none = found.filter((i) => images[i].none);
  listed = [...some, ...none];
  groups = [];
  $("grid").replaceChildren();
  if (some.length) group("Boxes", some);
  if (none.length) group("None of the classes", none);
  if (!found.length) $("grid").append(make("p", "empty", "No image here. Choose another class or state."));
  paintRows();
}

function progress() {
  const count = (state) => [...decided.values()].filter((one) => one.decision === state).length;
  $("progress").textContent = `${decided.size.toLocaleString("en")} of ${images.length.toLocaleString("en")} checked: `
    + `${count("accepted")} accepted, ${count("corrected")} corrected, ${count("rejected")} rejected`;
  $("undo").disabled = $("back").disabled = !past.length;
}

function fillClasses() {
  const kept = $("by-class").value, none = images.some((one) => one.none);
  const option = (value, text) => Object.assign(make("option", "", text), { value });
  const order = classes.map((_, c) => c).sort((a, b) => label(a) < label(b) ? -1 : 1);
  $("by-class").replaceChildren(option("", "all"), ...order.map((c) => option(c, label(c))), ...(none ? [option("none", "none of the classes")] : []));
  $("by-class").value = kept;
}

function gridKeys(event) {
  const node = document.activeElement.closest(".card");
  if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
  const i = +node.dataset.number, at = listed.indexOf(i);
  const far = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[event.key];
  const key = event.key.toLowerCase();
  if (far !== undefined) {
    const next = listed[at + far];
    if (next !== undefined) reveal(next);
  } else if (key === "a") accept(i);
  else if (key === "r") reject(i);
  else return;
  event.preventDefault();
}

// ------------------------------------------------------------------------------------------------------------ the editor

let open = null;  // number of the image in the editor
let chosen = null;  // number of the box that is held
let scale = 1;  // pixels on the screen per pixel of the image
let gesture = null;  // what the pointer does: {kind, from: [x, y], box, boxes, now}
let drawing = false, heat = false, mask = false, lastClass = 0;

function show(i) {
  open = i;
  chosen = boxesOf(i).length === 1 ? 0 : null;
  drawing = false;
  const one = images[i];
  $("name").textContent = one.id;
  $("picture").src = `images/${one.n}.jpg`;
  if (!$("editor").open) $("editor").showModal();
  fit();
}
function close() {
  const i = open, at = listed.indexOf(open);
  open = null;
  $("editor").close();
  list();
  reveal(listed.includes(i) ? i : listed[Math.min(at, listed.length - 1)]);
}
function go(step) {
  const next = listed[listed.indexOf(open) + step];
  if (next !== undefined) show(next);
}
function goOn() {  // to the next image to check, around the end
  const at = listed.indexOf(open);
  const next = [...listed.slice(at + 1), ...listed.slice(0, at)].find((i) => stateOf(i) === "open");
  if (next !== undefined) show(next); else paintEditor();
}
function decide(decision) {
  const i = open, again = stateOf(i) === decision;
  if (decision === "nothing") edit(i, []);
  else if (decision === "rejected") reject(i);
  else if (!again) accept(i);
  if (decision !== "rejected" || !again) goOn();
}

function fit() {
  if (open === null) return;
  const { w, h } = images[open], stage = $("stage"), margin = 14;
  scale = Math.max(Math.min((stage.clientWidth - 2 * margin) / w, (stage.clientHeight - 2 * margin) / h), 0.01);
  const width = w * scale, height = h * scale, style = $("frame").style;
  style.width = width + "px";
  style.height = height + "px";
  style.left = (stage.clientWidth - width) / 2 + "px";
  style.top = (stage.clientHeight - height) / 2 + "px";
  $("canvas").setAttribute("viewBox", `0 0 ${width} ${height}`);
  paintEditor();
}

function paintEditor() {
  const boxes = gesture && gesture.now ? gesture.now : boxesOf(open), state = stateOf(open);
  if (chosen !== null && chosen >= boxes.length) chosen = null;
  $("place").textContent = `${listed.indexOf(open) + 1} / ${listed.length} · ${state === "open" ? "to check" : state}`;
  $("accept").setAttribute("aria-pressed", state === "accepted" || state === "corrected");
  $("reject").setAttribute("aria-pressed", state === "rejected");
  $("draw").setAttribute("aria-pressed", drawing);
  $("remove").disabled = chosen === null;
  paintLayers(boxes);
  paintBoxes(boxes);
  if (!gesture) paintList(boxes);
}
function paintLayers(boxes) {
  const { n, maps } = images[open], wanted = chosen === null ? undefined : boxes[chosen][0];
  const k = Math.max(maps.findIndex((of) => of.includes(wanted)), 0);
  for (const [name, on] of [["heat", heat], ["mask", mask]]) {
    const there = on && maps.length > 0;
    $(name).hidden = !there;
    if (there) $(name).src = `${name}/${n}-${k}.png`;
    $("show-" + name).setAttribute("aria-pressed", on);
    $("show-" + name).disabled = !maps.length;
  }
}
const KNOBS = { nw: [0, 0], n: [0.5, 0], ne: [1, 0], e: [1, 0.5], se: [1, 1], s: [0.5, 1], sw: [0, 1], w: [0, 0.5] };
const COARSE = matchMedia("(pointer: coarse)");
function paintBoxes(boxes) {
  const layer = draw("g", { class: drawing ? "drawing" : "" });
  const order = boxes.map((_, b) => b).sort((a, b) => (a === chosen) - (b === chosen));
  const chips = [];  // where labels stand already: two boxes of one place have theirs side by side
  for (const b of order) {
    const [c, , x0, y0, x1, y1] = boxes[b];
    const x = x0 * scale, y = y0 * scale, width = (x1 - x0) * scale, height = (y1 - y0) * scale;
    layer.append(draw("rect", { x, y, width, height, class: "halo" }), draw("rect", { x, y, width, height, class: "edge", stroke: colour(c) }));
    const wide = 10 + 8.6 * label(c).length, high = Math.max(y - 21, 0);
    let left = x;
    for (const [from, to, at] of chips) if (Math.abs(at - high) < 20 && left < to && left + wide > from) left = to + 2;
    chips.push([left, left + wide, high]);
    const tag = draw("text", { x: left + 5, y: high + 15, class: "tag" });
    tag.textContent = label(c);
    layer.append(draw("rect", { x: left, y: high, width: wide, height: 20, rx: 4, fill: colour(c) }), tag, draw("rect", { x, y, width, height, class: "body", "data-box": b }));
    if (b !== chosen) continue;
    const reach = Math.min(Math.max(Math.min(width, height) / 4, COARSE.matches ? 12 : 7), COARSE.matches ? 24 : 14);
    for (const [name, [u, v]] of Object.entries(KNOBS)) {
      if ((u === 0.5 && width < 5 * reach) || (v === 0.5 && height < 5 * reach)) continue;
      const at = { cx: x + u * width, cy: y + v * height };
      const hit = draw("circle", { ...at, r: reach, class: "hit", "data-box": b, "data-knob": name });
      hit.style.cursor = name + "-resize";
      layer.append(draw("circle", { ...at, r: 5.5, class: "knob", fill: colour(c) }), hit);
    }
  }
  $("canvas").replaceChildren(layer);
}
function paintList(boxes) {
  $("boxes").replaceChildren(...boxes.map((box, b) => {
    const row = make("li", b === chosen ? "chosen" : ""), dot = make("span", "dot"), select = make("select");
    dot.style.background = colour(box[0]);
    select.setAttribute("aria-label", `Class of box ${b + 1}`);
    select.append(...classes.map((one, c) => Object.assign(make("option", "", one.label), { value: c })));
    select.append(Object.assign(make("option", "", "another class …"), { value: "new" }));
    select.value = box[0];
    select.addEventListener("focus", () => { if (chosen !== b) { chosen = b; paintBoxes(boxesOf(open)); } });
    select.addEventListener("change", () => rename(b, select.value));
    const away = make("button", "bad", "✕");
    away.type = "button";
    away.setAttribute("aria-label", `Delete box ${b + 1}`);
    away.addEventListener("click", () => { chosen = b; remove(); });
    row.addEventListener("click", (event) => { if (event.target === row || event.target === dot) { chosen = b; paintEditor(); } });
    row.append(dot, select, make("span", "score", box[1] === null ? "drawn" : percent(box[1])), away);
    return row;
  }));
}

function rename(b, value) {
  const name = value === "new" ? (prompt("Name of the class:") || "").trim() : "";
  const c = name ? classNumber(name) : value === "new" ? NaN : +value;
  const boxes = boxesOf(open).map((box) => [...box]);
  chosen = b;
  if (Number.isNaN(c) || boxes[b][0] === c) { paintEditor(); return; }
  boxes[b][0] = lastClass = c;
  if (name) fillClasses();
  edit(open, boxes);
}
function remove() {
  if (chosen === null) return;
  const boxes = boxesOf(open).filter((_, b) => b !== chosen);
  chosen = null;
  edit(open, boxes);
}
function add(corners) {
  const i = open, boxes = boxesOf(i), first = boxes.length ? boxes[chosen === null ? 0 : chosen][0] : images[i].unboxed[0];
  const c = first === undefined ? lastClass : first;
  if (!classes.length) classNumber("object");
  chosen = boxes.length;
  edit(i, [...boxes, [c, null, ...corners]]);
}

const rounded = (value) => Math.round(value * 100) / 100;
function inside([x0, y0, x1, y1]) {
  const { w, h } = images[open];
  const cut = (value, most) => rounded(Math.min(Math.max(value, 0), most));
  return [cut(Math.min(x0, x1), w), cut(Math.min(y0, y1), h), cut(Math.max(x0, x1), w), cut(Math.max(y0, y1), h)];
}
function moved([x0, y0, x1, y1], dx, dy) {
  const { w, h } = images[open];
  dx = Math.min(Math.max(dx, -x0), w - x1);
  dy = Math.min(Math.max(dy, -y0), h - y1);
  return [x0 + dx, y0 + dy, x1 + dx, y1 + dy].map(rounded);
}
function pulled([x0, y0, x1, y1], knob, dx, dy) {
  if (knob.includes("w")) x0 += dx;
  if (knob.includes("e")) x1 += dx;
  if (knob.includes("n")) y0 += dy;
  if (knob.includes("s")) y1 += dy;
  return inside([x0, y0, x1, y1]);
}
const solid = ([x0, y0, x1, y1]) => (x1 - x0) * scale >= SMALLEST && (y1 - y0) * scale >= SMALLEST;

function spot(event) {
  const area = $("canvas").getBoundingClientRect();
  return [(event.clientX - area.left) / scale, (event.clientY - area.top) / scale];
}
function pointerDown(event) {
  if (event.button || gesture) return;
  const { box, knob } = event.target.dataset;
  const kind = drawing || box === undefined ? "draw" : knob ? "pull" : "move";
  if (kind !== "draw") chosen = +box;
  gesture = { kind, knob, from: spot(event), boxes: boxesOf(open), id: event.pointerId };
  $("stage").setPointerCapture(event.pointerId);
  event.preventDefault();
  paintEditor();
}
function pointerMove(event) {
  if (!gesture || event.pointerId !== gesture.id) return;
  const [x, y] = spot(event), [fx, fy] = gesture.from, boxes = gesture.boxes.map((box) => [...box]);
  if (gesture.kind === "draw") {
    const c = boxes.length ? boxes[chosen === null ? 0 : chosen][0] : images[open].unboxed[0];
    gesture.corners = inside([fx, fy, x, y]);
    boxes.push([c === undefined ? Math.min(lastClass, classes.length - 1) : c, null, ...gesture.corners]);
  } else {
    const corners = boxes[chosen].slice(2);
    gesture.corners = gesture.kind === "move" ? moved(corners, x - fx, y - fy) : pulled(corners, gesture.knob, x - fx, y - fy);
    boxes[chosen].splice(2, 4, ...gesture.corners);
  }
  if (classes.length) gesture.now = boxes;
  soon(paintGesture);
}
function paintGesture() { if (gesture && gesture.now) paintBoxes(gesture.now); }
function pointerUp(event) {
  if (!gesture || event.pointerId !== gesture.id) return;
  const { kind, boxes, corners } = gesture;
  gesture = null;
  if (event.type === "pointercancel" || !corners || !solid(corners)) {
    if (kind === "draw" && !drawing) chosen = null;
    paintEditor();
  } else if (kind === "draw") {
    drawing = false;
    add(corners);
  } else if (!same(boxes[chosen].slice(2), corners)) {
    edit(open, boxes.map((box, b) => (b === chosen ? [box[0], box[1], ...corners] : box)));
  } else paintEditor();
}

function nudge(event, x, y) {
  const { w, h } = images[open], step = STEP * Math.max(w, h), boxes = boxesOf(open);
  const corners = boxes[chosen].slice(2);
  const next = event.shiftKey ? pulled(corners, "se", x * step, y * step) : moved(corners, x * step, y * step);
  if (solid(next)) edit(open, boxes.map((box, b) => (b === chosen ? [box[0], box[1], ...next] : box)), "nudge " + chosen);
}
function editorKeys(event) {
  const arrow = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (event.target.tagName === "SELECT") return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") undo();
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (arrow && chosen !== null) nudge(event, ...arrow);
  else if (arrow) go(arrow[0] || arrow[1]);
  else if (/^[1-9]$/.test(event.key) && chosen !== null && +event.key <= classes.length) rename(chosen, +event.key - 1);
  else {
    const { w, h } = images[open];
    const does = {
      a: () => decide("accepted"), r: () => decide("rejected"), x: () => decide("nothing"), u: undo, j: () => go(1), k: () => go(-1),
      d: () => toggleDraw(), n: () => add([w / 4, h / 4, 3 * w / 4, 3 * h / 4].map(rounded)), h: () => toggle("heat"),
      m: () => toggle("mask"), delete: remove, backspace: remove,
      b: () => { const count = boxesOf(open).length; if (count) { chosen = chosen === null ? 0 : (chosen + 1) % count; paintEditor(); } },
    }[event.key.toLowerCase()];
    if (!does) return;
    does();
  }
  event.preventDefault();
}
function toggle(name) {
  if (name === "heat") heat = !heat; else mask = !mask;
  paintEditor();
}
function toggleDraw() { drawing = !drawing; paintEditor(); }

// ----------------------------------------------------------------------------------------------------------------- start

for (const id of ["by-class", "by-state", "by-order"]) $(id).addEventListener("change", list);
const clicks = {
  undo, back: undo, download, close, previous: () => go(-1), next: () => go(1), accept: () => decide("accepted"),
  reject: () => decide("rejected"), nothing: () => decide("nothing"), draw: toggleDraw, remove,
  "show-heat": () => toggle("heat"), "show-mask": () => toggle("mask"),
  restart: () => {
    if (!confirm("Forget all decisions of this page?")) return;
    const numbers = [...decided.keys()];
    decided.clear();
    past.length = 0;
    numbers.forEach(paintCard);
    write();
    list();
    progress();
  },
};
for (const [id, does] of Object.entries(clicks)) $(id).addEventListener("click", () => does());
$("stage").addEventListener("pointerdown", pointerDown);
$("stage").addEventListener("pointermove", pointerMove);
$("stage").addEventListener("pointerup", pointerUp);
$("stage").addEventListener("pointercancel", pointerUp);
$("editor").addEventListener("keydown", editorKeys);
$("editor").addEventListener("cancel", (event) => {
  event.preventDefault();
  if (drawing || chosen !== null) { drawing = false; chosen = null; paintEditor(); } else close();
});
$("editor").addEventListener("close", () => { if (open !== null) close(); });  // Esc twice: browsers insist
$("grid").addEventListener("keydown", gridKeys);
document.addEventListener("keydown", (event) => {
  if (open === null && event.key.toLowerCase() === "u" && event.target.tagName !== "SELECT" && !event.metaKey && !event.ctrlKey) undo();
  if (open === null && event.key.toLowerCase() === "z" && (event.metaKey || event.ctrlKey)) undo();
});
new ResizeObserver(fit).observe($("stage"));
let width = 0;
new ResizeObserver(([grid]) => { if (grid.contentRect.width !== width) { width = grid.contentRect.width; soon(measureAnew); } }).observe($("grid"));
addEventListener("scroll", () => soon(paintRows), { passive: true });
addEventListener("resize", () => soon(paintRows));
restore();
fillClasses();
list();
progress();
})();
