// The strongest ready-made peer: BullMQ with nodemailer, no database.
//   node drain.js fill REDIS_PORT COUNT     puts jobs into the queue
//   node drain.js work REDIS_PORT SMTP_PORT sends them until it is ended
import { randomUUID } from "node:crypto";
import { Queue, Worker } from "bullmq";
import nodemailer from "nodemailer";

const [what, redisPort, argument] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(redisPort), db: 3, maxRetriesPerRequest: null };
const body = "Se ha detectado una actividad inusual en el puerto 8000. ".repeat(7);

if (what === "fill") {
  const queue = new Queue("notifications", { connection });
  for (let left = Number(argument); left > 0; left -= 500) {
    const jobs = Array.from({ length: Math.min(500, left) }, () => {
      const id = randomUUID();
      return { name: "deliver", data: { id, to: "receiver@example.com", subject: `Alerta de Sistema ${id}`, body } };
    });
    await queue.addBulk(jobs);
  }
  await queue.close();
} else {
  const transport = nodemailer.createTransport({
    host: "127.0.0.1", port: Number(argument), secure: false, ignoreTLS: true, pool: true,
    maxConnections: 20, maxMessages: Infinity,
  });
  const worker = new Worker("notifications", async (job) => {
    const { to, subject, body: text } = job.data;
    await transport.sendMail({ from: "relevo@example.org", to, subject, text });
  }, { connection, concurrency: 100, removeOnComplete: { count: 0 } });
  worker.on("ready", () => console.log("ready"));
  process.on("SIGTERM", async () => { await worker.close(true); process.exit(0); });
}
