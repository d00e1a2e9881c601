"use strict";

const ARROWS = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -3, ArrowDown: 3 };
const LONGEST = 86400; // seconds: a page left open for longer says nothing
const PATIENCE = 30000; // milliseconds that the server has for an answer; sending it twice changes nothing

const form = document.getElementById("screen");
const images = [...form.querySelectorAll(".image")];
const captions = [...form.querySelectorAll(".caption")];
const submit = document.getElementById("submit");
const at = (id) => document.getElementById(id);
const screenKey = ["screen", ...["sha256", "annotator", "mode", "number"].map((part) => form.dataset[part])].join("/");

let began = Date.now();
let state = "open"; // open -> sending -> open (it failed) or done
let warnedOfNone = false;

// ---- marks; kept over a reload, so that a server that is away for a while costs nobody a screen ----

function isMarked(image) {
  return image.getAttribute("aria-pressed") === "true";
}

function mark(image, marked) {
  image.setAttribute("aria-pressed", String(marked));
  image.setAttribute("aria-label", nameOf(image) + (marked ? ", marked as generated" : ""));
  captions[images.indexOf(image)].textContent = marked ? "generated" : "";
}

function nameOf(image) {
  return `Image ${images.indexOf(image) + 1} of ${images.length}`;
}

function marks() {
  return images.flatMap((image, place) => (isMarked(image) ? [place] : []));
}

function toggle(image) {
  if (state !== "open") return;
  mark(image, !isMarked(image));
  warnedOfNone = false;
  at("fault").textContent = "";
  at("status").textContent = `${marks().length} marked`;
  keep();
}

function keep() {
  try {
    sessionStorage.setItem(screenKey, JSON.stringify({ began, marks: marks() }));
  } catch {
    // storage is switched off: then only this page knows
  }
}

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(screenKey) ?? "null");
    if (kept === null) return;
    began = Number(kept.began) || began;
    for (const place of kept.marks) mark(images[place], true);
  } catch {
    // nothing usable was kept
  }
}

function forget() {
  try {
    sessionStorage.removeItem(screenKey);
  } catch {
    // nothing was kept
  }
}

// ---- sending ----

async function send() {
  if (state === "done") {
    location.replace(form.dataset.next);
    return;
  }
  if (state === "sending") return;
  if (marks().length === 0 && !warnedOfNone) {
    warnedOfNone = true;
    at("fault").textContent = "You marked no image. If all nine look real to you, submit again.";
    return;
  }
  setState("sending", "Saving...");
  at("fault").textContent = "";
  try {
    await Promise.all([...form.querySelectorAll("img")].map((picture) => picture.decode()));
  } catch {
    failed("Not all images could be loaded, so nothing was sent.", false); // nobody judges what was not seen
    return;
  }
  const answer = {
    deck: form.dataset.deck,
    sha256: form.dataset.sha256,
    annotator: form.dataset.annotator,
    mode: form.dataset.mode,
    number: Number(form.dataset.number),
    picked: marks(),
    seconds: Math.min(Math.max((Date.now() - began) / 1000, 0), LONGEST),
    token: form.dataset.token,
  };
  let response;
  let said;
  try {
    response = await fetch("/answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(answer),
      signal: AbortSignal.timeout(PATIENCE),
    });
    said = await response.json();
  } catch {
    failed("The server cannot be reached.", true);
    return;
  }
  if (response.ok) saved(said);
  else failed(said.error, response.status >= 500);
}

/** The answers stay on the page (and over a reload); where sending again cannot help, a new screen can. */
function failed(sentence, again) {
  setState("open", again ? "Send again" : "Submit");
  at("status").textContent = "";
  const kept = again ? " Your answers are kept in this page: send them again when that is mended." : "";
  at("fault").replaceChildren(sentence + kept);
  if (!again) {
    const next = document.createElement("a");
    next.href = form.dataset.next;
    next.textContent = "Go on";
    at("fault").append(" ", next);
  }
}

function saved(said) {
  forget();
  const repeated = said.differs
    ? "This screen was answered before, in another tab or before the page was loaded again; the first answers count. "
    : "";
  if (!said.truth) {
    if (repeated === "") {
      state = "done";
      location.replace(form.dataset.next);
      return;
    }
    at("status").textContent = repeated;
  } else {
    at("status").textContent = repeated + judge(said);
  }
  setState("done", "Next screen");
  submit.focus();
}

function setState(to, text) {
  state = to;
  submit.textContent = text;
  submit.setAttribute("aria-disabled", String(to === "sending"));
}

// ---- feedback: in words and by a dashed outline, not by colour alone ----

function judge(said) {
  form.classList.add("judged");
  const mistakes = [];
  images.forEach((image, place) => {
    const [truth, answer] = [said.truth[place], said.answers[place]];
    const kind = truth ? "generated" : "real";
    mark(image, answer);
    let label = `${nameOf(image)}: ${kind}, and you said so`;
    if (truth !== answer) {
      image.classList.add("mistake");
      label = `${nameOf(image)}, mistake: it is ${kind}, you ${truth ? "did not mark" : "marked"} it`;
      mistakes.push(`${place + 1} is ${kind}`);
    }
    image.setAttribute("aria-label", label);
    image.setAttribute("aria-disabled", "true");
    captions[place].textContent = `${truth === answer ? "\u2713" : "\u2717"} ${kind}`;
  });
  const right = images.length - mistakes.length;
  const list = mistakes.length > 0 ? `Mistakes: ${mistakes.join(", ")}. ` : "";
  const share = Math.round((100 * said.n_right) / said.n_judged);
  return `${right} of ${images.length} right. ${list}So far ${said.n_right} of ${said.n_judged} right (${share}\u00a0%).`;
}

// ---- mouse, touch, keys ----

images.forEach((image) => image.addEventListener("click", () => toggle(image)));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const onImage = images.indexOf(document.activeElement);
  if (event.key === "Enter") {
    if (document.activeElement?.matches("a, #submit")) return; // these do it themselves
    event.preventDefault();
    if (!event.repeat) send();
  } else if (/^[1-9]$/.test(event.key)) {
    images[Number(event.key) - 1].focus();
    toggle(images[Number(event.key) - 1]);
  } else if (event.key in ARROWS) {
    const sideways = Math.abs(ARROWS[event.key]) === 1;
    const to = onImage === -1 ? 0 : onImage + ARROWS[event.key];
    const sameRow = Math.floor(to / 3) === Math.floor(onImage / 3);
    event.preventDefault();
    if (images[to] && (onImage === -1 || !sideways || sameRow)) images[to].focus();
  }
});

restore();
images[0].focus({ preventScroll: true });
