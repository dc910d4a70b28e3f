import type { LinkConditions } from './conditions.ts'
import { Tap } from './tap.ts'
import { Transit, Wire } from './wire.ts'

/*
 * The program between the two ends of user-space links; one for all links of a lab. Its parent moves the devices to where they
 * belong, and changes the conditions while frames are on their way.
 *
 *     host ── tap ─▶ wire ─▶ transit ─▶ tap ── router        and back
 *
 * A frame comes out within a fraction of a millisecond of its time: far-off times by a timer, near ones in short naps.
 */
export type ToWires =
  | { kind: 'add'; link: number; ends: [string, string]; conditions: LinkConditions }
  | { kind: 'change'; link: number; conditions: LinkConditions }
export type FromWires = { kind: 'done'; link: number } | { kind: 'failed'; link: number; reason: string }

class Direction {
  readonly wire: Wire
  readonly #transit = new Transit()
  #to: Tap | undefined

  constructor(conditions: LinkConditions) {
    this.wire = new Wire(conditions)
  }

  /** Where frames come out. */
  leadTo(tap: Tap): void {
    this.#to = tap
  }

  take(frame: Buffer): void {
    const due = this.wire.accept(frame.length, performance.now())
    if (due === undefined) return
    if (due <= performance.now() && this.#transit.due === undefined) return this.#to?.write(frame)
    this.#transit.add(due, Buffer.from(frame))
    wakeAt(due)
  }

  /** Lets out what is due; returns when the next one is. */
  release(now: number): number {
    for (let frame = this.#transit.take(now); frame !== undefined; frame = this.#transit.take(now)) {
      this.#to?.write(frame)
    }
    return this.#transit.due ?? Number.POSITIVE_INFINITY
  }
}

const links = new Map<number, [Direction, Direction]>()
/** Timers come up to a millisecond late: from here on the loop turns until the time has come. */
const TURNING_MS = 1.5
/**
 * Between two turns it sleeps: without, links that always have a frame on its way take a whole processor. What comes in during a nap
 * is seen so much later.
 */
const NAP_MS = 0.1
const nobodyWakes = new Int32Array(new SharedArrayBuffer(4))
let wake = Number.POSITIVE_INFINITY
let timer: NodeJS.Timeout | undefined
let isTurning = false

function wakeAt(due: number): void {
  if (due >= wake) return
  wake = due
  arm()
}

function arm(): void {
  if (isTurning) return
  clearTimeout(timer)
  if (wake === Number.POSITIVE_INFINITY) return
  const left = wake - performance.now()
  if (left > TURNING_MS) {
    timer = setTimeout(arm, left - 1)
    return
  }
  isTurning = true
  setImmediate(turn)
}

function turn(): void {
  isTurning = false
  if (wake - performance.now() > NAP_MS) Atomics.wait(nobodyWakes, 0, 0, NAP_MS)
  const now = performance.now()
  if (now >= wake) {
    wake = Number.POSITIVE_INFINITY
    for (const directions of links.values()) {
      for (const direction of directions) wake = Math.min(wake, direction.release(now))
    }
  }
  arm()
}

async function add({ link, ends, conditions }: Extract<ToWires, { kind: 'add' }>): Promise<void> {
  const { default: ffi } = await import('koffi')
  const there = new Direction(conditions)
  const back = new Direction(conditions)
  back.leadTo(Tap.open(ends[0], ffi, (frame) => there.take(frame)))
  there.leadTo(Tap.open(ends[1], ffi, (frame) => back.take(frame)))
  links.set(link, [there, back])
}

process.on('disconnect', () => process.exit()) // never without the lab it belongs to
process.on('message', (message: ToWires) => void take(message))

async function take(message: ToWires): Promise<void> {
  const { link } = message
  let said: FromWires = { kind: 'done', link }
  try {
    if (message.kind === 'add') await add(message)
    else for (const { wire } of links.get(link) ?? []) wire.change(message.conditions)
  } catch (error) {
    said = { kind: 'failed', link, reason: String(error) }
  }
  process.send?.(said)
}
