// @ts-check
/**
 * Builds and updates the page. Text only ever becomes text nodes and attribute values: no function here takes markup.
 *
 * @typedef {Node | string | number | null | undefined | false | any[]} Child Lists are made flat.
 * @typedef {Record<string, unknown>} Attributes
 */

const SVG = "http://www.w3.org/2000/svg";
const HANDLERS = ["onclick", "onsubmit", "onchange", "oninput", "onkeydown", "ontoggle"];

/**
 * An element. An attribute that is `false`, `null` or `undefined` is left out; `true` gives an empty one. Functions are
 * handlers such as `onclick`.
 * @param {string} tag @param {Attributes | null} [attributes] @param {...Child} children @returns {HTMLElement}
 */
export function h(tag, attributes, ...children) {
  return /** @type {HTMLElement} */ (filled(document.createElement(tag), attributes, children));
}

/** The same for SVG. @param {string} tag @param {Attributes | null} [attributes] @param {...Child} children */
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** @param {Element} element @param {Attributes | null | undefined} attributes @param {Child[]} children */
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") {
      /** @type {any} */ (element)[name] = value;
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...flat(children));
  if (element instanceof HTMLSelectElement && element.hasAttribute("data-value")) {
    element.value = element.dataset.value ?? "";
  }
  return element;
}

/** @param {Child} child @returns {Node[]} */
function flat(child) {
  if (child === null || child === undefined || child === false) return [];
  if (Array.isArray(child)) return child.flatMap(flat);
  return [child instanceof Node ? child : document.createTextNode(String(child))];
}

/**
 * Make the content of an element equal to `children`. What is there already stays: focus, selection, scroll position,
 * open details, and what a person has typed. Elements with the same `data-key` are the same.
 * @param {Element} parent @param {...Child} children
 */
export function show(parent, ...children) {
  const focused = document.activeElement;
  patchChildren(parent, flat(children));
  if (focused instanceof HTMLElement && focused !== document.activeElement && parent.contains(focused)) focused.focus();
}

/** @param {Element} parent @param {Node[]} fresh */
function patchChildren(parent, fresh) {
  /** @type {Map<string, Element>} */
  const keyed = new Map();
  for (const child of parent.children) {
    const key = keyOf(child);
    if (key !== null) keyed.set(key, child);
  }
  let at = parent.firstChild;
  for (const node of fresh) {
    const key = keyOf(node);
    const found = key === null ? (at !== null && keyOf(at) === null ? at : null) : (keyed.get(key) ?? null);
    if (found === null || !alike(found, node)) {
      parent.insertBefore(node, at);
      continue;
    }
    if (key !== null) keyed.delete(key);
    if (found === at) at = at.nextSibling;
    else parent.insertBefore(found, at);
    patch(found, node);
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** @param {Node} node @returns {string | null} */
function keyOf(node) {
  return node instanceof Element ? node.getAttribute("data-key") : null;
}

/** @param {Node} one @param {Node} other */
function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName;
}

/** @param {Node} old @param {Node} fresh */
function patch(old, fresh) {
  if (!(old instanceof Element) || !(fresh instanceof Element)) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old instanceof HTMLDetailsElement)) old.removeAttribute(name);
  }
  let chosen = false;
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) === value) continue;
    old.setAttribute(name, value);
    if (name === "value" && old instanceof HTMLInputElement) old.value = value;
    chosen ||= name === "data-value";
  }
  for (const name of HANDLERS) /** @type {any} */ (old)[name] = /** @type {any} */ (fresh)[name];
  patchChildren(old, [...fresh.childNodes]);
  if (chosen && old instanceof HTMLSelectElement) old.value = old.dataset.value ?? "";
}

/** The element with this id, which the page has. @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element ${id}`);
  return found;
}
