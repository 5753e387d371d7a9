// The page of a study: one pair after the other, with votes stored in the browser.
"use strict";

const study = pageData();
const SIDES = ["a", "b"];
const videos = SIDES.map((side) => byId(`video-${side}`));
const names = study.questions.map((question) => question.name);

let rater = "";
let answers = {}; // By pair, then by question: "a" or "b".
let at = 0; // Number of the pair that is shown.
let asked = 0; // Number of the question that keys answer.

// --- Votes ------------------------------------------------------------------------

const place = (name) => `snapvideo-study/${study.study}/${name}`;
const answered = (pair) => names.filter((name) => answers[pair.id]?.[name]);
const isDone = (pair) => answered(pair).length === names.length;
const firstOpen = () => study.pairs.findIndex((pair) => !isDone(pair));

function load(name) {
  rater = name;
  try {
    answers = JSON.parse(localStorage.getItem(place(name))) ?? {};
    localStorage.setItem(`snapvideo-study/${study.study}`, name);
  } catch {
    warn();
  }
}

function keep() {
  try {
    localStorage.setItem(place(rater), JSON.stringify(answers));
  } catch {
    warn();
  }
}

function warn() {
  byId("notice").textContent =
    "This browser keeps nothing: download your votes before you close the page.";
  byId("notice").hidden = false;
}

function votesFile() {
  const votes = study.pairs.flatMap((pair) =>
    answered(pair).map((name) => ({
      pair: pair.id,
      question: name,
      choice: answers[pair.id][name],
    })),
  );
  return { format: study.format, study: study.study, rater, votes };
}

function download() {
  const text = JSON.stringify(votesFile(), null, 2);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const name = rater.replace(/[^\p{L}\p{N}-]+/gu, "_");
  make("a", { href: url, download: `votes-${study.study}-${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// --- What is shown ----------------------------------------------------------------

function show(view) {
  for (const id of ["start", "pair", "end"]) byId(id).hidden = id !== view;
  byId("progress").hidden = view === "start";
  byId("download").hidden = view !== "pair";
  const done = study.pairs.filter(isDone).length;
  byId("bar").max = study.pairs.length;
  byId("bar").value = done;
  byId("count").textContent =
    view === "pair"
      ? `${at + 1} of ${study.pairs.length}`
      : `${done} of ${study.pairs.length}`;
  if (view !== "pair") for (const video of videos) video.pause();
}

function showPair(number) {
  at = number;
  const pair = study.pairs[at];
  byId("prompt").textContent = pair.prompt;
  videos.forEach((video, i) => (video.src = pair[SIDES[i]]));
  if (wantsStillness()) byId("again").textContent = "Play";
  else playTogether(videos);
  for (const name of names) {
    for (const side of SIDES) {
      byId(`${name}-${side}`).checked = answers[pair.id]?.[name] === side;
    }
  }
  byId("back").disabled = at === 0;
  byId("next").textContent = at + 1 === study.pairs.length ? "Finish" : "Next";
  show("pair");
  ask(Math.max(0, names.findIndex((name) => !answers[pair.id]?.[name])));
}

function showEnd() {
  const done = study.pairs.filter(isDone).length;
  const all = study.pairs.length;
  byId("summary").textContent =
    done === all
      ? `You answered all ${all} pairs.`
      : `You answered ${done} of ${all} pairs. The others can be answered later.`;
  show("end");
  byId("save").focus();
}

/** Makes a question the one that keys answer. */
function mark(number) {
  asked = Math.min(Math.max(number, 0), names.length - 1);
  names.forEach((name, i) =>
    byId(`question-${name}`).classList.toggle("current", i === asked),
  );
}

/** The same, and moves the focus there, so that it is read aloud. */
function ask(number) {
  mark(number);
  const name = names[asked];
  const chosen = answers[study.pairs[at].id]?.[name] ?? "a";
  byId(`${name}-${chosen}`).focus({ preventScroll: true });
}

function answer(name, side) {
  const pair = study.pairs[at];
  answers[pair.id] = { ...answers[pair.id], [name]: side };
  byId(`${name}-${side}`).checked = true;
  keep();
  byId("bar").value = study.pairs.filter(isDone).length;
}

/** The next pair, or the first question of this one that has no answer. */
function goOn() {
  const open = names.findIndex((name) => !answers[study.pairs[at].id]?.[name]);
  if (open >= 0) return ask(open);
  if (at + 1 < study.pairs.length) showPair(at + 1);
  else showEnd();
}

const goBack = () => at > 0 && showPair(at - 1);

// --- What is done -----------------------------------------------------------------

const KEYS = {
  ArrowLeft: () => choose("a"),
  ArrowRight: () => choose("b"),
  ArrowUp: () => ask(asked - 1),
  ArrowDown: () => ask(asked + 1),
  Enter: goOn,
  Backspace: goBack,
  r: () => playTogether(videos),
};

function choose(side) {
  answer(names[asked], side);
  ask(asked + 1);
}

function onKey(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isOnButton = key === "Enter" && event.target.closest("button");
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (byId("pair").hidden || !KEYS[key] || isOnButton || !isPlain) return;
  event.preventDefault();
  if (!event.repeat) KEYS[key]();
}

function questionOf({ name, text }, number) {
  const sides = SIDES.map((side) => {
    const input = make("input", {
      type: "radio",
      name,
      id: `${name}-${side}`,
      onchange: () => answer(name, side),
      onfocus: () => mark(number),
    });
    return make("label", {}, input, side.toUpperCase());
  });
  const id = `text-${name}`;
  return make(
    "fieldset",
    { id: `question-${name}`, role: "radiogroup", "aria-labelledby": id },
    make("p", { id }, text),
    make("div", { className: "sides" }, ...sides),
  );
}

function begin(event) {
  event.preventDefault();
  load(byId("rater").value.trim());
  const open = firstOpen();
  if (open < 0) showEnd();
  else showPair(open);
}

const [width, height] = study.size;
byId("clips").style.setProperty("--aspect", `${width} / ${height}`);
byId("clips").style.setProperty("--ratio", width / height);
byId("clips").classList.toggle("wide", width / height > 1.35);
byId("questions").append(...study.questions.map(questionOf));
byId("pairs").textContent = study.pairs.length;
byId("start").addEventListener("submit", begin);
byId("next").addEventListener("click", goOn);
byId("back").addEventListener("click", goBack);
byId("again").addEventListener("click", () => playTogether(videos));
byId("download").addEventListener("click", download);
byId("save").addEventListener("click", download);
byId("review").addEventListener("click", () => showPair(0));
for (const video of videos) {
  video.addEventListener("error", () => {
    byId("notice").textContent = `A video of pair ${at + 1} does not play.`;
    byId("notice").hidden = false;
  });
}
document.addEventListener("keydown", onKey);
try {
  byId("rater").value = localStorage.getItem(`snapvideo-study/${study.study}`) ?? "";
} catch {
  warn();
}
show("start");
byId("rater").focus();
