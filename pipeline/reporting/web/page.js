"use strict";
// A picture in full size: where there is room for it, each of its pixels as a square of whole pixels.
const dialog = document.querySelector("dialog");
const stage = dialog.querySelector(".stage");
const text = dialog.querySelector("p");
let opener = null;

function enlarge(button) {
  const shown = button.querySelector("img");
  const image = new Image(shown.naturalWidth, shown.naturalHeight);
  const room = Math.min((innerWidth - 64) / image.width, (innerHeight - 128) / image.height);
  const times = Math.max(1, Math.floor(room));
  image.src = shown.currentSrc;
  image.alt = shown.alt;
  image.width *= times;
  image.height *= times;
  image.className = times > 1 ? "pixels" : "";
  stage.replaceChildren(image);
  text.textContent = shown.alt;
  opener = button;
  dialog.showModal();
}

for (const button of document.querySelectorAll("button.zoom")) button.addEventListener("click", () => enlarge(button));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => { stage.replaceChildren(); opener?.focus(); });

// Contents: always open where they stand beside the text, closed at first where they stand above it.
const contents = document.querySelector("details.contents");
const beside = matchMedia("(min-width: 72rem)");
const fold = () => { contents.open = beside.matches; };
fold();
beside.addEventListener("change", fold);
contents.addEventListener("click", (event) => { if (event.target.closest("a") && !beside.matches) contents.open = false; });

// A link to something folded opens it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && (target.closest("details") ?? target.querySelector(":scope > details"));
  if (folded) { folded.open = true; target.scrollIntoView(); }
}
addEventListener("hashchange", unfold);
unfold();

// The line of the contents that is being read.
const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const heads = [...links.keys()].map((name) => document.getElementById(name)).filter(Boolean);
let marked = null;
function mark() {
  const above = heads.filter((head) => head.getBoundingClientRect().top < innerHeight / 4);
  const end = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;  // where the last one cannot get higher
  const current = links.get((end ? heads.at(-1) : above.at(-1) ?? heads[0])?.id);
  for (const link of links.values()) link.toggleAttribute("aria-current", link === current);
  const list = contents.parentElement, moved = current !== marked;
  marked = current;
  if (beside.matches && current && moved && !list.matches(":hover")) {  // never under somebody's pointer
    const box = current.getBoundingClientRect(), around = list.getBoundingClientRect();
    if (box.top < around.top) list.scrollTop -= around.top - box.top + 40;
    if (box.bottom > around.bottom) list.scrollTop += box.bottom - around.bottom + 40;
  }
}
let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });
mark();
