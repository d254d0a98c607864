// Names of values in a list, each with what it is: the variables of a workspace, the placeholders of a run.

import { h } from "../dom.js";
import { brief, describe } from "../values.js";

//: Types of which a value says more than its type.
export const SCALARS = ["int", "float", "bool", "str", "NoneType", "complex", "Decimal", "datetime", "date", "float64", "int64"];
//: Entries, or characters of a text, up to which that is so, and values that are read at once.
const SHORT = 100;
//: A list's nulls, of which a listing does not say what they are.
const UNSURE = ["null"];
const MOST = 50;

/** Return the names of the values of these types that are short, of what a listing says. */
export function namesOf(listed, types) {
  const short = ({ type, shape }) => types.includes(type) && !(shape?.[0] > SHORT);
  return listed
    .filter(short)
    .slice(0, MOST)
    .map(({ name }) => name);
}

/** Return an entry of the list; `value` is a short one, undefined where it is not known. */
export function valueChoice({ name, type, shape }, value, open) {
  const about = describe(type, shape);
  const button = h(
    "button",
    { type: "button", class: "quiet", title: `${name}: ${about}`, onclick: open },
    h("code", {}, name),
    h("small", {}, value === undefined ? about : brief(value, type, value === null ? undefined : UNSURE)),
  );
  return h("li", { "data-name": name }, button);
}

/**
 * Return `read()`, which calls `look` and lets no two of its calls overlap: of those that are asked for meanwhile one follows.
 * `isOver()` tells whether nobody wants it any more.
 */
export function oneAtATime(look, isOver) {
  let wanted = false;
  let reading = false;
  return async () => {
    wanted = true;
    while (wanted && !reading && !isOver()) {
      wanted = false;
      reading = true;
      try {
        await look();
      } finally {
        reading = false;
      }
    }
  };
}
