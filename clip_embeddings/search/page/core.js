// What every part of the page uses. Text of objects only ever becomes textContent or an attribute; nothing in
// these scripts makes HTML from strings.

const at = (id) => document.getElementById(id);
const KEY = "api-key";
// Pixels of a picture's longer side: in the grid, and large.
const TILE = 360;
const LARGE = 1280;

function say(text) {
  at("status").textContent = text;
}

function tell(element, text) {
  element.hidden = !text;
  element.textContent = text ?? "";
}

function nameOf(uri) {
  return uri.slice(uri.lastIndexOf("/") + 1);
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function number(count) {
  return count.toLocaleString("en");
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

// Runs `work` in the next frame, however often it is called before.
function oncePerFrame(work) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      work();
    });
  };
}
