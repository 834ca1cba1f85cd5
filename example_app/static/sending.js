// Sends what is in the queue, new scans and old ones alike, until the server has confirmed each.

import { refresh } from "./order.js";
import * as queue from "./queue.js";
import { post } from "./server.js";
import { say, showUnsaved } from "./view.js";

const FIRST_RETRY = 2_000;
const LAST_RETRY = 30_000;
const REFUSALS = [400, 404, 409, 413];

let sending = false;
let retryTimer;
let retryDelay = FIRST_RETRY;

export async function sendAll() {
  if (sending) {
    return; // The loop under way comes to the new scan too.
  }
  sending = true;
  clearTimeout(retryTimer);
  try {
    await sendWaiting();
  } finally {
    sending = false;
    showUnsaved();
    planRetry();
  }
  refresh();
}

async function sendWaiting() {
  const tried = new Set();
  const next = () => queue.waiting().find(([key]) => !tried.has(key));
  for (let entry = next(); entry; entry = next()) {
    tried.add(entry[0]);
    const status = await send(...entry);
    showUnsaved();
    if (status === 0 || status === 503) {
      return; // The server or its database is away: the others would fare no better.
    }
  }
}

// Send one scan; return the status of the answer, 0 for none. Without a clear answer it stays in
// the queue. It may be saved all the same: then the next try is answered with 409.
async function send(key, scan) {
  let status, answer;
  try {
    ({ status, answer } = await post("scans", scan));
  } catch {
    return 0;
  }
  const saved = answer.scan;
  if (status === 201) {
    queue.remove(key);
    say("good", `Saved: box ${saved.box} as scan ${saved.number} of order ${saved.order}.`);
  } else if (status === 409 && isSame(saved, scan)) {
    queue.remove(key);
    say("warn", `Box ${saved.box} was saved before, as scan ${saved.number} of ${saved.order}.`);
  } else if (REFUSALS.includes(status)) {
    const reason = reasonFor(answer);
    queue.refuse(key, scan, reason);
    say("bad", `REFUSED, not saved: box ${scan.box}. ${reason}`);
  }
  return status;
}

function isSame(saved, scan) {
  return saved?.quality === scan.quality && saved?.operator === scan.operator;
}

function reasonFor({ error, fields = {}, scan }) {
  const bad = Object.entries(fields).map(([name, text]) => `${name} ${text}`);
  const standing = scan ? [`It is saved as ${scan.quality}, by ${scan.operator}.`] : [];
  return [error, ...bad, ...standing].join(" ");
}

function planRetry() {
  const left = queue.waiting().length;
  if (left === 0) {
    retryDelay = FIRST_RETRY;
    return;
  }
  const scans = left === 1 ? "1 scan is" : `${left} scans are`;
  say("bad", `NOT SAVED: ${scans} kept in this browser and will be sent again.`);
  // Spread out, so that all stations do not come back at the same moment.
  retryTimer = setTimeout(sendAll, retryDelay * (0.5 + Math.random()));
  retryDelay = Math.min(2 * retryDelay, LAST_RETRY);
}
