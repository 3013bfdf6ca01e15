/** Takes a handler away again. Calling it twice does nothing. */
export type Off = () => void;

/** Named events with typed arguments. Handlers that throw harm neither the others nor the sender. */
export class Events<Named extends object> {
  #handlers = new Map<keyof Named, Set<(event: never) => void>>();
  #failed: (thrown: unknown, name: keyof Named & string) => void;

  /** @internal */
  constructor(failed: (thrown: unknown, name: keyof Named & string) => void) {
    this.#failed = failed;
  }

  on<Name extends keyof Named & string>(name: Name, handler: (event: Named[Name]) => void): Off {
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers);
    handlers.add(handler);
    return () => void handlers.delete(handler);
  }

  /** Whether anybody listens. */
  has(name: keyof Named): boolean {
    return (this.#handlers.get(name)?.size ?? 0) > 0;
  }

  emit<Name extends keyof Named & string>(name: Name, event: Named[Name]): void {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      try {
        const made: unknown = handler(event as never);
        if (made instanceof Promise) made.catch((thrown: unknown) => this.#failed(thrown, name));
      } catch (thrown) {
        this.#failed(thrown, name);
      }
    }
  }
}
