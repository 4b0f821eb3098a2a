// The verbs that the programs of the Node.js systems have in common.
import fs from "node:fs";

const LOAD_STEP = 0.01;
const LOAD_NUMBERS = 1_000_000_000; // the tasks of a load have numbers from here on
export const url = process.env.BENCHMARK_URL;

const record = Buffer.alloc(16);
let file = null;

// Append the task's number and CLOCK_MONOTONIC in nanoseconds.
export function recordStart(number) {
  file ??= fs.openSync(`${process.env.BENCHMARK_RECORDS}/${process.pid}.bin`, "a");
  record.writeBigInt64LE(BigInt(number), 0);
  record.writeBigInt64LE(process.hrtime.bigint(), 8);
  fs.writeSync(file, record);
}

const sleep = (seconds) => new Promise((wake) => setTimeout(wake, seconds * 1000));
const now = () => Number(process.hrtime.bigint()) / 1e9;

async function bulk(program, first, end) {
  for (let start = first; start < end; start += program.batch) {
    const count = Math.min(end, start + program.batch) - start;
    await program.submitMany(Array.from({ length: count }, (_, index) => start + index));
  }
}

// Submit one by one, and note when each submission returned.
async function paced(program, count, gap) {
  const submitted_at = [];
  for (let number = 0; number < count; number++) {
    await program.submitOne(number);
    submitted_at.push(Number(process.hrtime.bigint()));
    await sleep(gap);
  }
  return { submitted_at };
}

// Submit a hundredth of the rate every hundredth of a second.
async function load(program, rate, seconds) {
  const began = now();
  for (let next = LOAD_NUMBERS; now() - began < seconds; ) {
    const due = LOAD_NUMBERS + Math.round(rate * (now() - began + LOAD_STEP));
    await bulk(program, next, due);
    next = due;
    await sleep(LOAD_STEP - ((now() - began) % LOAD_STEP));
  }
}

async function timed(program, verb, first, second) {
  if (verb === "bulk") await bulk(program, Number(first), Number(first) + Number(second));
  else if (verb === "single") for (let n = 0; n < Number(first); n++) await program.submitOne(n);
  else if (verb === "paced") return paced(program, Number(first), Number(second));
  else if (verb === "load") await load(program, Number(first), Number(second));
  else if (verb === "graph") return program.graph(first, Number(second));
  else throw new Error(`unknown verb: ${verb}`);
}

// Run the verb of the command line, and print what it measured.
export async function main(program) {
  const [verb, first, second] = process.argv.slice(2);
  if (verb === "work") return program.work();
  await program.open();
  if (verb === "prepare") {
    await program.prepare();
    console.log("{}");
  } else {
    const began = now();
    const figures = await timed(program, verb, first, second);
    console.log(JSON.stringify({ seconds: now() - began, ...figures }));
  }
  await program.close();
  process.exit(0);
}
