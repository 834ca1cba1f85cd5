// What was seen while the page is open. The server keeps nothing of it.

const SPAN = 300; // seconds that charts show
const WINDOW = 60; // seconds that "the last minute" is
const LONGEST = 5000; // characters of a header that every server and proxy takes
const KINDS = ["in_use", "idle", "waiting", "open"];

// The upper bounds of the buckets of times, in seconds; there is one more bucket above.
export const BOUNDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
];

export class History {
  constructor() {
    this.recent = []; // whole views of the last minute
    this.points = new Map(); // by the name of a database; all of them under null
    this.begun = null;
  }

  // Take in a view that came at a time of the page's own clock, in seconds.
  add(view, time) {
    this.begun ??= time;
    // The machine was started anew: its clock and its counters too.
    if (this.latest && view.at < this.latest.at - WINDOW) this.recent = [];
    view.time = time;
    view.byName = new Map(view.binds.map((bind) => [bind.name, bind]));
    view.uses = new Map(view.endpoints.map((use) => [use.name, use]));
    // One worker's own numbers can't be compared with another's.
    view.source = view.alone ? view.pid : 0;
    this.recent = [...this.recent.filter((one) => one.time > time - WINDOW - 4), view];
    for (const bind of view.binds) this.#note(bind.name, bind, time);
    this.#note(null, total(view), time);
    for (const [name, points] of this.points) {
      if (points.at(-1).time < time - SPAN) this.points.delete(name);
    }
  }

  #note(name, bind, time) {
    const known = this.points.get(name) ?? [];
    const point = { time, max: bind.max };
    for (const kind of KINDS) point[kind] = bind[kind];
    const first = known.findIndex((one) => one.time >= time - SPAN);
    this.points.set(name, [...(first < 0 ? [] : known.slice(first)), point]);
  }

  of(name) {
    return this.points.get(name) ?? [];
  }

  get latest() {
    return this.recent.at(-1);
  }

  // The earliest view of the last minute that can be compared with the latest.
  get before() {
    const latest = this.latest;
    return this.recent.find((one) => one.source === latest.source && one.at >= latest.at - WINDOW);
  }

  // What the server is to be told of what was seen in the last minute: it remembers nothing. It is
  // sent in a header, which has to be ASCII, and short.
  told() {
    if (!this.latest) return "";
    const workers = Object.assign({}, ...this.recent.map((one) => one.sample.workers));
    const before = { ...this.before.sample, workers };
    const shorter = { ...before, counts: {}, slow: {}, is_whole: false };
    for (const sample of [before, shorter]) {
      const text = JSON.stringify(sample).replace(/[^\x20-\x7e]/g, (character) => {
        return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
      });
      if (text.length <= LONGEST) return text;
    }
    return "";
  }

  // For how many seconds the latest view can be compared with an earlier one; 0 at first.
  get seconds() {
    return this.latest ? this.latest.at - this.before.at : 0;
  }

  // By how much a counter has grown in the last minute.
  grown(name, field) {
    const [now, then] = this.#pair(name);
    return Math.max((now?.[field] ?? 0) - (then?.[field] ?? 0), 0);
  }

  // The times of the last minute, in buckets.
  times(name, field) {
    const [now, then] = this.#pair(name);
    const earlier = then?.[field] ?? [];
    return BOUNDS.concat(0).map((_, at) => {
      return Math.max((now?.[field]?.[at] ?? 0) - (earlier[at] ?? 0), 0);
    });
  }

  #pair(name) {
    const [latest, before] = [this.latest, this.before];
    if (name !== null) {
      const then = before.byName.get(name);
      // A database that was not there at first has counted all it tells since.
      return [latest.byName.get(name), then];
    }
    return [total(latest), total(before)];
  }

  // Who has had connections, and for how many seconds, in the last minute.
  uses() {
    const before = this.before;
    const is_first = before === this.latest;
    const found = this.latest.endpoints.map((use) => {
      const then = is_first ? null : before.uses.get(use.name);
      const since = (field) => Math.max(use[field] - (then?.[field] ?? 0), 0);
      return { ...use, seconds: since("seconds"), idle: since("idle"), leases: since("leases") };
    });
    const all = found.reduce((sum, use) => sum + use.seconds, 0);
    return found
      .map((use) => ({ ...use, share: all ? use.seconds / all : 0 }))
      .filter((use) => use.seconds > 0 || use.now)
      .sort((a, b) => b.seconds - a.seconds);
  }
}

// The sum of all databases of a view. It is made once.
export function total(view) {
  if (view.total) return view.total;
  const found = { max: 0, wait_time: [], use_time: [] };
  for (const bind of [...view.binds, ...(view.more_binds ? [view.more_binds] : [])]) {
    for (const [name, value] of Object.entries(bind)) {
      if (Array.isArray(value)) {
        value.forEach((number, at) => (found[name][at] = (found[name][at] ?? 0) + number));
      } else if (typeof value === "number" && name !== "max") {
        found[name] = (found[name] ?? 0) + value;
      }
    }
    if (bind.workers) found.max = bind.max === null || found.max === null ? null : found.max + bind.max;
  }
  if (view.more_binds) found.max = null;
  for (const kind of KINDS) found[kind] ??= 0;
  return (view.total = found);
}

// The time that this share of all times was within, in seconds; null if there were none.
export function percentile(counts, part) {
  const all = counts.reduce((sum, number) => sum + number, 0);
  if (!all) return null;
  let below = 0;
  for (const [at, number] of counts.entries()) {
    if (number && below + number >= part * all) {
      if (at === BOUNDS.length) return Infinity;
      const lower = at ? BOUNDS[at - 1] : 0;
      return lower + (BOUNDS[at] - lower) * ((part * all - below) / number);
    }
    below += number;
  }
  return Infinity;
}
