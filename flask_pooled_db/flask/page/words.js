// Texts: numbers and times in words, and names from outside as something that can be read.

// What steers how text is shown, or is not seen at all: controls, what turns the direction of
// writing, what has no width, halves of characters; and more marks on a letter than any language has.
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u3164\uffa0]|(?<=\p{M}{3})\p{M}/gu;

export function visible(value) {
  return String(value).replace(UNSEEN, (character) => {
    const code = character.codePointAt(0).toString(16);
    return `\\u{${code}}`;
  });
}

export function count(number) {
  return Math.round(number).toLocaleString("en");
}

export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

// A time that has passed: two digits are enough to judge it.
export function lasting(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function rate(number) {
  return number < 10 ? number.toFixed(1) : count(number);
}

export function share(part) {
  return part > 0 && part < 0.005 ? "<1 %" : `${Math.round(part * 100)} %`;
}

export function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

// "endpoint 'orders'" is long in a table where most are endpoints.
export function caller(name) {
  const found = /^endpoint (['"])(.*)\1$/su.exec(name);
  return found ? found[2] : name;
}

// The beginning of a long name is enough to know it by.
export function short(value, most = 80) {
  const characters = [...visible(value)];
  const is_long = characters.length > most;
  return is_long ? `${characters.slice(0, most - 1).join("")}…` : characters.join("");
}

// The end of a path tells which file it is.
export function place([file, line]) {
  const end = [...visible(file.split("/").slice(-3).join("/"))];
  const shown = end.length > 60 ? `…${end.slice(-59).join("")}` : end.join("");
  return `${shown}:${line}`;
}
