// The order that is being scanned: its counters and its last scans.

import { get } from "./server.js";
import { find, showOrder, showScans } from "./view.js";

let refreshes = 0;

// Show the order as the server has it now; what it last said stays when it does not answer.
export async function refresh() {
  const mine = ++refreshes;
  const code = encodeURIComponent(find("#order").value.trim());
  if (!code) {
    return;
  }
  try {
    const [counters, { scans }] = await Promise.all([
      get(`orders/${code}`),
      get(`scans?order=${code}&limit=10`),
    ]);
    if (mine === refreshes) {
      show(counters, scans);
    }
  } catch (error) {
    if (mine === refreshes) {
      find("#order-note").textContent = `Not up to date: ${error.message}`;
    }
  }
}

// Show what the server has just said; an answer that is still under way may be older.
export function show(counters, scans) {
  refreshes += 1;
  showOrder(counters);
  showScans(scans);
  find("#order-note").textContent = "";
}

export function change() {
  showOrder({});
  showScans([]);
  refresh();
}

export async function offerAll() {
  try {
    const { orders } = await get("orders");
    find("#orders").replaceChildren(...orders.map(({ code }) => new Option(code, code)));
  } catch {
    // The list only saves typing.
  }
}
