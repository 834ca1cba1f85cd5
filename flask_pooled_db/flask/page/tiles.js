// The tiles: what is in use, idle and waiting, and the last minute in numbers.

import { canvas, chart, element, set, text } from "./draw.js";
import { percentile, total } from "./history.js";
import { clock, count, lasting, rate, short } from "./words.js";

const KINDS = {
  in_use: { title: "In use", is_bounded: true },
  waiting: { title: "Waiting", is_bounded: false },
  idle: { title: "Idle", is_bounded: true },
};
const LONG_OPEN = 60; // seconds of a transaction in which nothing runs
const find = (id) => document.getElementById(id);

export function showTiles(history, scope, now) {
  const bind = scope === null ? total(history.latest) : history.latest.byName.get(scope);
  text(find("scope"), scope === null ? "" : `of ${short(scope)}`);
  find("unscope").hidden = scope === null;
  showBegun(history, now);
  for (const kind of Object.keys(KINDS)) showChart(kind, bind, history.of(scope), now);
  showTimes("wait", history.times(scope, "wait_time"));
  showTimes("use", history.times(scope, "use_time"));
  showRates(history, scope, bind);
}

function showBegun(history, now) {
  const seconds = now - history.begun;
  const then = clock(new Date(Date.now() - seconds * 1000));
  const is_full = seconds > 300;
  const first = "The charts begin now and fill while this page is open: the server keeps no history.";
  const later = `Since ${then}, when this page was opened.`;
  text(find("begun"), is_full ? "The last five minutes." : seconds < 20 ? first : later);
}

function showChart(kind, bind, points, now) {
  const figure = find(`tile-${kind}`);
  const { title, is_bounded } = KINDS[kind];
  if (!figure.firstChild) {
    const caption = element("figcaption", {});
    const number = element("b");
    const name = element("h3");
    name.textContent = title;
    caption.append(name, number, element("small"));
    figure.append(caption, canvas(title));
  }
  const [caption, svg] = figure.children;
  const [, number, small] = caption.children;
  const peak = Math.max(0, ...points.map((point) => point[kind]));
  const low = points.length ? Math.min(...points.map((point) => point[kind])) : 0;
  const limit = is_bounded && kind === "in_use" ? bind.max : null;
  // A chart that is mostly empty tells nothing: a limit far away is told in words alone.
  const most = Math.max(limit && peak > limit / 4 ? limit : peak * 1.15, 4);
  chart(svg, points, kind, now, most, limit && limit <= most ? limit : null);
  text(number, count(bind[kind]));
  const told = bind.max === null ? "no limit, " : limit ? `of ${count(limit)}, ` : "";
  const of = kind === "in_use" ? told : "";
  text(small, `${of}peak ${count(peak)}`);
  const seconds = points.length ? now - points[0].time : 0;
  set(
    svg,
    "aria-label",
    `${title}: now ${bind[kind]}, lowest ${low}, highest ${peak} in the last ${lasting(seconds)}`,
  );
  const is_at_limit = kind === "in_use" && limit && bind.in_use >= limit;
  set(figure, "data-state", is_at_limit || (kind === "waiting" && bind.waiting) ? "high" : "");
}

function showTimes(id, counts) {
  const told = [0.5, 0.95, 0.99].map((part) => {
    const seconds = percentile(counts, part);
    if (seconds === null) return "none";
    return seconds === Infinity ? ">60 s" : lasting(seconds);
  });
  list(find(id), [
    ["half within", told[0], "p50"],
    ["95 % within", told[1], "p95"],
    ["99 % within", told[2], "p99"],
  ]);
}

function showRates(history, scope, bind) {
  const seconds = history.seconds;
  const grown = (field) => history.grown(scope, field);
  const known = seconds > 0;
  const rows = [
    ["Leases", known ? `${rate(grown("checkouts") / seconds)} /s` : "–"],
    ["Timeouts", known ? count(grown("timeouts")) : "–", grown("timeouts") ? "bad" : ""],
    ["Connects", known ? connects(grown("connects"), grown("connect_errors")) : "–"],
  ];
  const server = scope === null ? fullest(history.latest) : bind.server;
  if (server) {
    const told = `${count(server.connections)} of ${count(server.max_connections)}`;
    const is_near = server.connections >= 0.8 * server.max_connections;
    rows.push(["On the server", told, is_near ? "bad" : ""]);
    if (server.active !== undefined && server.active !== null)
      rows.push(["Active, idle", `${count(server.active)}, ${count(server.idle)}`]);
    if (server.in_transaction)
      rows.push(["Idle in transaction", resting(server), server.oldest >= LONG_OPEN ? "bad" : ""]);
  }
  list(find("rates"), rows.map(([title, value, kind]) => [title, value, "", kind]));
}

// Of all its connections: other programs hold transactions open as well.
function resting(server) {
  const oldest = server.oldest === null ? "" : `, up to ${lasting(server.oldest)}`;
  return `${count(server.in_transaction)}${oldest}`;
}

function connects(opened, failed) {
  return failed ? `${count(opened)}, ${count(failed)} failed` : count(opened);
}

// Of several servers the one that has the fewest connections left.
function fullest(view) {
  const share = (server) => server.connections / server.max_connections;
  const servers = view.binds.map((bind) => bind.server).filter(Boolean);
  return servers.sort((a, b) => share(b) - share(a))[0];
}

function list(dl, rows) {
  while (dl.children.length > rows.length) dl.lastChild.remove();
  rows.forEach(([title, value, short = "", kind = ""], at) => {
    let row = dl.children[at];
    if (!row) {
      row = element("div", {}, element("dt"), element("dd"));
      dl.append(row);
    }
    text(row.firstChild, short ? `${short}` : title);
    if (short) set(row.firstChild, "title", title);
    text(row.lastChild, kind === "bad" ? `▲ ${value}` : value);
    set(row, "class", kind);
  });
}
