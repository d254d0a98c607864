// Elements, without markup: whatever a server or a job says goes into the page as text.

/**
 * Return a new element: h("button", { type: "button", class: "primary", onclick: run }, "Run").
 *
 * `class`, `for`, `role`, `list` and whatever has a dash (aria-label, data-name) are attributes, all else are properties of the
 * element; undefined and null are left out. Children are texts, numbers, elements and lists of these; null, undefined and false
 * are none.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) {
      continue;
    }
    if (name.includes("-") || ["class", "for", "role", "list"].includes(name)) {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Make these elements the children of a container, and leave those there that are the same already: a person may have the focus
 * on one. Where that one is another now, the focus goes to what stands in its place.
 */
export function renew(container, elements) {
  elements.forEach((element, index) => {
    const old = container.children[index];
    if (old === undefined) {
      container.append(element);
    } else if (!old.isEqualNode(element)) {
      const focused = old.contains(document.activeElement);
      old.replaceWith(element);
      if (focused) {
        (element.querySelector("a, button") ?? element).focus();
      }
    }
  });
  while (container.children.length > elements.length) {
    container.lastElementChild.remove();
  }
}

/** Return a heading, a text or anything else that only people with a screen reader need. */
export function unseen(tag, text) {
  return h(tag, { class: "unseen" }, text);
}

/** Return a label with its field under it; the field gets an id where it has none. */
export function labelled(text, field, hint = "") {
  field.id ||= `field-${(labelled.count = (labelled.count ?? 0) + 1)}`;
  const about = hint ? h("small", { id: `${field.id}-hint`, class: "hint" }, hint) : null;
  if (about) {
    field.setAttribute("aria-describedby", about.id);
  }
  return h("div", { class: "field" }, h("label", { for: field.id }, text), field, about);
}

/** Return a small coloured word for a state; `kind` is one of good, bad, busy, idle. It is never said by colour alone. */
export function chip(text, kind = "idle") {
  return h("span", { class: `chip ${kind}` }, text);
}

/** Return a moment, seconds since 1970, as people write it; today's without its date. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString() : date.toLocaleString();
}

/** Return a span of seconds as people write it: 0.4 ms, 320 ms, 4.2 s, 10 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. */
export function span(seconds) {
  if (seconds < 0.0995) {
    return `${Number((seconds * 1000).toPrecision(2))} ms`;
  }
  if (seconds < 0.9995) {
    return `${Math.round(seconds * 1000)} ms`;
  }
  if (seconds < 59.95) {
    return `${Number(seconds.toFixed(1))} s`;
  }
  for (const [unit, size, smaller, part] of [
    ["d", 86400, "h", 3600],
    ["h", 3600, "min", 60],
    ["min", 60, "s", 1],
  ]) {
    if (seconds >= size) {
      const rest = Math.floor((seconds % size) / part);
      return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
    }
  }
  return `${Math.round(seconds)} s`;
}
