// Values that people type as JSON.

/** Return what a field says as JSON; undefined where it is none, which the field then says itself. */
export function readJson(field) {
  field.setCustomValidity("");
  try {
    return JSON.parse(field.value);
  } catch (error) {
    field.setCustomValidity(field.value.trim() ? `This is no JSON: ${error.message}` : "Type a value as JSON, such as [[1, 2, 3]].");
    field.reportValidity();
    field.addEventListener("input", () => field.setCustomValidity(""), { once: true });
    return undefined;
  }
}

//: Numbers that a field is filled with; more are for programs.
const MOST = 5000;

/** Return a value of a dtype and shape as JSON, of zeros, one row for a batch: to begin with. "" where that would be too much. */
export function example(dtype, shape) {
  const lengths = (shape ?? []).map((length) => length ?? 1);
  if (lengths.reduce((product, length) => product * length, 1) > MOST) {
    return "";
  }
  const one = dtype === "string" ? "" : dtype === "bool" ? false : 0;
  const value = lengths.reduceRight((inner, length) => Array.from({ length }, () => inner), one);
  return JSON.stringify(value).replaceAll(",", ", ");
}

/** Return a shape as people write it: [?, 3]. */
export function shapeText(shape) {
  return shape === null ? "any shape" : shape.length ? `[${shape.map((length) => length ?? "?").join(", ")}]` : "one value";
}
