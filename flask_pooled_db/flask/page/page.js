// The page: asks for the numbers every two seconds while it is looked at, and shows them.

import { set, text } from "./draw.js";
import { History } from "./history.js";
import { showDatabases, showHolders, showLists } from "./lists.js";
import { showTiles } from "./tiles.js";
import { clock, counted, lasting, visible } from "./words.js";

const INTERVAL = 2000;
const PATIENCE = 6000; // ms that an answer may take
const LATE = 5000; // ms between two tries, at most, while there is no answer

const history = new History();
const state = {
  scope: null, // the database whose numbers the tiles show; null: all
  is_paused: false,
  lost: null, // { since, why } while there is no answer
  answered: null, // when the last answer came, by the clock on the wall
  failures: 0,
  timer: null,
};
const find = (id) => document.getElementById(id);

const SYMBOLS = { good: "✓", note: "i", warning: "▲", bad: "✖", lost: "✖" };
const WORDS = { note: "Note", warning: "Warning", bad: "Problem" };

async function ask() {
  const response = await fetch("data", {
    cache: "no-store",
    redirect: "manual",
    headers: { Accept: "application/json", "X-Pooled-DB-Before": history.told() },
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (response.type === "opaqueredirect" || [401, 403].includes(response.status)) {
    throw new Refused("You are not let in any more: reload this page to sign in again.");
  }
  if (!response.ok) throw new Refused(`The app answers with an error (${response.status}).`);
  const kind = response.headers.get("Content-Type") ?? "";
  if (!kind.startsWith("application/json")) {
    throw new Refused("Something else than the app answers: reload this page.");
  }
  return response.json();
}

class Refused extends Error {}

async function poll() {
  clearTimeout(state.timer);
  state.timer = null;
  if (state.is_polling) return;
  state.is_polling = true;
  try {
    const view = await ask();
    history.add(view, performance.now() / 1000);
    Object.assign(state, { lost: null, failures: 0, answered: new Date() });
  } catch (error) {
    state.failures += 1;
    const why = error instanceof Refused ? error.message : "The server does not answer.";
    state.lost = { since: state.lost?.since ?? state.answered ?? new Date(), why };
  } finally {
    state.is_polling = false;
  }
  show();
  plan();
}

// Ask again in a while; not while nobody looks.
function plan() {
  clearTimeout(state.timer);
  if (document.hidden || state.is_paused) return;
  const pause = state.lost ? Math.min(INTERVAL + 500 * state.failures, LATE) : INTERVAL;
  state.timer = setTimeout(poll, pause);
}

function show() {
  showLink();
  showVerdict();
  const view = history.latest;
  if (!view) return;
  if (state.scope !== null && !view.byName.has(state.scope)) state.scope = null;
  showHead(view);
  const now = performance.now() / 1000;
  showTiles(history, state.scope, now);
  showHolders(view, history);
  showDatabases(view, history, state.scope, find("filter").value);
  showLists(view);
}

function showLink() {
  const kind = state.is_paused ? "paused" : state.lost ? "lost" : "live";
  const said = {
    paused: "Paused",
    lost: "No answer",
    live: state.answered ? `Live, ${clock(state.answered)}` : "Connecting",
  };
  set(document.documentElement, "data-link", kind);
  text(find("link-text"), said[kind]);
  text(find("pause"), state.is_paused ? "Go on" : "Pause");
}

function showHead(view) {
  const name = view.app || "Database pools";
  text(find("app"), name);
  find("what").hidden = !view.app;
  const title = `${SYMBOLS[state.lost ? "lost" : view.verdict.severity]} ${name}: pools`;
  if (document.title !== visible(title)) document.title = visible(title);
  const workers = view.workers.length + view.more_workers;
  const binds = view.binds.length + (view.more_binds?.count ?? 0);
  text(find("scale"), `${counted(workers, "worker")}, ${counted(binds, "database")}`);
  text(find("foot"), `flask_pooled_db ${view.version}, answered by process ${view.pid}`);
}

function showVerdict() {
  const view = history.latest;
  const lost = state.lost;
  if (!view && !lost) return;
  const severity = lost ? "lost" : view.verdict.severity;
  set(find("verdict"), "data-severity", severity);
  text(find("symbol"), SYMBOLS[severity]);
  // It is read aloud when it changes: so no time that runs is in it.
  text(find("headline"), lost ? `No answer since ${clock(lost.since)}` : view.verdict.text);
  text(find("summary"), lost ? "" : summaryOf(view));
  const found = lost ? [lostFinding(lost), ...(view?.findings ?? [])] : view.findings;
  showFindings(found);
}

function lostFinding({ since, why }) {
  const seconds = Math.round((Date.now() - since) / 1000);
  const had = history.latest !== undefined;
  const ago = had ? ` The last answer came ${lasting(seconds)} ago.` : "";
  const rest = had ? " What is shown below is from then." : "";
  return {
    kind: "lost",
    severity: "bad",
    title: `${why}${ago}`,
    detail: `This page keeps asking, and goes on by itself.${rest}`,
    remedy: "Is the app being restarted, or are all of its workers busy?",
  };
}

function summaryOf(view) {
  if (!view.workers.length) return "";
  const sum = (field) => view.binds.reduce((all, bind) => all + (bind[field] ?? 0), 0);
  const waiting = sum("waiting");
  const waits = waiting ? `${counted(waiting, "caller")} waiting` : "nobody waits";
  return `${counted(sum("in_use"), "connection")} in use, ${waits}`;
}

function showFindings(found) {
  const list = find("findings");
  while (list.children.length > found.length) list.lastChild.remove();
  found.forEach((one, at) => {
    let item = list.children[at];
    if (!item) {
      item = document.createElement("li");
      for (const [name, kind] of [
        ["span", "mark"],
        ["strong", "said"],
        ["span", "detail"],
        ["span", "remedy"],
      ]) {
        const made = document.createElement(name);
        made.className = kind;
        item.append(made);
      }
      list.append(item);
    }
    const [mark, said, detail, remedy] = item.children;
    set(item, "data-severity", one.severity);
    text(mark, `${SYMBOLS[one.severity]} ${WORDS[one.severity]}`);
    text(said, one.title);
    text(detail, one.detail);
    text(remedy, one.remedy);
    for (const node of [detail, remedy]) node.hidden = !node.textContent;
  });
}

// What people do

find("pause").addEventListener("click", () => {
  state.is_paused = !state.is_paused;
  show();
  if (state.is_paused) clearTimeout(state.timer);
  else poll();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(state.timer);
  else if (!state.is_paused) poll();
});
find("filter").addEventListener("input", show);
find("unscope").addEventListener("click", () => {
  state.scope = null;
  show();
  find("main").focus({ preventScroll: true });
});
find("binds").addEventListener("click", (event) => {
  const name = event.target.closest("button")?.bind;
  if (name === undefined) return;
  state.scope = state.scope === name ? null : name;
  show();
});

poll();
