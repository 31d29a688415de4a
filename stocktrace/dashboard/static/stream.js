// The stream of a session's newest state. It is closed while the page is hidden, or if it is silent.

const SILENT_MS = 8000; // a running session sends its state twice a second
const RETRY_MS = 1500;

export class Stream {
  constructor(listeners) {
    this.listeners = listeners;
    this.query = null;
    this.source = null;
    this.receivedAt = 0;
    this.offline = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    addEventListener("pagehide", () => this.close());
    setInterval(() => this.checkSilence(), 1000);
  }

  subscribe(query) {
    this.query = query;
    this.close();
    this.open();
  }

  open() {
    if (this.source || !this.query || document.hidden) return;
    this.receivedAt = Date.now();
    const source = new EventSource(`/api/live?${this.query}`);
    const receive = (listener) => (event) => {
      if (this.source !== source) return;
      this.receivedAt = Date.now();
      this.setOffline(false);
      listener(JSON.parse(event.data));
    };
    let isChartComplete = false;
    source.addEventListener("chart", receive((chart) => {
      isChartComplete = !chart.behind;
      this.listeners.chart(chart);
    }));
    source.addEventListener("session", receive((session) => {
      this.listeners.session(session);
      // Nothing will change any more: the page does not need the server.
      if (session.final && isChartComplete) this.close();
    }));
    source.addEventListener("failure", receive((sentence) => {
      this.close();
      this.query = null;
      this.listeners.failure(sentence);
    }));
    source.onerror = () => {
      if (this.source !== source) return;
      this.setOffline(true);
      // Retry here: browsers give up on some errors.
      this.close();
      setTimeout(() => this.open(), RETRY_MS);
    };
    this.source = source;
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  setOffline(offline) {
    if (offline === this.offline) return;
    this.offline = offline;
    this.listeners.offline(offline);
  }

  checkSilence() {
    if (this.source && Date.now() - this.receivedAt > SILENT_MS) this.source.onerror();
  }
}
