// The gallery: cards of one prompt each, with the clips of the runs that are chosen.
//
// Cards are grouped in blocks of some rows. A block is filled as it comes near the
// window and emptied as it leaves, so the page holds few elements however many clips
// there are. Cards show stills; a clip is loaded only while it plays.
"use strict";

const { runs, cards, size } = pageData();
const ROWS = 4; // Of a block.
const NEAR = "600px"; // Blocks so near to the window are filled.
const NARROWEST = 190; // Of a clip, in pixels, where the window is wide enough.
const MOST_CLIPS_IN_ROW = 4; // Clips in a row of a card.

const grid = byId("grid");
const words = cards.map((card) => card.prompt.toLowerCase());
let chosen = runs.map((_, i) => i).slice(0, 2);
let shown = []; // Numbers of the cards that pass the filter.

// --- Cards ------------------------------------------------------------------------

function clipOf(card, run) {
  const clip = card.clips[run];
  if (!clip) return make("span", { className: "clip missing" }, "no clip");
  const still = make("img", {
    src: `${clip.file}.webp`,
    alt: "",
    loading: "lazy",
    decoding: "async",
  });
  const content = [still];
  if (chosen.length > 1) {
    content.push(make("span", { className: "name" }, runs[run].name));
  }
  const element = make("span", { className: "clip" }, ...content);
  element.dataset.clip = `${clip.file}.mp4`;
  return element;
}

function cardOf(number) {
  const card = cards[number];
  const clips = chosen.map((run) => clipOf(card, run));
  const prompt = card.prompt || "(no prompt)";
  const element = make(
    "button",
    { type: "button", className: "card", title: prompt },
    make("span", { className: "clips" }, ...clips),
    make("span", { className: "prompt", dir: "auto" }, prompt),
  );
  element.dataset.card = number;
  return element;
}

function play(element) {
  if (element.querySelector("video")) return;
  const videos = [...element.querySelectorAll("[data-clip]")].map((clip) => {
    const video = make("video", { muted: true, loop: true, playsInline: true });
    video.src = clip.dataset.clip;
    video.addEventListener("playing", () => (video.style.opacity = 1));
    video.style.opacity = 0; // The still is seen until there is a frame.
    clip.append(video);
    return video;
  });
  playTogether(videos);
}

function stop(element) {
  for (const video of element.querySelectorAll("video")) {
    video.pause();
    video.removeAttribute("src");
    video.load(); // Lets go of the file and of the decoder.
    video.remove();
  }
}

/** Plays the card under the pointer or with the focus, and no other one. */
function playOnly(element) {
  for (const other of grid.querySelectorAll(".card:has(video)")) {
    if (other !== element) stop(other);
  }
  if (element && !wantsStillness()) play(element);
}

// --- Blocks -----------------------------------------------------------------------

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) fill(target);
      else empty(target);
    }
  },
  { rootMargin: `${NEAR} 0px` },
);

function fill(block) {
  if (block.firstChild) return;
  const [first, last] = [block.dataset.first, block.dataset.last].map(Number);
  block.append(...shown.slice(first, last).map(cardOf));
}

function empty(block) {
  if (block.contains(document.activeElement)) return; // The focus would be lost.
  for (const card of block.children) stop(card);
  block.replaceChildren();
}

/** Blocks for the cards that are shown, at the width that the window has. */
function layOut() {
  near.disconnect();
  const gap = 16;
  const room = grid.clientWidth;
  const fitting = Math.floor(room / 150);
  const clipsInRow = Math.max(1, Math.min(chosen.length, MOST_CLIPS_IN_ROW, fitting));
  const wanted = Math.min(room, clipsInRow * NARROWEST);
  const columns = Math.max(1, Math.floor((room + gap) / (wanted + gap)));
  const width = (room - gap * (columns - 1)) / columns - 2; // Less the border.
  const lines = Math.ceil(chosen.length / clipsInRow);
  const tall = (((width - 2 * (clipsInRow - 1)) / clipsInRow) * size[1]) / size[0];
  const caption = 2.7 * 14.4 + 16; // Two lines of the prompt, and its margin.
  const cardHeight = Math.ceil(lines * (tall + 2) + caption + 2);
  const style = grid.style;
  style.setProperty("--columns", columns);
  style.setProperty("--clips-in-row", clipsInRow);
  style.setProperty("--card-height", `${cardHeight}px`);
  const blocks = [];
  for (let first = 0; first < shown.length; first += ROWS * columns) {
    const last = Math.min(first + ROWS * columns, shown.length);
    const rows = Math.ceil((last - first) / columns);
    const block = make("div", { className: "block" });
    block.style.height = `${rows * (cardHeight + gap) - gap}px`;
    Object.assign(block.dataset, { first, last });
    blocks.push(block);
  }
  grid.replaceChildren(...blocks);
  for (const block of blocks) near.observe(block);
}

/** Shows cards whose prompt has all words of the filter. */
function filter() {
  const asked = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = [];
  words.forEach((text, number) => {
    const has = chosen.some((run) => cards[number].clips[run]);
    if (has && asked.every((word) => text.includes(word))) shown.push(number);
  });
  const all = cards.length;
  byId("count").textContent =
    shown.length === all ? `${all} prompts` : `${shown.length} of ${all}`;
  byId("none").textContent = chosen.length
    ? "No prompt has all of these words."
    : "No run is chosen.";
  byId("none").hidden = shown.length > 0;
  layOut();
}

// --- Runs and metrics -------------------------------------------------------------

function runOf({ name }, number) {
  const input = make("input", {
    type: "checkbox",
    checked: chosen.includes(number),
    onchange: () => {
      const boxes = [...byId("runs").querySelectorAll("input")];
      chosen = runs.map((_, i) => i).filter((i) => boxes[i].checked);
      showMetrics();
      filter();
    },
  });
  return make("label", { title: name }, input, make("span", {}, name));
}

function showMetrics() {
  const rows = new Map(); // File and metric to its value in every run that has it.
  for (const run of chosen) {
    for (const [file, metrics] of Object.entries(runs[run].metrics)) {
      for (const [name, value] of Object.entries(metrics)) {
        const key = JSON.stringify([name, file]);
        rows.set(key, { ...rows.get(key), [run]: value });
      }
    }
  }
  const formatted = (value) =>
    value === undefined ? "–" : value === null ? "not finite" : short(value);
  const body = [...rows].map(([key, values]) => {
    const [name, file] = JSON.parse(key);
    const head = make("th", { scope: "row" }, name, " ");
    head.append(make("span", { className: "faint" }, file));
    return make("tr", {}, head, ...chosen.map((run) => make("td", {}, formatted(values[run]))));
  });
  const names = chosen.map((run) => make("th", { scope: "col" }, runs[run].name));
  byId("table").replaceChildren(make("tr", {}, make("th", {}, "Metric"), ...names), ...body);
  byId("metrics").hidden = rows.size === 0;
}

const short = (value) =>
  Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));

// --- One prompt, large ------------------------------------------------------------

function open(number) {
  const card = cards[number];
  playOnly(null);
  byId("dialog-prompt").textContent = card.prompt || "(no prompt)";
  const figures = chosen
    .filter((run) => card.clips[run])
    .map((run) => {
      const { file, about } = card.clips[run];
      const video = make("video", { src: `${file}.mp4`, controls: true, loop: true });
      Object.assign(video, { muted: true, playsInline: true, poster: `${file}.webp` });
      const facts = Object.entries(about).flatMap(([name, value]) => [
        make("dt", {}, name),
        make("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
      ]);
      const title = make("figcaption", {}, runs[run].name);
      return make("figure", {}, video, title, make("dl", {}, ...facts));
    });
  byId("large").replaceChildren(...figures);
  byId("dialog").showModal();
  if (!wantsStillness()) playTogether([...byId("large").querySelectorAll("video")]);
}

byId("dialog").addEventListener("close", () => {
  stop(byId("large"));
  byId("large").replaceChildren();
});
byId("dialog").addEventListener("click", (event) => {
  if (event.target === byId("dialog")) byId("dialog").close();
});
byId("close").addEventListener("click", () => byId("dialog").close());

// --- What is done -----------------------------------------------------------------

const cardAt = (event) => event.target.closest?.(".card");
grid.addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse") playOnly(cardAt(event));
});
grid.addEventListener("pointerleave", () => playOnly(null));
grid.addEventListener("focusin", (event) => playOnly(cardAt(event)));
grid.addEventListener("focusout", (event) => cardAt(event) && stop(cardAt(event)));
grid.addEventListener("click", (event) => {
  if (cardAt(event)) open(Number(cardAt(event).dataset.card));
});
byId("filter").addEventListener("input", filter);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input") || byId("dialog").open) return;
  event.preventDefault();
  byId("filter").focus();
});

let lastWidth = 0;
new ResizeObserver(() => {
  if (grid.clientWidth !== lastWidth) {
    lastWidth = grid.clientWidth;
    layOut();
  }
}).observe(grid);

document.body.style.setProperty("--aspect", `${size[0]} / ${size[1]}`);
byId("runs").append(...runs.map(runOf));
byId("runs").hidden = runs.length < 2;
showMetrics();
filter();
