/* What the live pictures share: elements, controls, and the place in the page.
   Colours and fonts are in custom.css; the same pictures without JavaScript are in the page. */

const live = {
  /* An SVG element with attributes, and children or text. */
  svg(tag, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  },

  /* An HTML element with properties, and children or text. */
  html(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  },

  /* A slider with its name and its value: {element, value}. */
  slider(name, { min, max, value }, changed) {
    const shown = live.html("output", {}, String(value));
    const input = live.html("input", { type: "range", min, max, step: 1, value });
    input.addEventListener("input", () => {
      shown.textContent = input.value;
      changed();
    });
    return {
      element: live.html("label", {}, live.html("span", {}, name, " ", shown), input),
      get value() {
        return Number(input.value);
      },
      set value(to) {
        input.value = to;
        shown.textContent = input.value;
      },
      set max(to) {
        input.max = to;
        shown.textContent = input.value;
      },
      set disabled(to) {
        input.disabled = to;
      },
    };
  },

  /* A choice of one out of several: {element, value}. */
  choice(name, options, changed) {
    const input = live.html("select", {});
    for (const option of options) input.append(live.html("option", { value: option }, option));
    input.addEventListener("change", changed);
    return {
      element: live.html("label", {}, live.html("span", {}, name), input),
      get value() {
        return input.value;
      },
      set disabled(to) {
        input.disabled = to;
      },
    };
  },

  button(name, pressed) {
    const made = live.html("button", { type: "button" }, name);
    made.addEventListener("click", pressed);
    return made;
  },

  /* Shows `parts` in the place that the page keeps for this picture. */
  show(name, controls, picture, told) {
    const place = document.getElementById(`live-${name}`);
    told.setAttribute("role", "status"); // read aloud when it changes
    place.querySelector(".live-static")?.remove();
    place.prepend(live.html("div", { className: "live-controls" }, ...controls), picture, told);
    place.hidden = false;
  },
};
