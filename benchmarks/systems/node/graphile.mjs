// graphile-worker, as its own performance test sets it up: a local queue, and completion in batches.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { main, recordStart, url } from "./program.mjs";

const logger = new Logger(() => () => {});
let utils;

await main({
  batch: 5000,
  open: async () => { utils = await makeWorkerUtils({ connectionString: url, logger }); },
  prepare: () => utils.migrate(),
  close: () => utils.release(),
  submitOne: (number) => utils.addJob("noop", { number }),
  submitMany: (numbers) =>
    utils.addJobs(numbers.map((number) => ({ identifier: "noop", payload: { number } }))),
  work: () =>
    run({
      preset: {
        worker: {
          connectionString: url, concurrentJobs: 24, maxPoolSize: 10, logger,
          localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0,
        },
      },
      taskList: { noop: ({ number }) => recordStart(number) },
    }),
});
