// What the page shows. Data goes into text only, never into markup.

import * as queue from "./queue.js";

export const find = (selector) => document.querySelector(selector);

// `kind` is "good", "warn", "bad" or empty; the text says as much without the colour.
export function say(kind, text) {
  find("#message").className = kind;
  find("#message").textContent = text;
}

export function showUnsaved() {
  const scans = queue.all();
  find("#unsaved tbody").replaceChildren(...scans.map(unsavedRow));
  find("#unsaved").hidden = scans.length === 0;
  find("#send-now").hidden = queue.waiting().length === 0;
  find("#unsaved-count").hidden = scans.length === 0;
  find("#unsaved-count").textContent = `${scans.length} not saved`;
}

export function showOrder({ code = "", approved = "–", rejected = "–", target = "–" }) {
  find("#order-title").textContent = `Order ${code}`;
  find("#approved").textContent = approved;
  find("#rejected").textContent = rejected;
  find("#scanned").textContent = code ? approved + rejected : "–";
  find("#target").textContent = target;
}

export function showScans(scans) {
  const time = (scan) => new Date(scan.saved_at).toLocaleString();
  const rows = scans.map((scan) =>
    row(scan.number, scan.box, scan.quality, scan.operator, time(scan)),
  );
  find("#scans tbody").replaceChildren(...rows);
}

function row(...cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    tr.insertCell().append(cell);
  }
  return tr;
}

function unsavedRow([key, scan]) {
  const state = scan.refused ? `Refused: ${scan.refused}` : "Waiting to be sent";
  const action = scan.refused ? dismissButton(key, scan) : "";
  return row(scan.box, scan.order, scan.quality, scan.operator, state, action);
}

function dismissButton(key, scan) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Dismiss";
  button.setAttribute("aria-label", `Dismiss box ${scan.box}`);
  button.addEventListener("click", () => {
    queue.remove(key);
    showUnsaved();
    find("#box").focus();
  });
  return button;
}
