// Many scanners send no Enter. What comes in faster than anyone types, and then stops, is a scan.

const GAP = 50;
const END = 150;
const SHORTEST = 4;

export function submitBursts(field) {
  let timer;
  let burst = false;
  let last = 0;

  field.addEventListener("input", (event) => {
    clearTimeout(timer);
    const fast = field.value.length === 1 || (burst && event.timeStamp - last < GAP);
    burst = fast && event.inputType === "insertText";
    last = event.timeStamp;
    if (burst && field.value.length >= SHORTEST) {
      timer = setTimeout(() => field.form.requestSubmit(), END);
    }
  });
  field.form.addEventListener("submit", () => clearTimeout(timer));
}
