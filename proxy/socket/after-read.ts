/*
 * Everything that a chunk causes is written as soon as the chunk was handled, in one write:
 *
 *     read ─▶ take(chunk) ─▶ frames, acknowledgements … ─▶ the tasks given to afterRead
 *
 * A microtask or a tick would run no earlier, and entering it costs more than the work itself. Guarded by
 * `npm run bench -- --only requests`.
 */
let isReading = false
let due: (() => void)[] = []

/** Runs the task after the chunk that is being read now; outside of a read, at the end of the turn of the event loop. */
export function afterRead(task: () => void): void {
  if (isReading) due.push(task)
  else setImmediate(task)
}

/** Hands a chunk over, then runs the tasks that were given meanwhile. */
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
