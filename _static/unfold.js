/* The theme lets Tab reach the boxes that scroll, but looks for them only when the page is loaded
   or resized. A box in something folded does not scroll then; so have it look again. */
document.addEventListener("click", (event) => {
  if (event.target.closest(".admonition-title, summary")) window.dispatchEvent(new Event("resize"));
});
