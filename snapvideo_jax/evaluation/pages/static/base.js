// Shared by all pages. Texts of the data only ever become text nodes, never HTML.
"use strict";

const byId = (id) => document.getElementById(id);

/** What the page shows, as it was written into it. */
const pageData = () => JSON.parse(byId("data").textContent);

/** An element with properties, attributes (those with a dash, and role) and children. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Whether the reader asked for less motion: nothing then plays by itself. */
const wantsStillness = () =>
  window.matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Starts clips from their first frame, at once, when all of them can. */
async function playTogether(videos) {
  const ready = (video) =>
    video.readyState >= 3 ||
    new Promise((done) => {
      video.addEventListener("canplay", done, { once: true });
      video.addEventListener("error", done, { once: true });
    });
  await Promise.all(videos.map(ready));
  for (const video of videos) {
    video.currentTime = 0;
    video.play().catch(() => {}); // It was taken away, or playing is not allowed.
  }
}
