// Asks the server what is new, again and again, and shows it; live.py has what it answers.
"use strict";

const EVERY_MS = 2000;
const PATIENCE = 20; // times as long as an answer took: a long run costs the machine that trains it no more than that
const LAYOUT = {
  margin: { l: 48, r: 12, t: 60, b: 36 },
  font: { family: "system-ui, sans-serif", size: 11 },
  xaxis: { title: { text: "epoch", standoff: 4 }, rangemode: "tozero" },
  legend: { orientation: "h", x: 1, xanchor: "right", y: 1.08, yanchor: "bottom" },
  hovermode: "x unified",
  uirevision: "kept", // what was zoomed stays so
};
const CONFIG = { responsive: true, displayModeBar: false }; // a drag zooms, two clicks show all again
const at = (id) => document.getElementById(id);
let have = 0; // events that the curves show

function draw(figures) {
  const places = at("curves");
  while (places.childElementCount < figures.length) places.append(document.createElement("div"));
  figures.forEach(({ data, layout }, number) => {
    const title = { x: 0, y: 0.97, yanchor: "top", font: { size: 13 }, ...layout.title };
    Plotly.react(places.children[number], data, { ...LAYOUT, ...layout, title }, CONFIG);
  });
}

function say(lines) {
  at("lines").replaceChildren(...lines.map(({ text, alert }) => {
    const line = document.createElement("div");
    line.textContent = text;
    line.className = alert ? "alert" : "";
    return line;
  }));
}

function state(text, alert) {
  at("state").textContent = text;
  at("state").className = alert ? "alert" : "";
}

async function look() {
  const asked = performance.now();
  try {
    const answer = await fetch(`now?have=${have}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const now = await answer.json();
    document.title = now.title;
    state(now.state, now.alert);
    at("board").innerHTML = now.board; // of rich, which escapes
    if (now.figures) {
      draw(now.figures);
      say(now.lines);
      have = now.have;
    }
  } catch (error) {
    state(`eighteen live has ended, or cannot be reached (${error.message}); what is below is old`, true);
  }
  setTimeout(look, Math.max(EVERY_MS, PATIENCE * (performance.now() - asked)));
}

look();
