// The newest state of a session, as the server sends it; silent streams and hidden pages are closed.

const SILENT_MS = 8000; // a session that is not over has news twice a second
const AGAIN_MS = 1500;

export class Stream {
  constructor(listeners) {
    this.listeners = listeners;
    this.query = null;
    this.source = null;
    this.heard = 0;
    this.lost = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    addEventListener("pagehide", () => this.close());
    setInterval(() => this.watch(), 1000);
  }

  ask(query) {
    this.query = query;
    this.close();
    this.open();
  }

  open() {
    if (this.source || !this.query || document.hidden) return;
    this.heard = Date.now();
    const source = new EventSource(`/api/live?${this.query}`);
    const hear = (listener) => (event) => {
      if (this.source !== source) return;
      this.heard = Date.now();
      this.lose(false);
      listener(JSON.parse(event.data));
    };
    let whole = false;
    source.addEventListener("chart", hear((chart) => {
      whole = !chart.behind;
      this.listeners.chart(chart);
    }));
    source.addEventListener("board", hear((board) => {
      this.listeners.board(board);
      // Nothing will change any more: what is shown stays, whether the server does or not.
      if (board.final && whole) this.close();
    }));
    source.addEventListener("failure", hear((sentence) => {
      this.close();
      this.query = null;
      this.listeners.failure(sentence);
    }));
    source.onerror = () => {
      if (this.source !== source) return;
      this.lose(true);
      // A server that is down is asked again by us: browsers give up on some errors.
      this.close();
      setTimeout(() => this.open(), AGAIN_MS);
    };
    this.source = source;
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  lose(lost) {
    if (lost === this.lost) return;
    this.lost = lost;
    this.listeners.lost(lost);
  }

  watch() {
    if (this.source && Date.now() - this.heard > SILENT_MS) this.source.onerror();
  }
}
