// Baseline `literal`: the literal reading of "a BullMQ queue per connection": every message is one job on the queue
// named by its connection ID, and every open connection has a stock Worker that writes the job to the socket.
// Its settings are the best found that keep what BullMQ promises: all Queues share one auto-pipelining connection, Workers
// share their command connection (each still needs its own blocking one), finished jobs are removed, the events stream
// is not kept, and concurrency is 1, which the order of messages needs.
import { Queue, Worker } from "bullmq";
import { connectRedis, runHalf, serveHttp, serveSockets } from "./baseline.js";

await runHalf({
  async http() {
    const connection = connectRedis({
      enableAutoPipelining: true,
      maxRetriesPerRequest: null,
    });
    const queues = new Map<string, Queue>();
    const queueOf = (id: string): Queue => {
      let queue = queues.get(id);
      if (queue === undefined) {
        queue = new Queue(id, {
          connection,
          defaultJobOptions: { removeOnComplete: true },
          streams: { events: { maxLen: 0 } },
        });
        queues.set(id, queue);
      }
      return queue;
    };
    await serveHttp((id, body) => queueOf(id).add("message", body));
  },
  async ws() {
    const connection = connectRedis({
      enableAutoPipelining: true,
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
      return () => worker.close();
    });
  },
});
