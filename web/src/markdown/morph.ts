/** Makes an element's children like another's, keeping the nodes that fit: selections, focus and sideways scrolling
 * survive while an answer grows. */

export function morph(target: Node, wanted: Node): void {
  const old = Array.from(target.childNodes);
  const next = Array.from(wanted.childNodes);
  for (const [index, node] of next.entries()) {
    const kept = old[index];
    if (!kept) target.appendChild(node);
    else if (!kept.isEqualNode(node)) adapt(target, kept, node);
  }
  for (const rest of old.slice(next.length)) target.removeChild(rest);
}

function adapt(parent: Node, kept: Node, node: Node): void {
  if (kept instanceof Text && node instanceof Text) kept.data = node.data;
  else if (kept instanceof Element && node instanceof Element && alike(kept, node)) {
    for (const { name } of Array.from(kept.attributes)) if (!node.hasAttribute(name)) kept.removeAttribute(name);
    for (const { name, value } of node.attributes) if (kept.getAttribute(name) !== value) kept.setAttribute(name, value);
    morph(kept, node);
  } else parent.replaceChild(node, kept);
}

// A formula is replaced whole: copying its style attributes is what the Content-Security-Policy refuses.
function alike(kept: Element, node: Element): boolean {
  return kept.tagName === node.tagName && !kept.classList.contains("math") && !node.classList.contains("math");
}
