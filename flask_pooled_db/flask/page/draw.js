// Charts and bars, as SVG that is drawn here; a text says the same.

import { visible } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [240, 56];
const SPAN = 300;
const GAP = 9; // seconds between two points from which on nothing is known of what was between

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Set a text, if it is another one: what is not touched keeps its focus and its selection.
export function text(node, value) {
  const shown = visible(value);
  if (node.textContent !== shown) node.textContent = shown;
}

export function set(node, name, value) {
  const shown = visible(value);
  if (node.getAttribute(name) !== shown) node.setAttribute(name, shown);
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function runs(points) {
  const found = [];
  for (const point of points) {
    const run = found.at(-1);
    if (run && point.time - run.at(-1).time <= GAP) run.push(point);
    else found.push([point]);
  }
  return found;
}

// Draw a kind of number over the last minutes. `most` is what the chart's height stands for.
export function chart(svg, points, kind, now, most, limit) {
  const x = (time) => (WIDTH * (1 - (now - time) / SPAN)).toFixed(1);
  const y = (value) => (HEIGHT - 1 - (HEIGHT - 3) * Math.min(value / most, 1)).toFixed(1);
  let [line, area] = ["", ""];
  for (const run of runs(points)) {
    const path = run.map((point) => `${x(point.time)},${y(point[kind])}`).join("L");
    const first = x(run[0].time);
    const last = run.length > 1 ? x(run.at(-1).time) : (Number(first) + 0.8).toFixed(1);
    const drawn = run.length > 1 ? path : `${path}L${last},${y(run[0][kind])}`;
    line += `M${drawn}`;
    area += `M${first},${HEIGHT}L${drawn}L${last},${HEIGHT}Z`;
  }
  if (!svg.firstChild) {
    svg.append(
      shape("path", { class: "base", d: `M0,${HEIGHT - 0.5}H${WIDTH}` }),
      shape("path", { class: "limit" }),
      shape("path", { class: "area" }),
      shape("path", { class: "line" }),
    );
  }
  const [, dashes, fill, stroke] = svg.children;
  set(dashes, "d", limit ? `M0,${y(limit)}H${WIDTH}` : "M0,0");
  set(fill, "d", area || "M0,0");
  set(stroke, "d", line || "M0,0");
}

export function canvas(label) {
  const made = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
  });
  made.setAttribute("aria-label", label);
  return made;
}

// A share as a bar; the number beside it says the same.
export function bar(node, part, kind = "") {
  let svg = node.querySelector("svg");
  if (!svg) {
    svg = shape("svg", {
      class: "bar",
      viewBox: "0 0 100 6",
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    const track = { class: "track", width: 100, height: 6, rx: 1 };
    svg.append(shape("rect", track), shape("rect", { class: "fill", height: 6, rx: 1 }));
    node.append(svg);
  }
  set(svg.lastChild, "width", (100 * Math.min(Math.max(part, 0), 1)).toFixed(1));
  set(svg, "class", `bar ${kind}`.trim());
}
