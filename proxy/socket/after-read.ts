/*
 * What a chunk causes leaves as soon as the chunk is dealt with, in one write:
 *
 *     read ─▶ take(chunk) ─▶ frames, acknowledgements … ─▶ what was given to afterRead
 *
 * A microtask or a tick would come no earlier and costs more to enter than the work there.
 */
let isReading = false
let due: (() => void)[] = []

/** Runs the task after the chunk that is being read now; outside of a read, at the end of the turn of the event loop. */
export function afterRead(task: () => void): void {
  if (isReading) due.push(task)
  else setImmediate(task)
}

/** Hands a chunk over, then does what was asked for meanwhile. */
export function read(take: (chunk: Buffer) => void, chunk: Buffer): void {
  isReading = true
  try {
    take(chunk)
  } finally {
    isReading = false
    if (due.length > 0) runDue()
  }
}

function runDue(): void {
  const tasks = due
  due = []
  for (const task of tasks) task()
}
