// Ask for one notification from Kafka, and learn at once whether the request was taken. With kafkajs, and lz4-napi because
// results are compressed: npm install kafkajs lz4-napi
//
//     node kafkajs_producer.js 127.0.0.1:9092 receiver@example.org "Alerta" "Se ha detectado."
//
// Needs nothing else of relevo. Exit code 0: taken; 1: rejected, and why; 2: nobody said anything in time.

const { randomUUID } = require("node:crypto");
const { CompressionCodecs, CompressionTypes, Kafka, Partitioners, logLevel } = require("kafkajs");
const lz4 = require("lz4-napi");

CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
});

const REQUESTED = "notifications.requested";
const RESULTS = "notifications.results";
const ANSWER_MS_MAX = 30_000;

async function produce(kafka, request) {
  // Returns when the broker has it. What fails may be produced again as it is: the same id makes a copy harmless.
  const producer = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    createPartitioner: Partitioners.DefaultPartitioner,
  });
  await producer.connect();
  try {
    const messages = [{ key: request.id, value: JSON.stringify(request) }];
    await producer.send({ topic: REQUESTED, acks: -1, messages });
  } finally {
    await producer.disconnect();
  }
}

async function main(bootstrap, to, subject, body) {
  const kafka = new Kafka({ clientId: "example", brokers: bootstrap.split(","), logLevel: logLevel.ERROR });
  const request = { id: randomUUID(), producer: "example", to, subject, body };

  // Where the results end before anything is asked for: nothing about it can be missed.
  const admin = kafka.admin();
  await admin.connect();
  const ends = await admin.fetchTopicOffsets(RESULTS);
  await admin.disconnect();

  const consumer = kafka.consumer({ groupId: `example-${randomUUID()}` });
  await consumer.connect();
  await consumer.subscribe({ topic: RESULTS });
  const answer = new Promise((resolve) => {
    setTimeout(() => resolve(null), ANSWER_MS_MAX);
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ message }) => {
        if (String(message.key) === request.id) resolve(JSON.parse(message.value));
      },
    });
  });
  for (const { partition, high } of ends) consumer.seek({ topic: RESULTS, partition, offset: high });

  await produce(kafka, request);
  const result = await answer;
  await consumer.disconnect();
  if (result === null) {
    console.error(`${request.id}: no answer`);
    return 2;
  }
  console.log(JSON.stringify(result));
  return result.status === "rejected" ? 1 : 0;
}

main(...process.argv.slice(2, 6)).then(
  (code) => process.exit(code),
  (error) => {
    console.error(error);
    process.exit(3);
  },
);
