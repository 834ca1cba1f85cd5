// Other workers' scans, by a websocket, as they are saved. It only adds to what the page asks for
// itself: where there is none, and while it is away, the page goes on without it.

import { show } from "./order.js";
import { find } from "./view.js";

const FIRST_RETRY = 2_000;
const LAST_RETRY = 60_000;

let socket;
let retryDelay = FIRST_RETRY;

const wanted = () => find("#order").value.trim().toUpperCase();

export function connect() {
  if (!("live" in document.body.dataset)) {
    return;
  }
  const url = new URL("live", location);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.addEventListener("open", follow);
  socket.addEventListener("message", ({ data }) => {
    retryDelay = FIRST_RETRY;
    const { order, scans } = JSON.parse(data);
    if (order.code === wanted()) {
      show(order, scans);
    }
  });
  socket.addEventListener("close", () => {
    setTimeout(connect, retryDelay * (0.5 + Math.random()));
    retryDelay = Math.min(2 * retryDelay, LAST_RETRY);
  });
}

// Say which order it is about.
export function follow() {
  if (socket?.readyState === WebSocket.OPEN) {
    socket.send(wanted());
  }
}
