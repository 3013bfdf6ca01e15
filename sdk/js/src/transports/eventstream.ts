/** The longest line, in characters: a page of history with large payloads fits. */
const LONGEST_LINE = 16 * 1024 * 1024;

/**
 * Reads an event stream (HTML Standard, "Interpreting an event stream"), in pieces of any size. Only `data`
 * matters here: the frame itself says its type.
 */
export class EventReader {
  #rest = "";
  #data: string[] = [];

  /** The data of each complete event, and undefined for each comment, a heartbeat. Throws a RangeError at a line without end. */
  push(piece: string): (string | undefined)[] {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop()!;
    if (this.#rest.length > LONGEST_LINE) throw new RangeError(`a line of more than ${LONGEST_LINE} characters`);
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line: string): (string | undefined)[] {
    if (line === "") {
      const data = this.#data.splice(0).join("\n");
      return data ? [data] : [];
    }
    if (line.startsWith(":")) return [undefined];
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line)!;
    if (field === "data") this.#data.push(value!);
    return [];
  }
}
