// Process edge of the gateway bench: a platform over the folder named on the command line, with limits as shipped but
// so wide that nothing reaches them.
import { startPlatform } from "../../platform/platform.js";

const [directory = "", prewarm = "0"] = process.argv.slice(2);
const platform = await startPlatform({
  functions: [
    {
      description: {
        name: "ws-fn",
        directory,
        protocol: "WS",
        timeoutSeconds: 900,
        initTimeoutSeconds: 60,
        idleSeconds: 600,
        memoryMb: 128,
        concurrency: 1,
        environment: {},
      },
      route: "/ws",
      prewarm: Number(prewarm),
    },
  ],
  env: { PATH: process.env["PATH"] },
  rules: {
    messagesPerSecond: 1e9,
    bytesPerSecond: 1e12,
    countDownstream: true,
  },
});
process.once("SIGTERM", () => {
  platform.kill();
  void platform.close().then(() => process.exit());
});
console.log(`listening 127.0.0.1:${platform.port}`);
