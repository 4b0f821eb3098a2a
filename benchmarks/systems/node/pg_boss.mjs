// pg-boss with large batches, LISTEN/NOTIFY, and its job dependencies, which it calls flows.
import { PgBoss } from "pg-boss";
import { main, recordStart, url } from "./program.mjs";

const QUEUE = "noop";
const CHAIN = 10;
const CHAINS_IN_A_CALL = 50;
const working = process.argv[2] === "work";
const boss = new PgBoss({
  connectionString: url, useListenNotify: working, schedule: false, supervise: working, max: 10,
  // how often finished parents release their children: 1 s is the least, 5 s the default
  flowIntervalSeconds: 1,
});
boss.on("error", (error) => console.error(error));

const job = (number, ref, dependsOn) => ({ ref, name: QUEUE, data: { number }, dependsOn });

async function chains(tasks) {
  const jobs = Array.from({ length: tasks }, (_, n) =>
    job(n, `${n}`, n % CHAIN ? [`${n - 1}`] : undefined));
  const step = CHAIN * CHAINS_IN_A_CALL;
  for (let start = 0; start < tasks; start += step) await boss.flow(jobs.slice(start, start + step));
  return { tasks, edges: tasks - tasks / CHAIN };
}

async function fan(width) {
  const middle = Array.from({ length: width }, (_, n) => job(n + 1, `${n + 1}`, ["0"]));
  const last = job(width + 1, "last", middle.map(({ ref }) => ref));
  await boss.flow([job(0, "0"), ...middle, last]);
  return { tasks: width + 2, edges: 2 * width };
}

await main({
  batch: 5000,
  open: () => boss.start(),
  prepare: () => boss.createQueue(QUEUE, { notify: true }),
  close: () => boss.stop({ graceful: false }),
  submitOne: (number) => boss.send(QUEUE, { number }),
  submitMany: (numbers) => boss.insert(QUEUE, numbers.map((number) => ({ data: { number } }))),
  graph: (shape, size) => (shape === "chains" ? chains(size) : fan(size)),
  work: async () => {
    await boss.start();
    const options = {
      batchSize: 500, localConcurrency: 2, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5,
      notifyPollingIntervalSeconds: 0.5, // released children are not announced
    };
    await boss.work(QUEUE, options, async (jobs) => {
      for (const { data } of jobs) recordStart(data.number);
    });
  },
});
