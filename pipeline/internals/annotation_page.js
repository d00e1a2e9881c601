"use strict";

// ---- the files and their rules: those of annotations.py, without a document (the tests run this part) ----

/** What is wrong with the content of boxes.json or exemplars.json, one sentence each; none if it can be used. */
function faultsOf(page, file) {
  const faults = [];
  if (!new RegExp(`^(?:${page.rules.pseudonym})$`).test(file.annotator)) {
    faults.push("Annotator: enter a pseudonym of at most 20 letters A-Z a-z, digits, - and _, such as a1.");
  }
  return faults.concat(page.kind === "windows" ? boxFaults(page, file) : exemplarFaults(page, file));
}

function boxFaults(page, file) {
  const faults = [];
  let n = 0;
  for (const [index, boxes] of Object.entries(file.boxes)) {
    if (String(Number(index)) !== index || !exists(page, Number(index))) faults.push(`Sample ${index} does not exist.`);
    for (const [x1, y1, x2, y2] of boxes) {
      n += 1;
      const inside = 0 <= x1 && x1 < x2 && x2 <= page.width && 0 <= y1 && y1 < y2 && y2 <= page.height;
      if (!inside) faults.push(`Sample ${index}: the box ${[x1, y1, x2, y2]} is not inside the picture.`);
    }
  }
  if (n === 0) faults.push("Draw at least one box.");
  return faults;
}

function exemplarFaults(page, file) {
  const faults = [];
  for (const [name, indices] of Object.entries(file.concepts)) {
    const length = [...name].length;
    if (length < 1 || length > 60) faults.push(`Concept '${name}': give it a name of at most 60 characters.`);
    faults.push(...indexFaults(page, `Concept '${name}'`, indices, page.rules.concept_exemplars));
  }
  file.problems.forEach((problem, number) => {
    const where = `Problem ${number + 1}`;
    for (const name of problem) {
      if (!Object.hasOwn(file.concepts, name)) faults.push(`${where}: the concept '${name}' has no exemplars.`);
    }
    if (new Set(problem).size < 3) faults.push(`${where}: choose three different concepts.`);
  });
  if (file.turn !== null) {
    const { left, right } = file.turn;
    faults.push(...indexFaults(page, "Looking left", left, page.rules.turn_exemplars));
    faults.push(...indexFaults(page, "Looking right", right, page.rules.turn_exemplars));
    const both = left.filter((index) => right.includes(index));
    if (both.length > 0) faults.push(`Sample ${both[0]} looks to the left and to the right: keep it in one of them.`);
  }
  if (Object.keys(file.concepts).length === 0 && file.turn === null) faults.push("Pick some exemplars.");
  return faults;
}

function indexFaults(page, where, indices, atLeast) {
  const faults = indices.filter((index) => !exists(page, index)).map((i) => `${where}: sample ${i} does not exist.`);
  if (new Set(indices).size < indices.length) faults.push(`${where}: a sample comes twice.`);
  if (indices.length < atLeast) faults.push(`${where}: ${indices.length} picked, at least ${atLeast} are needed.`);
  return faults;
}

function exists(page, index) {
  return Number.isInteger(index) && 0 <= index && index < page.n_images;
}

/** JSON with one entry a line, so that a difference in Git says which entry changed. */
function textOf(value, indent = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return JSON.stringify(value);
  const inner = indent + "  ";
  const lines = Object.entries(value).map(([key, v]) => `${inner}${JSON.stringify(key)}: ${textOf(v, inner)}`);
  return lines.length === 0 ? "{}" : `{\n${lines.join(",\n")}\n${indent}}`;
}

/** The content of boxes.json; `boxes` is a Map of index to boxes. */
function boxesFile(page, annotator, boxes) {
  const drawn = [...boxes].filter(([, list]) => list.length > 0).sort(([a], [b]) => a - b);
  return { network: page.network, annotator, n_images: page.n_images, boxes: Object.fromEntries(drawn) };
}

/** The content of exemplars.json; a group is {name, picked}, and a problem three of them. */
function exemplarsFile(page, annotator, concepts, problems, left, right) {
  const named = concepts.filter((c) => c.picked.length > 0).map((c) => [c.name, c.picked]);
  const turn = left.picked.length + right.picked.length > 0 ? { left: left.picked, right: right.picked } : null;
  return {
    network: page.network,
    annotator,
    n_images: page.n_images,
    concepts: Object.fromEntries(named),
    problems: problems.map((problem) => problem.map((concept) => concept.name)),
    turn,
  };
}

/** A box between two corners, whole pixels, inside the picture. */
function boxBetween(page, a, b) {
  const x = [a.x, b.x].map((v) => clamp(Math.round(v), 0, page.width)).sort((p, q) => p - q);
  const y = [a.y, b.y].map((v) => clamp(Math.round(v), 0, page.height)).sort((p, q) => p - q);
  return [x[0], y[0], x[1], y[1]];
}

/** The box moved, or its lower right corner; it stays inside the picture and at least a pixel large. */
function boxMoved(page, [x1, y1, x2, y2], dx, dy, cornerOnly) {
  if (cornerOnly) return [x1, y1, clamp(x2 + dx, x1 + 1, page.width), clamp(y2 + dy, y1 + 1, page.height)];
  const mx = clamp(dx, -x1, page.width - x2);
  const my = clamp(dy, -y1, page.height - y2);
  return [x1 + mx, y1 + my, x2 + mx, y2 + my];
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// ---- the page ----

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** An element with properties and children; text goes in as text, never as HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** The samples in rows; one of them is a stop of the Tab key, and arrows go from there. */
function showSamples(page, makeSample) {
  const grid = document.getElementById("samples");
  const samples = page.shown.map((index, place) => {
    const picture = element("img", { src: page.pictures[place], alt: "", draggable: false });
    const sample = makeSample(index, picture);
    sample.tabIndex = place === 0 ? 0 : -1;
    sample.addEventListener("focus", () => {
      for (const other of samples) other.tabIndex = other === sample ? 0 : -1;
    });
    return sample;
  });
  grid.append(...samples);
  grid.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || !(event.key in ARROWS)) return;
    const [dx, dy] = ARROWS[event.key];
    const below = samples.findIndex((sample) => sample.offsetTop > samples[0].offsetTop);
    const columns = below === -1 ? samples.length : below;
    const next = samples[samples.indexOf(event.target) + dx + columns * dy];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}

function startWindows(page) {
  const boxes = new Map(page.shown.map((index) => [index, page.annotated ? (page.annotated.boxes[index] ?? []) : []]));
  let selected = null; // {index, number} of a box
  const redraw = new Map();

  function change(index, list, number) {
    boxes.set(index, list);
    page.changed();
    select(index, number);
  }

  function select(index, number) {
    const before = selected;
    selected = number === null ? null : { index, number };
    if (before && before.index !== index) redraw.get(before.index)();
    redraw.get(index)();
  }

  function makeSample(index, picture) {
    const label = element("span", { className: "label" });
    const sample = element("div", { className: "sample" }, picture, label);
    sample.setAttribute("role", "group");
    let drag = null; // where it began, and the box so far

    redraw.set(index, () => {
      sample.querySelectorAll(".box").forEach((box) => box.remove());
      const list = boxes.get(index);
      list.forEach((box, number) => addBox(box, selected?.index === index && selected.number === number));
      if (drag) addBox(drag.box, true);
      label.textContent = `${index}: ${list.length === 1 ? "1 box" : `${list.length} boxes`}`;
      sample.setAttribute("aria-label", `Sample ${label.textContent}`);
    });

    function addBox([x1, y1, x2, y2], isSelected) {
      const box = element("div", { className: isSelected ? "box selected" : "box" });
      Object.assign(box.style, {
        left: `${(100 * x1) / page.width}%`,
        top: `${(100 * y1) / page.height}%`,
        width: `${(100 * (x2 - x1)) / page.width}%`,
        height: `${(100 * (y2 - y1)) / page.height}%`,
      });
      sample.append(box);
    }

    function point(event) {
      const place = sample.getBoundingClientRect();
      return {
        x: ((event.clientX - place.left) / place.width) * page.width,
        y: ((event.clientY - place.top) / place.height) * page.height,
      };
    }

    sample.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      sample.focus({ preventScroll: true });
      sample.setPointerCapture(event.pointerId);
      const from = point(event);
      drag = { from, box: boxBetween(page, from, from) };
    });
    sample.addEventListener("pointermove", (event) => {
      if (!drag) return;
      drag.box = boxBetween(page, drag.from, point(event));
      redraw.get(index)();
    });
    sample.addEventListener("pointerup", () => {
      if (!drag) return;
      const { from, box } = drag;
      drag = null;
      const list = boxes.get(index);
      if (box[0] < box[2] && box[1] < box[3]) {
        change(index, [...list, box], list.length);
      } else {
        const hit = list.findLastIndex(([x1, y1, x2, y2]) => x1 <= from.x && from.x <= x2 && y1 <= from.y && from.y <= y2);
        select(index, hit === -1 ? null : hit);
      }
    });
    sample.addEventListener("pointercancel", () => {
      drag = null;
      redraw.get(index)();
    });
    sample.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const list = boxes.get(index);
      const number = selected?.index === index ? selected.number : null;
      if (event.key === "Enter") {
        const w = page.width / 4;
        const h = page.height / 4;
        change(index, [...list, boxBetween(page, { x: w, y: h }, { x: 3 * w, y: 3 * h })], list.length);
      } else if (event.key === " ") {
        const next = number === null ? 0 : number + 1;
        select(index, next < list.length ? next : null);
      } else if (event.key === "Escape") {
        select(index, null);
      } else if ((event.key === "Delete" || event.key === "Backspace") && list.length > 0) {
        change(index, list.toSpliced(number ?? list.length - 1, 1), null);
      } else if (event.key in ARROWS && number !== null) {
        change(index, list.with(number, boxMoved(page, list[number], ...ARROWS[event.key], event.shiftKey)), number);
      } else {
        return;
      }
      event.preventDefault();
    });
    redraw.get(index)();
    return sample;
  }

  showSamples(page, makeSample);
  page.file = () => boxesFile(page, page.annotator(), boxes);
  page.summary = () => {
    const counts = [...boxes.values()].map((list) => list.length);
    const n = counts.reduce((sum, count) => sum + count, 0);
    return `${n} boxes in ${counts.filter((count) => count > 0).length} of ${page.n_images} samples`;
  };
}

const CONCEPTS = [
  ["smiling woman", "neutral woman", "neutral man"], // the two problems of figure 7
  ["man with glasses", "man without glasses", "woman without glasses"],
];

function startFaces(page) {
  const group = (name, picked = []) => ({ name, picked: [...picked] });
  const left = group("looks to the left", page.annotated?.turn?.left);
  const right = group("looks to the right", page.annotated?.turn?.right);
  const concepts = page.annotated
    ? Object.entries(page.annotated.concepts).map(([name, picked]) => group(name, picked))
    : CONCEPTS.flat().map((name) => group(name));
  const concept = (name) => concepts.find((c) => c.name === name);
  let problems = (page.annotated ? page.annotated.problems : CONCEPTS).map((names) => names.map(concept));
  let active = concepts[0] ?? left;
  const samples = new Map();
  const groups = () => [left, right, ...concepts];

  function drawGroups() {
    const rows = groups().map((g, number) => {
      const isTurn = number < 2;
      const radio = element("input", { type: "radio", name: "active", checked: g === active });
      radio.setAttribute("aria-label", g.name);
      radio.addEventListener("change", () => activate(g));
      const row = element("span", { className: g === active ? "group active" : "group" }, radio);
      if (number < 9) row.append(element("kbd", { textContent: number + 1 }));
      row.append(isTurn ? g.name : nameField(g, radio));
      const needed = isTurn ? page.rules.turn_exemplars : page.rules.concept_exemplars;
      row.append(element("span", { textContent: `${g.picked.length}/${needed}` }));
      if (!isTurn) row.append(button("remove", () => removeConcept(g), "remove this concept"));
      return row;
    });
    document.getElementById("groups").replaceChildren(...rows, button("add a concept", addConcept));
  }

  function nameField(g, radio) {
    const field = element("input", { type: "text", value: g.name, maxLength: 60 });
    field.setAttribute("aria-label", "name of the concept");
    field.addEventListener("change", () => {
      const name = field.value.trim();
      if (name !== "" && !concepts.some((other) => other !== g && other.name === name)) {
        g.name = name;
        radio.setAttribute("aria-label", name);
        page.changed();
      }
      field.value = g.name;
      drawProblems(); // not the groups: the focus is on its way to the next of them
      drawSamples();
    });
    return field;
  }

  function drawProblems() {
    const rows = problems.map((problem, number) => {
      const row = element("span", { className: "group" }, `${number + 1}: `);
      problem.forEach((chosen, part) => {
        if (part > 0) row.append(part === 1 ? " \u2212 " : " + ");
        const select = element("select", {}, ...concepts.map((c) => element("option", { textContent: c.name })));
        select.setAttribute("aria-label", `problem ${number + 1}, ${"ABC"[part]}`);
        select.selectedIndex = concepts.indexOf(chosen);
        select.addEventListener("change", () => {
          problem[part] = concepts[select.selectedIndex];
          page.changed();
        });
        row.append(select);
      });
      row.append(button("remove", () => removeProblem(problem), `remove problem ${number + 1}`));
      return row;
    });
    if (concepts.length >= 3) rows.push(button("add a problem", addProblem));
    document.getElementById("problems").replaceChildren("Problems A \u2212 B + C:", ...rows);
  }

  function drawSamples() {
    for (const [index, sample] of samples) {
      const names = groups().filter((g) => g.picked.includes(index)).map((g) => g.name);
      sample.querySelector(".label").textContent = [index, ...names].join(", ");
      sample.classList.toggle("picked", active.picked.includes(index));
      sample.setAttribute("aria-pressed", active.picked.includes(index));
    }
  }

  function draw() {
    drawGroups();
    drawProblems();
    drawSamples();
  }

  function activate(g) {
    active = g;
    drawGroups();
    drawSamples();
    document.querySelector("#groups input:checked").focus({ preventScroll: true });
  }

  function addConcept() {
    let number = concepts.length + 1;
    while (concept(`concept ${number}`)) number += 1;
    active = group(`concept ${number}`);
    concepts.push(active);
    changed();
    document.querySelector("#groups .active input[type=text]").select();
  }

  function removeConcept(g) {
    concepts.splice(concepts.indexOf(g), 1);
    problems = problems.filter((problem) => !problem.includes(g));
    if (active === g) active = concepts[0] ?? left;
    changed();
  }

  function addProblem() {
    problems.push(concepts.slice(0, 3));
    changed();
  }

  function removeProblem(problem) {
    problems.splice(problems.indexOf(problem), 1);
    changed();
  }

  function changed() {
    page.changed();
    draw();
  }

  function toggle(index) {
    const place = active.picked.indexOf(index);
    if (place === -1) active.picked.push(index);
    else active.picked.splice(place, 1);
    page.changed();
    drawGroups();
    drawSamples();
  }

  function makeSample(index, picture) {
    const sample = element("button", { type: "button", className: "sample" }, picture);
    sample.append(element("span", { className: "label" }));
    sample.addEventListener("click", () => toggle(index));
    samples.set(index, sample);
    return sample;
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input[type=text], select");
    const chosen = /^[1-9]$/.test(event.key) ? groups()[Number(event.key) - 1] : undefined;
    if (typing || !chosen || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const sample = event.target.closest(".sample");
    activate(chosen);
    sample?.focus({ preventScroll: true }); // go on where one was
  });

  showSamples(page, makeSample);
  draw();
  page.file = () => exemplarsFile(page, page.annotator(), concepts, problems, left, right);
  page.summary = () => `${page.shown.length} of ${page.n_images} samples are shown`;
}

function button(text, act, label = text) {
  const made = element("button", { type: "button", textContent: text });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function start() {
  const page = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  let unsaved = false;
  document.body.classList.add(page.kind);
  at("task").textContent = page.task;
  at("keys").textContent = page.keys;
  at("note").textContent = page.note;
  at("note").hidden = page.note === "";
  at("annotator").value = page.annotated ? page.annotated.annotator : "";
  at("download").textContent = `Download ${page.file_name}`;
  page.annotator = () => at("annotator").value.trim();
  page.changed = () => {
    unsaved = true;
    at("faults").replaceChildren();
    at("status").textContent = page.summary();
  };
  (page.kind === "windows" ? startWindows : startFaces)(page);
  at("status").textContent = page.summary();
  at("annotator").addEventListener("input", () => page.changed());
  page.fail = (faults) => at("faults").replaceChildren(...faults.map((fault) => element("li", { textContent: fault })));
  page.text = () => {
    const file = page.file();
    const faults = faultsOf(page, file);
    page.fail(faults);
    return faults.length > 0 ? null : textOf(file) + "\n";
  };
  page.saved = (sentence) => {
    unsaved = false;
    at("status").textContent = sentence;
  };
  at("download").addEventListener("click", () => {
    const text = page.text();
    if (text === null) return;
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    element("a", { href: url, download: page.file_name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    page.saved(`Put it at ${page.place}, in place of the old one.`);
  });
  if (page.saving) startSaving(page, at("download")); // of the other script, which a server adds
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });
}

if (typeof document !== "undefined") start();
