// @ts-check
/** A picture of the network as this node sees it. The same network always gives the same picture. */
import { h, s } from "../dom.js";
import { plain } from "../text.js";

const NODES_MAX = 60;
const [WIDE, HIGH] = [640, 360];

/** @typedef {{x: number, y: number}} Point */

/**
 * Places: this node in the middle, direct neighbours on an inner ring, the others outside near the node that passes on
 * their envelopes.
 * @param {any} found The answer of `topology`. @param {string[]} ids
 */
function layout(found, ids) {
  /** @type {Map<string, Point>} */
  const places = new Map([[found.node_id, { x: WIDE / 2, y: HIGH / 2 }]]);
  const direct = new Set(found.edges.filter((/** @type {any} */ edge) => edge.path === "direct").map((/** @type {any} */ edge) => edge.node_id));
  const via = new Map(found.edges.map((/** @type {any} */ edge) => [edge.node_id, edge.via]));
  const inner = ids.filter((id) => direct.has(id));
  ring(places, inner, direct.size === ids.length ? 0.75 : 0.45);
  const outer = ids.filter((id) => !direct.has(id));
  const order = new Map(inner.map((id, at) => [id, at]));
  outer.sort((one, other) => (order.get(via.get(one)) ?? 0) - (order.get(via.get(other)) ?? 0) || (one < other ? -1 : 1));
  ring(places, outer, 0.85);
  return places;
}

/** @param {Map<string, Point>} places @param {string[]} ids @param {number} share */
function ring(places, ids, share) {
  for (const [at, id] of ids.entries()) {
    const angle = (2 * Math.PI * at) / ids.length - Math.PI / 2;
    places.set(id, { x: WIDE / 2 + (share * WIDE * Math.cos(angle)) / 2, y: HIGH / 2 + (share * HIGH * Math.sin(angle)) / 2 });
  }
}

/** @param {any} found The answer of `topology`. */
export function picture(found) {
  const others = found.nodes.filter((/** @type {any} */ node) => node.node_id !== found.node_id)
    .sort((/** @type {any} */ one, /** @type {any} */ other) => (one.node_id < other.node_id ? -1 : 1));
  const shown = others.slice(0, NODES_MAX);
  const places = layout(found, shown.map((/** @type {any} */ node) => node.node_id));
  const own = /** @type {Point} */ (places.get(found.node_id));
  const lines = found.edges.flatMap((/** @type {any} */ edge) => {
    const to = places.get(edge.node_id);
    const from = edge.path === "relayed" ? (places.get(edge.via) ?? own) : own;
    return to === undefined || to === from ? [] : [s("line", {
      x1: from.x, y1: from.y, x2: to.x, y2: to.y, "data-key": `${edge.node_id} ${edge.address}`,
      class: edge.path === "relayed" ? "relayed" : edge.confirmed ? "confirmed" : "remembered",
    })];
  });
  const left_out = found.nodes_total - 1 - shown.length;
  const text = `${found.nodes_total} nodes, ${found.edges.filter((/** @type {any} */ edge) => edge.confirmed).length} confirmed ways. The table below says the same.`;
  return h("figure", { class: "topology", id: "topology" },
    s("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `Picture of the network: ${text}` },
      lines, [...places].map(([id, point]) => spot(id, point, found))),
    h("figcaption", null, text, left_out > 0 && ` The picture leaves out ${left_out} of them.`,
      " Lines: solid to confirmed neighbours, dotted to remembered ones, dashed to nodes behind others."));
}

/** @param {string} id @param {Point} point @param {any} found */
function spot(id, point, found) {
  const node = found.nodes.find((/** @type {any} */ each) => each.node_id === id);
  const name = node?.alias ? plain(node.alias, 18) : `…${plain(id).slice(-6)}`;
  return s("g", { "data-key": id, class: id === found.node_id ? "own" : node?.equivocator ? "forked" : "other" },
    s("circle", { cx: point.x, cy: point.y, r: id === found.node_id ? 12 : 8 }),
    s("text", { x: point.x, y: point.y + (id === found.node_id ? 28 : 22), "text-anchor": "middle" }, name));
}
