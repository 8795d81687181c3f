"use strict";
// Draws every chart of the page in the page's colors, and again when these change.

const dark = matchMedia("(prefers-color-scheme: dark)");

function template() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = {
    automargin: true,
    ticks: "outside", // invisible: they leave room between the numbers and the plot
    tickcolor: "rgba(0,0,0,0)",
    title: { font: { size: 13 }, standoff: 8 },
    gridcolor: color("line"),
    linecolor: color("line"),
    zerolinecolor: color("line"),
    zerolinewidth: 1,
  };
  const control = { bgcolor: color("card"), bordercolor: color("line"), font: { color: color("text") } };
  return {
    layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("text") },
      paper_bgcolor: color("page"),
      plot_bgcolor: color("page"),
      xaxis: axis,
      yaxis: axis,
      colorscale: {
        diverging: [[0, color("low")], [0.5, color("middle")], [1, color("high")]],
      },
      hoverlabel: control,
      sliderdefaults: control,
      updatemenudefaults: control,
      // A finger on a chart scrolls the page.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    },
  };
}

const charts = [...document.querySelectorAll(".chart")];
const config = { responsive: true, displayModeBar: false };
for (const chart of charts) {
  const { data, layout, frames } = JSON.parse(chart.nextElementSibling.textContent);
  Plotly.newPlot(chart, { data, frames, config, layout: { ...layout, template: template() } });
}
dark.addEventListener("change", () => {
  for (const chart of charts) Plotly.relayout(chart, { template: template() });
});
