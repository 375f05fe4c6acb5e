/** Server-sent events (WHATWG HTML, section 9.2.6), read from a response's bytes. Only `data` matters here. */

/** Feed it text as it comes; it returns the data of each event that is complete. */
export class EventParser {
  private rest = "";
  private data: string[] = [];
  private begun = false;

  feed(text: string): string[] {
    if (!this.begun && text) {
      this.begun = true;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    const events: string[] = [];
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    // A carriage return at the very end may be half of a line's end.
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.data.length) events.push(this.data.join("\n"));
        this.data = [];
      } else {
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "data") this.data.push(value);
      }
    }
    return events;
  }
}

/** The data of each event in a stream of bytes. Ends where the stream ends; an event that was cut off is left out. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
