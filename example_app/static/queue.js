// The scans that the server has not confirmed. Each is an entry of its own in localStorage: a
// reload or a crash loses none, and two tabs cannot overwrite each other's.

const PREFIX = "scan:";

function put(key, scan) {
  localStorage.setItem(key, JSON.stringify(scan));
}

// Throws when the browser has no room: the scan is not kept then.
export function add(scan) {
  const random = Math.random().toString(36).slice(2);
  put(`${PREFIX}${Date.now()}:${random}`, scan);
}

export function remove(key) {
  localStorage.removeItem(key);
}

// Sending it again would not help: it stays to be seen, with the reason.
export function refuse(key, scan, reason) {
  put(key, { ...scan, refused: reason });
}

// All [key, scan], the oldest first.
export function all() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(PREFIX))
    .sort()
    .map((key) => [key, JSON.parse(localStorage.getItem(key))]);
}

export function waiting() {
  return all().filter(([, scan]) => !scan.refused);
}
