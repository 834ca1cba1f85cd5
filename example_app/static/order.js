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
  let note = "";
  try {
    const [counters, { scans }] = await Promise.all([
      get(`orders/${code}`),
      get(`scans?order=${code}&limit=10`),
    ]);
    if (mine === refreshes) {
      showOrder(counters);
      showScans(scans);
    }
  } catch (error) {
    note = `Not up to date: ${error.message}`;
  }
  if (mine === refreshes) {
    find("#order-note").textContent = note;
  }
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
