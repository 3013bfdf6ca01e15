// Frames with their length in front, as a variable-length integer of QUIC (RFC 9000 section 16).

/** The longest frame that is accepted, in bytes: a page of history with large payloads fits. */
export const LONGEST_FRAME = 16 * 1024 * 1024;

/** A frame's bytes with their length in front. */
export function withLength(bytes: Uint8Array): Uint8Array {
  const size = bytes.length;
  const log2 = size < 64 ? 0 : size < 16_384 ? 1 : 2;
  const header = 1 << log2;
  const framed = new Uint8Array(header + size);
  for (let at = header - 1, left = size; at >= 0; at--, left >>>= 8) framed[at] = left & 0xff;
  framed[0]! |= log2 << 6;
  framed.set(bytes, header);
  return framed;
}

/** Cuts a stream of bytes, in chunks of any size, into frames. */
export class LengthReader {
  #bytes = new Uint8Array(1024);
  #size = 0;

  /** Takes a chunk and returns the frames that are complete; throws a RangeError where a length is out of bounds. */
  push(chunk: Uint8Array): Uint8Array[] {
    this.#append(chunk);
    const frames: Uint8Array[] = [];
    let at = 0;
    for (let next = this.#frameAt(at); next; next = this.#frameAt(at)) {
      frames.push(this.#bytes.slice(next.start, next.end));
      at = next.end;
    }
    this.#bytes.copyWithin(0, at, this.#size);
    this.#size -= at;
    return frames;
  }

  #append(chunk: Uint8Array): void {
    const size = this.#size + chunk.length;
    if (size > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(size, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.#size);
    this.#size = size;
  }

  #frameAt(at: number): { start: number; end: number } | undefined {
    if (at >= this.#size) return undefined;
    const start = at + (1 << (this.#bytes[at]! >> 6));
    if (start > this.#size) return undefined;
    let length = this.#bytes[at]! & 0x3f;
    for (let next = at + 1; next < start; next++) length = length * 256 + this.#bytes[next]!;
    if (length > LONGEST_FRAME) throw new RangeError(`a frame of ${length} bytes; the most is ${LONGEST_FRAME}`);
    return start + length <= this.#size ? { start, end: start + length } : undefined;
  }
}
