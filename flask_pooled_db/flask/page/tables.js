// Tables whose rows stay the same elements as long as they show the same thing.

import { element, set, text } from "./draw.js";
import { short } from "./words.js";

export class Table {
  // `columns`: { title, cell(row) -> text, or fill(td, row); kind: a class }. The first one is the
  // row's heading. `first`: how many rows are shown until one asks for all.
  constructor(id, caption, columns, { first = 8, empty = "" } = {}) {
    this.table = document.getElementById(id);
    this.columns = columns;
    this.first = window.matchMedia("(max-width: 48rem)").matches ? Math.min(first, 5) : first;
    this.empty = empty;
    this.rows = new Map();
    this.is_open = false;
    this.body = element("tbody");
    const heads = columns.map(({ title, kind = "" }) => {
      const head = element("th", { scope: "col", class: kind, role: "columnheader" });
      head.textContent = title;
      return head;
    });
    const row = element("tr", { role: "row" }, ...heads);
    this.caption = element("caption", { class: "sr" });
    this.caption.textContent = caption;
    this.table.append(this.caption, element("thead", { role: "rowgroup" }, row), this.body);
    // The small layout shows rows as blocks; these keep telling that it is a table.
    this.table.setAttribute("role", "table");
    this.body.setAttribute("role", "rowgroup");
    this.note = element("p", { class: "note" });
    this.more = element("button", { type: "button", class: "more", "aria-controls": id });
    this.more.hidden = true;
    this.more.addEventListener("click", () => {
      this.is_open = !this.is_open;
      this.show(this.shown);
    });
    this.table.after(this.note, this.more);
  }

  // Show rows, each { key, ... }. `rest` says what is not among them.
  show(given, rest = "") {
    // Names that were cut may be the same.
    const keys = new Map();
    const rows = given.map((row) => {
      const before = keys.get(row.key) ?? 0;
      keys.set(row.key, before + 1);
      return before ? { ...row, key: `${row.key} ${before}` } : row;
    });
    this.shown = given;
    this.rest = rest || (rows.length ? "" : this.empty);
    const visible = this.is_open ? rows : rows.slice(0, this.first);
    const focused = document.activeElement;
    const kept = new Set(visible.map((row) => row.key));
    for (const [key, row] of this.rows) {
      if (!kept.has(key)) {
        row.remove();
        this.rows.delete(key);
      }
    }
    visible.forEach((row, at) => this.#put(row, at));
    if (focused !== document.activeElement && focused?.isConnected) {
      focused.focus({ preventScroll: true });
    }
    set(this.table, "class", visible.length ? "" : "bare");
    text(this.note, this.rest);
    this.note.hidden = !this.rest;
    this.more.hidden = rows.length <= this.first;
    text(this.more, this.is_open ? "Show fewer" : `Show all ${rows.length}`);
    set(this.more, "aria-expanded", this.is_open);
  }

  #put(row, at) {
    let tr = this.rows.get(row.key);
    if (!tr) {
      tr = element("tr", { role: "row" });
      this.columns.forEach(({ title, kind = "" }, column) => {
        const name = column ? "td" : "th";
        const role = column ? "cell" : "rowheader";
        const cell = element(name, { class: kind, "data-title": title, role });
        if (!column) cell.setAttribute("scope", "row");
        tr.append(cell);
      });
      this.rows.set(row.key, tr);
    }
    this.columns.forEach(({ cell, fill }, column) => {
      const td = tr.cells[column];
      if (fill) fill(td, row);
      else text(td, short(cell(row)));
    });
    set(tr, "class", row.kind ?? "");
    if (this.body.children[at] !== tr) this.body.insertBefore(tr, this.body.children[at] ?? null);
  }
}

// The part of a cell with a class of its own; made when it is needed for the first time.
export function part(td, kind, name = "span") {
  const known = td.querySelector(`:scope > .${kind}`);
  if (known) return known;
  if (td.firstChild) td.append(" "); // so that nobody reads the two as one word
  return td.appendChild(element(name, { class: kind }));
}
