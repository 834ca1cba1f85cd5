// The tables: who holds connections, the databases, slow statements, what came and went, workers.

import { bar, set, text } from "./draw.js";
import { percentile } from "./history.js";
import { part, Table } from "./tables.js";
import { caller, count, counted, lasting, place, share, short } from "./words.js";

const find = (id) => document.getElementById(id);
const MANY = 8; // databases from which on one may want to filter
const LONG = 10; // seconds for which a connection may be held without its being pointed out

const leases = new Table(
  "leases",
  "The leases that have been out for longest, with who holds each",
  [
    { title: "Held by", fill: holder },
    { title: "Database", cell: ({ lease }) => lease.bind, kind: "name" },
    { title: "For", fill: age, kind: "number" },
    { title: "Idle", cell: ({ lease }) => share(lease.age ? lease.idle / lease.age : 0), kind: "number" },
    { title: "Does", cell: ({ lease }) => doing(lease), kind: "state" },
    { title: "Transaction", cell: ({ lease }) => (lease.in_transaction ? "● open" : "none") },
    { title: "Worker", cell: ({ lease }) => lease.pid, kind: "number" },
  ],
  { first: 10, empty: "Nobody holds a connection." },
);

function holder(td, { lease }) {
  text(part(td, "who"), short(caller(lease.name)));
  text(part(td, "place"), lease.place ? place(lease.place) : "");
}

function age(td, { lease }) {
  const is_long = lease.age >= LONG && lease.rests_for >= LONG / 2;
  text(td, `${is_long ? "▲ " : ""}${lasting(lease.age)}`);
}

function doing(lease) {
  return lease.rests_for ? `rests for ${lasting(lease.rests_for)}` : "runs a statement";
}

const endpoints = new Table(
  "endpoints",
  "Who has had connections in the last minute, by their share of the time",
  [
    { title: "Caller", cell: ({ use }) => caller(use.name) },
    {
      title: "Share",
      kind: "number wide",
      fill: (td, { use }) => {
        text(part(td, "figure"), share(use.share));
        bar(td, use.share, use.seconds && use.idle / use.seconds > 0.5 ? "hatched" : "");
      },
    },
    { title: "Idle", cell: ({ use }) => share(use.seconds ? use.idle / use.seconds : 0), kind: "number" },
    { title: "Now", cell: ({ use }) => count(use.now), kind: "number" },
    { title: "Leases", cell: ({ use }) => count(use.leases), kind: "number" },
  ],
  { first: 10, empty: "Nobody has had a connection in the last minute." },
);

export function showHolders(view, history) {
  const rows = view.leases.map((lease) => {
    return { key: JSON.stringify([lease.pid, lease.bind, lease.name, lease.place]), lease };
  });
  const out = view.binds.reduce((sum, bind) => sum + bind.in_use, 0);
  const is_part = out > rows.length && rows.length;
  leases.show(rows, is_part ? `${count(out)} are held in all. These are the longest that are known.` : "");
  const uses = history.uses();
  endpoints.show(uses.map((use) => ({ key: use.name, use })));
}

// Databases

const STATES = {
  away: ["✖", "away"],
  full: ["✖", "used up"],
  waits: ["▲", "waits"],
  busy: ["●", "in use"],
  idle: ["○", "idle"],
  closed: ["–", "closed"],
};

function stateOf(bind) {
  if (bind.down || bind.failing) return "away";
  if (bind.used_up) return "full";
  if (bind.waiting) return "waits";
  if (bind.in_use) return "busy";
  return bind.open ? "idle" : "closed";
}

const percentiles = (counts) => {
  const told = [0.5, 0.95, 0.99].map((part) => percentile(counts, part));
  if (told[0] === null) return "–";
  return told.map((one) => (one === Infinity ? ">60 s" : lasting(one))).join(" / ");
};

const databases = new Table(
  "binds",
  "The databases, those that need to be looked at first",
  [
    { title: "Database", fill: name },
    { title: "State", fill: showState, kind: "state" },
    {
      title: "In use",
      kind: "number wide",
      fill: (td, { bind }) => {
        text(part(td, "figure"), `${count(bind.in_use)}${bind.max ? ` / ${count(bind.max)}` : ""}`);
        bar(td, bind.max ? bind.in_use / bind.max : 0);
      },
    },
    { title: "Idle", cell: ({ bind }) => count(bind.idle), kind: "number" },
    { title: "Waiting", cell: ({ bind }) => count(bind.waiting), kind: "number" },
    { title: "Wait p50 / 95 / 99", cell: ({ wait }) => wait, kind: "number times" },
    { title: "Held p50 / 95 / 99", cell: ({ use }) => use, kind: "number times" },
    { title: "Timeouts", cell: ({ bind }) => count(bind.timeouts), kind: "number" },
    { title: "Connects", cell: ({ bind }) => connects(bind), kind: "number" },
    { title: "Closed, why", cell: ({ bind }) => evictions(bind), kind: "words" },
    { title: "Server", cell: ({ bind }) => server(bind), kind: "number" },
  ],
  { first: 8, empty: "No database has been used yet." },
);

function name(td, { bind, is_scope }) {
  const button = part(td, "pick", "button");
  button.type = "button";
  button.bind = bind.name;
  button.setAttribute("aria-pressed", is_scope);
  text(button, short(bind.name));
  const label = part(td, "place");
  text(label, short(bind.label));
  set(label, "title", bind.label);
}

function showState(td, { bind }) {
  const state = stateOf(bind);
  const [symbol, word] = STATES[state];
  const since = bind.down ? ` for ${lasting(bind.down.since)}` : "";
  const where = bind.used_up && bind.workers > 1 ? ` in ${bind.used_up} of ${bind.workers}` : "";
  text(td, `${symbol} ${word}${since}${state === "full" ? where : ""}`);
}

function connects(bind) {
  return bind.connect_errors
    ? `${count(bind.connects)}, ${count(bind.connect_errors)} failed`
    : count(bind.connects);
}

function evictions(bind) {
  const found = Object.entries(bind.evictions).sort((a, b) => b[1] - a[1]);
  return found.length ? found.map(([why, number]) => `${why} ${count(number)}`).join(", ") : "–";
}

function server(bind) {
  return bind.server
    ? `${count(bind.server.connections)} / ${count(bind.server.max_connections)}`
    : "–";
}

export function showDatabases(view, history, scope, filter) {
  const wanted = filter.trim().toLowerCase();
  const matching = view.binds.filter((bind) => bind.name.toLowerCase().includes(wanted));
  const visible = databases.is_open ? matching : matching.slice(0, databases.first);
  const shown = new Set(visible);
  const rows = matching.map((bind) => ({
    key: bind.name,
    bind,
    is_scope: scope === bind.name,
    kind: ["away", "full"].includes(stateOf(bind)) ? "bad" : "",
    // What is not shown need not be worked out.
    wait: shown.has(bind) ? percentiles(history.times(bind.name, "wait_time")) : "",
    use: shown.has(bind) ? percentiles(history.times(bind.name, "use_time")) : "",
  }));
  databases.show(rows, restOf(view, matching, visible));
  find("filter-label").hidden = view.binds.length <= MANY;
  const told = `${count(matching.length)} of ${count(view.binds.length)}`;
  text(find("filtered"), wanted ? told : "");
  const has_server = view.binds.some((bind) => bind.server);
  databases.table.classList.toggle("no-server", !has_server);
}

// What one line says of the databases that have none.
function restOf(view, matching, visible) {
  const hidden = matching.slice(visible.length);
  const more = view.more_binds;
  const number = hidden.length + (more?.count ?? 0);
  if (!number) {
    return view.binds.length && !matching.length ? "No database has a name like that." : "";
  }
  const sum = (field) => hidden.reduce((all, bind) => all + bind[field], more?.[field] ?? 0);
  const told = ["in_use", "idle", "waiting"].map(sum);
  const rest = `${counted(number, "more database")}: ${told[0]} in use, ${told[1]} idle, ${told[2]} waiting.`;
  return more ? `${rest} ${count(more.count)} of them are not listed.` : rest;
}

// What else there is

const slow = new Table(
  "slow",
  "The slow statements that took the most time",
  [
    { title: "Statement", fill: (td, { one }) => text(part(td, "clamp"), one.text), kind: "code" },
    { title: "Run by", cell: ({ one }) => caller(one.name), kind: "name" },
    { title: "Times", cell: ({ one }) => count(one.count), kind: "number" },
    { title: "Longest", cell: ({ one }) => lasting(one.longest), kind: "number" },
    { title: "In all", cell: ({ one }) => lasting(one.seconds), kind: "number" },
    { title: "Last", cell: ({ one }) => `${lasting(one.last)} ago`, kind: "number" },
  ],
  {
    first: 5,
    empty: "None. They are known where POOLED_DB_SLOW_STATEMENT is set.",
  },
);

const events = new Table(
  "events",
  "The databases that were opened or closed last",
  [
    { title: "Database", cell: ({ one }) => one.bind, kind: "name" },
    { title: "Was", cell: ({ one }) => (one.what === "opened" ? "+ opened" : "× closed") },
    { title: "Why", cell: ({ one }) => one.reason, kind: "words" },
    { title: "Ago", cell: ({ one }) => lasting(one.ago), kind: "number" },
    { title: "Worker", cell: ({ one }) => one.pid, kind: "number" },
  ],
  { first: 8, empty: "None. Databases that are opened by their names show up here." },
);

const workers = new Table(
  "workers",
  "The workers of this host",
  [
    { title: "Process", cell: ({ one }) => one.pid },
    { title: "Program", cell: ({ one }) => one.program, kind: "name" },
    { title: "Lives for", cell: ({ one }) => lasting(one.uptime), kind: "number" },
    { title: "Published", fill: published, kind: "number" },
    { title: "Pools", cell: ({ one }) => count(one.pools), kind: "number" },
    { title: "Open", cell: ({ one }) => count(one.open), kind: "number" },
    { title: "In use", cell: ({ one }) => count(one.in_use), kind: "number" },
    { title: "Waiting", cell: ({ one }) => count(one.waiting), kind: "number" },
    { title: "Threads", cell: ({ one }) => count(one.threads), kind: "number" },
  ],
  { first: 16, empty: "No worker has used a database yet." },
);

function published(td, { one }) {
  text(td, `${one.age > 5 ? "▲ " : ""}${lasting(one.age)} ago`);
}

export function showLists(view) {
  slow.show(view.slow.map((one) => ({ key: JSON.stringify([one.bind, one.name, one.text]), one })));
  events.show(
    view.events.map((one) => ({ key: JSON.stringify([one.pid, one.bind, one.what]), one })),
  );
  const more = view.more_workers;
  workers.show(
    view.workers.map((one) => ({ key: one.token || one.pid, one, kind: one.age > 5 ? "bad" : "" })),
    more ? `${counted(more, "more worker")}.` : "",
  );
}
