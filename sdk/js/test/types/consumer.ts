// What an application writes: this only has to compile against dist/.

import { compareOffsets, Tidegate, TidegateError, type Message, type Subscription, type TidegateOptions } from "@tidegate/client";

interface Chat {
  text: string;
}

const options: TidegateOptions = {
  url: ["https://a.example", "https://b.example"],
  tenant: "acme",
  getToken: async (reason) => (reason === "refused" ? "new" : "old"),
  transports: ["webtransport", "sse"],
};

export async function use(): Promise<string | undefined> {
  const tidegate = new Tidegate(options);
  const off = tidegate.on("state", (state) => {
    if (state === "closed") off();
  });
  tidegate.on("error", (error) => console.log(error.code, error.isRetryable, error.closeCode));
  await tidegate.connect();
  const room: Subscription<Chat> = tidegate.subscribe<Chat>("room:1", { ack: "manual", position: { offset: "1-0" } });
  room.on("message", async (message: Message<Chat>) => {
    console.log(message.data.text.length, message.headers["content-type"]);
    message.ack();
  });
  room.on("gap", ({ after, until, reason }) => console.log(after, until, reason));
  for await (const { data, offset, attempt } of room) {
    if (attempt > 1 && compareOffsets(offset, "5-0") > 0) break;
    console.log(data.text);
  }
  // @ts-expect-error: there is no such event
  room.on("nothing", () => undefined);
  // @ts-expect-error: there is no such transport
  new Tidegate({ tenant: "acme", transports: ["carrier-pigeon"] });
  try {
    const { offset } = await tidegate.publish("room:1", { text: "hi" }, { key: "k" });
    return offset;
  } catch (error) {
    return error instanceof TidegateError ? error.code : undefined;
  }
}
