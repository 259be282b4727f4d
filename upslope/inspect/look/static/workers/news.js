// A worker that all tabs of the page share: one stream of news for all of them, since a browser keeps no more than six
// connections to a server, and a stream holds one for good.
const tabs = new Set();
let source = null;

addEventListener("connect", (event) => {
  tabs.add(event.ports[0]);
  if (source) return;
  source = new EventSource("../../api/events");
  source.onmessage = ({ data }) => tabs.forEach((tab) => tab.postMessage(data));
});
