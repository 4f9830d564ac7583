/** What a push may ask for, and what becomes of it: ttl, delay, topic, recall, keys, wait. */
import http from "node:http";
import type { Test } from "tap";
import { WebSocket } from "ws";
import type { Accepted, Problem, Receipt } from "../../../shared/api.js";
import { startApplication } from "../../../scripts/lab/application.js";
import type { Pair } from "../../../scripts/lab/pair.js";
import { startProxy } from "../../../scripts/lab/proxy.js";
import { until } from "../../../scripts/lab/until.js";

/** Runs them as tests of `t`. */
export function pushOptions(t: Test, pair: Pair): void {
  const { backend, redis, httpUrl } = pair;
  const [wsFn, otherWsFn] = pair.wsFns;
  /** Waits for a receipt's final state. */
  const becomes = async (id: string, status: Receipt["status"]) => {
    await until(async () => (await backend.receipt(id)).status === status, {
      ms: 15_000,
      message: `${id} is ${status}`,
    });
    return backend.receipt(id);
  };

  void t.test(
    "three messages wait for a client that does not exist yet",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const ids: string[] = [];
      for (const text of ["one", "two", "three"]) {
        const accepted = await backend.accepted(connectionId, text);
        t.match(accepted, { status: "queued", online: 0, recipients: 1 });
        ids.push(accepted.id);
      }
      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.has(3);
      t.same(application.texts, ["one", "two", "three"]);
      for (const id of ids) {
        const receipt = await becomes(id, "delivered");
        t.equal(receipt.ack, "client");
        t.same(
          receipt.timeline.map(({ status }) => status),
          ["queued", "sent", "delivered"],
        );
        const times = receipt.timeline.map(({ at }) => at);
        t.same(times, [...times].sort(), "in order of time");
      }
    },
  );

  void t.test("ttl 0 to an absent client is told at once", async (t) => {
    const { connectionId, token } = await backend.prepare();
    const accepted = await backend.accepted(connectionId, "now or never", {
      query: "?ttl=0",
    });
    t.equal(accepted.status, "undeliverable");
    const receipt = await backend.receipt(accepted.id);
    t.match(receipt, { status: "undeliverable", reason: "not_connected" });
    await backend.accepted(connectionId, "later");
    const application = startApplication(t, { token, to: () => wsFn.url });
    await application.has(1);
    t.same(application.texts, ["later"]);

    const online = await backend.accepted(connectionId, "now", {
      headers: { ttl: "0" },
    });
    t.equal(online.online, 1);
    await becomes(online.id, "delivered");
    t.same(application.texts, ["later", "now"]);
  });

  void t.test("a ttl that is over before the client comes", async (t) => {
    const { connectionId, token } = await backend.prepare();
    const { id } = await backend.accepted(connectionId, "short", {
      query: "?ttl=1",
    });
    await becomes(id, "expired");
    await backend.accepted(connectionId, "later");
    const application = startApplication(t, { token, to: () => wsFn.url });
    await application.has(1);
    t.same(application.texts, ["later"]);
  });

  void t.test(
    "delay and at: not before, and after a reconnect in between",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const proxy = await startProxy(t, wsFn.port);
      const proxied = `ws://127.0.0.1:${proxy.port}`;
      const arrivals = new Map<string | undefined, number>();
      const application = startApplication(t, {
        token,
        to: (dial) => (dial === 0 ? proxied : otherWsFn.url),
        onMessage: ({ text }) => void arrivals.set(text, Date.now()),
      });
      await application.bridge.ready;

      const began = Date.now();
      const delayed = await backend.accepted(connectionId, "delayed", {
        query: "?delay=2",
      });
      t.equal(delayed.status, "scheduled");
      const at = new Date(Date.now() + 2_500).toISOString();
      const dated = await backend.accepted(connectionId, "dated", {
        query: `?at=${at}`,
      });
      await backend.accepted(connectionId, "at once");
      await application.has(1);
      proxy.cutAll();
      await application.has(3);
      t.same(application.texts, ["at once", "delayed", "dated"]);
      t.equal(application.dials, 2);
      // Not before: the one thing about time that a busy machine cannot spoil.
      t.ok((arrivals.get("delayed") ?? 0) >= began + 2_000);
      t.ok((arrivals.get("dated") ?? 0) >= Date.parse(at));
      for (const { id } of [delayed, dated]) {
        const receipt = await becomes(id, "delivered");
        t.same(
          receipt.timeline.map(({ status }) => status),
          ["scheduled", "queued", "sent", "delivered"],
        );
      }
    },
  );

  void t.test("topic keeps the newest for an absent client", async (t) => {
    const { connectionId, token } = await backend.prepare();
    const options = { headers: { topic: "price" } };
    const first = await backend.accepted(connectionId, "1", options);
    await backend.accepted(connectionId, "other");
    const second = await backend.accepted(connectionId, "2", options);
    const third = await backend.accepted(connectionId, "3", options);
    for (const { id } of [first, second]) await becomes(id, "replaced");
    const application = startApplication(t, { token, to: () => wsFn.url });
    await application.has(2);
    t.same(application.texts, ["other", "3"]);
    await becomes(third.id, "delivered");
  });

  void t.test(
    "topic keeps the newest for a client that reads slowly",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.bridge.ready;
      application.socket.pause();
      // 20 MB: more than the buffers of a loopback socket hold, so what follows waits in the log.
      const filler = "x".repeat(250_000);
      for (let count = 0; count < 80; count += 1) {
        await backend.accepted(connectionId, filler);
      }
      const options = { headers: { topic: "price" } };
      for (const price of ["1", "2", "3"]) {
        await backend.accepted(connectionId, price, options);
      }
      application.socket.resume();
      await application.has(81, 60_000);
      t.equal(application.texts.at(-1), "3");
      t.equal(application.messages.length, 81, "1 and 2 were replaced");
    },
  );

  void t.test(
    "DELETE recalls what was not sent, and nothing else",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const [kept, gone] = [
        await backend.accepted(connectionId, "kept"),
        await backend.accepted(connectionId, "gone"),
      ];
      const recalled = await backend.ask("DELETE", `/v1/messages/${gone.id}`);
      t.equal(recalled.status, 200);
      t.match(recalled.json(), { id: gone.id, status: "recalled" });
      const twice = await backend.ask("DELETE", `/v1/messages/${gone.id}`);
      t.equal(twice.status, 409);
      t.match(twice.json(), { code: "already_final" });

      const scheduled = await backend.accepted(connectionId, "never", {
        query: "?delay=2",
      });
      const unscheduled = await backend.ask(
        "DELETE",
        `/v1/messages/${scheduled.id}`,
      );
      t.equal(unscheduled.status, 200);
      t.match(unscheduled.json(), { status: "recalled" });

      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.has(1);
      await becomes(kept.id, "delivered");
      const late = await backend.ask("DELETE", `/v1/messages/${kept.id}`);
      t.equal(late.status, 409);
      t.match(late.json(), { code: /^already_(final|sent)$/ });
      t.match(late.headers["content-type"], /^application\/problem\+json/);

      // Due after the recalled one: when it is here, that one would be, too.
      await backend.accepted(connectionId, "after", { query: "?delay=3" });
      await application.has(2);
      t.same(application.texts, ["kept", "after"]);
      const unknown = await backend.ask(
        "DELETE",
        `/v1/messages/m_C${"a".repeat(31)}`,
      );
      t.equal(unknown.status, 404);
    },
  );

  void t.test(
    "Idempotency-Key: replay, another request, one still waiting",
    async (t) => {
      const { connectionId } = await backend.prepare();
      const key = { "idempotency-key": "k1" };
      const first = await backend.push(connectionId, "a", { headers: key });
      const again = await backend.push(connectionId, "a", { headers: key });
      t.equal(first.status, 202);
      t.equal(first.headers["idempotency-replayed"], undefined);
      t.equal(again.status, 202);
      t.equal(again.headers["idempotency-replayed"], "true");
      t.same(again.json(), first.json());
      const other = await backend.push(connectionId, "b", { headers: key });
      t.equal(other.status, 422);
      t.match(other.json<Problem>(), { code: "idempotency_mismatch" });

      const waiting = { "idempotency-key": "k2", prefer: "wait=2" };
      const slow = backend.push(connectionId, "c", { headers: waiting });
      const early = await until(async () => {
        const answer = await backend.push(connectionId, "c", {
          headers: waiting,
        });
        return answer.status === 409 ? answer : undefined;
      });
      t.match(early.json<Problem>(), { code: "idempotency_in_progress" });
      t.ok(early.headers["retry-after"]);
      t.equal((await slow).status, 202);
      const log = `bridge:{${connectionId}}:log`;
      t.equal(await redis.cli("XLEN", log), 2, "each once");
    },
  );

  void t.test(
    "Prefer: wait answers when it is delivered, or when time is up",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const inVain = await backend.push(connectionId, "nobody", {
        headers: { prefer: "wait=1" },
      });
      t.equal(inVain.status, 202);
      t.equal(inVain.headers["preference-applied"], "wait=1");
      t.equal(inVain.json<Accepted>().status, "queued");

      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.has(1);
      const delivered = await backend.push(connectionId, "somebody", {
        query: "?wait=20",
      });
      t.equal(delivered.status, 200);
      t.match(delivered.json<Receipt>(), {
        status: "delivered",
        ack: "client",
      });
    },
  );

  void t.test("a raw socket acks by taking it", async (t) => {
    const { connectionId, url } = await backend.prepare();
    const socket = new WebSocket(
      `${wsFn.url}/ws${new URL(url).search}&welcome=0`,
    );
    t.teardown(() => socket.terminate());
    const frames: string[] = [];
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      frames.push(`${isBinary ? "binary" : "text"} ${data.toString()}`);
    });
    await new Promise((resolve) => socket.once("open", resolve));
    const answer = await backend.push(connectionId, "hello", {
      query: "?wait=20",
    });
    t.equal(answer.status, 200);
    t.match(answer.json<Receipt>(), { status: "delivered", ack: "socket" });
    await backend.push(connectionId, "bytes", {
      headers: { "content-type": "application/octet-stream" },
    });
    await until(() => frames.length === 2);
    t.same(frames, ["text hello", "binary bytes"]);
  });

  void t.test("events of a receipt until its final state", async (t) => {
    for (const accept of ["text/event-stream", "application/x-ndjson"]) {
      const { connectionId, token } = await backend.prepare();
      const { id } = await backend.accepted(connectionId, "watched");
      let text = "";
      let ended = false;
      const request = http.get(
        `${httpUrl}/v1/messages/${id}/events`,
        { headers: { accept } },
        (response) => {
          t.match(response.headers["content-type"], new RegExp(`^${accept}`));
          response.on("data", (chunk: Buffer) => (text += chunk.toString()));
          response.on("end", () => (ended = true));
        },
      );
      t.teardown(() => request.destroy());
      await until(() => text.includes("queued"));
      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.has(1);
      await until(() => ended, { ms: 20_000, message: `${accept} ends` });
      const words = [...text.matchAll(/"status":"(\w+)","to"/g)].map(
        (match) => match[1],
      );
      t.equal(words[0], "queued");
      t.equal(words.at(-1), "delivered");
      if (accept === "text/event-stream") {
        t.match(text, /^event: queued\nid: 1\ndata: \{/);
        t.match(text, /event: delivered\n/);
      } else {
        for (const line of text.trim().split("\n")) JSON.parse(line);
      }
    }
  });
}
