// Draws the plots one after the other. Pictures stand in their place until all of them are drawn, and in print.
(async () => {
  const places = [...document.querySelectorAll("[data-plot]")];
  document.documentElement.classList.add("zoomable");
  try {
    for (const place of places) {
      await Bokeh.embed.embed_item(JSON.parse(document.getElementById(place.dataset.plot).textContent), place);
    }
  } catch (error) {
    document.documentElement.classList.remove("zoomable");
    throw error;
  }
  document.documentElement.dataset.drawn = places.length;
})();
