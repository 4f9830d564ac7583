// Baseline `literal`: the literal reading of "a BullMQ queue per connection": every message is one job on the queue
// named by its connection ID, and every open connection has a stock Worker that writes the job to the socket.
// Its settings are the fastest of those tried that keep what BullMQ promises: finished jobs are removed, all Queues share one
// Redis connection, and so do the Workers for their commands (each still needs a blocking one of its own), and
// concurrency is 1, which the order of messages needs. Auto-pipelining and dropping the events stream made it slower.
import { Queue, Worker } from "bullmq";
import {
  connectRedis,
  EVERYBODY,
  runHalf,
  serveHttp,
  serveSockets,
} from "./baseline.js";

await runHalf({
  async http() {
    const connection = connectRedis({
      maxRetriesPerRequest: null,
    });
    const queues = new Map<string, Queue>();
    const queueOf = (id: string): Queue => {
      let queue = queues.get(id);
      if (queue === undefined) {
        queue = new Queue(id, {
          connection,
          defaultJobOptions: { removeOnComplete: true },
        });
        queues.set(id, queue);
      }
      return queue;
    };
    const push = (id: string, body: string): Promise<unknown> =>
      queueOf(id).add("message", body);
    await serveHttp({
      push,
      // A queue reaches one connection: a broadcast is a job for each.
      async broadcast(body) {
        const ids = await connection.smembers(EVERYBODY);
        await Promise.all(ids.map((id) => push(id, body)));
      },
    });
  },
  async ws() {
    const connection = connectRedis({
      maxRetriesPerRequest: null,
    });
    connection.setMaxListeners(0); // every Worker listens on the shared connection
    await serveSockets(async (id, socket) => {
      const worker = new Worker<string>(
        id,
        async (job) => {
          socket.send(job.data);
        },
        { connection, concurrency: 1 },
      );
      await worker.waitUntilReady();
      await connection.sadd(EVERYBODY, id);
      return async () => {
        await connection.srem(EVERYBODY, id);
        await worker.close();
      };
    });
  },
});
