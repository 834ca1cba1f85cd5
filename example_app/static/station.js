// The form. A scan goes into the queue before anything is sent, and leaves it when the server has
// confirmed it: whatever fails in between, the scan is still there.

import * as live from "./live.js";
import * as order from "./order.js";
import * as queue from "./queue.js";
import { submitBursts } from "./scanner.js";
import { sendAll } from "./sending.js";
import { find, say, showUnsaved } from "./view.js";

const REMEMBERED = ["order", "operator", "quality"];
const form = find("#station");
const fields = form.elements;

function submit(event) {
  event.preventDefault();
  const scan = {
    order: fields.order.value.trim(),
    box: fields.box.value.trim(),
    quality: fields.quality.value,
    operator: fields.operator.value.trim(),
  };
  try {
    queue.add(scan);
  } catch {
    say("bad", `NOT SAVED: box ${scan.box}. This browser has no room to keep it: scan it again.`);
    return;
  }
  fields.box.value = "";
  fields.box.focus();
  say("", "Sending …");
  showUnsaved();
  sendAll();
}

function remember() {
  const values = REMEMBERED.map((name) => [name, fields[name].value]);
  localStorage.setItem("station", JSON.stringify(Object.fromEntries(values)));
  form.dataset.quality = fields.quality.value;
}

function recall() {
  const values = JSON.parse(localStorage.getItem("station") ?? "{}");
  for (const name of REMEMBERED) {
    fields[name].value = values[name] ?? fields[name].value;
  }
  form.dataset.quality = fields.quality.value;
}

form.addEventListener("submit", submit);
form.addEventListener("change", remember);
fields.order.addEventListener("change", order.change);
fields.order.addEventListener("change", live.follow);
fields.quality.addEventListener("change", () => fields.box.focus());
find("#send-now").addEventListener("click", () => {
  fields.box.focus();
  sendAll();
});
window.addEventListener("online", sendAll);
window.addEventListener("storage", showUnsaved); // another tab's scans
submitBursts(fields.box);

recall();
form.querySelector("input:invalid").focus(); // the first that is empty
showUnsaved();
order.offerAll();
sendAll();
live.connect();
