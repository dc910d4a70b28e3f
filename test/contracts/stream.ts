import { createHash, randomBytes } from 'node:crypto'
import { test, type Test } from 'tap'
import type { ByteStream, ByteStreamEvents } from '../../proxy/tunnel/contract.ts'

export type Ears = ByteStreamEvents

/** Two ends of one open flow; what is written at one is heard at the other. */
export interface StreamPair {
  near: ByteStream
  far: ByteStream
  [Symbol.asyncDispose](): Promise<void>
}

export type MakePair = (near: Ears, far: Ears) => Promise<StreamPair>

/**
 * What every ByteStream does, in a tunnel or on a plain socket (`path: local`): both ends of the pair are ByteStreams.
 * Call it from a test file: `streamContract('tunnel', makePair)`.
 */
export function streamContract(name: string, makePair: MakePair): void {
  test(`stream contract: ${name}`, async (t) => {
    for (const [promise, check] of Object.entries(PROMISES)) {
      t.test(promise, async (t) => {
        await using world = await open(makePair)
        await check(t, world)
      })
    }
  })
}

const PROMISES: Readonly<Record<string, (t: Test, world: World) => Promise<void>>> = {
  'bytes arrive whole and in order, both ways at once, with the writer stopping when asked': bytesArriveWhole,
  'half-close: one direction ends, the other goes on': halfClose,
  'an end without a byte is an end': emptyEnd,
  'reset ends both directions at the other side, once, and nothing follows': reset,
  'reset after the own end still reaches the other side': resetAfterEnd,
  'a reader that does not consume stops the writer, and nothing is lost': backpressure,
}

async function bytesArriveWhole(t: Test, { near, far }: World): Promise<void> {
  const there = randomBytes(3_000_000)
  const back = randomBytes(2_000_000)
  near.send(there, 48_611)
  far.send(back, 9_973)
  await Promise.all([near.ended, far.ended])
  t.equal(far.digest(), digestOf(there), 'every byte arrived there')
  t.equal(near.digest(), digestOf(back), 'and every byte came back')
}

async function halfClose(t: Test, { near, far }: World): Promise<void> {
  near.stream.write(Buffer.from('question'))
  near.stream.end()
  await far.ended
  t.equal(far.text(), 'question', 'what was written before the end arrived')
  far.send(Buffer.alloc(400_000, 'answer '), 65_536)
  await near.ended
  t.equal(near.bytes, 400_000, 'the whole answer came back after the end')
  t.notOk(near.wasReset || far.wasReset, 'neither side was reset')
}

async function emptyEnd(t: Test, { near, far }: World): Promise<void> {
  near.stream.end()
  near.stream.end()
  await far.ended
  t.equal(far.bytes, 0, 'no byte came with the end')
  far.stream.end()
  await near.ended
}

async function reset(t: Test, { near, far }: World): Promise<void> {
  near.stream.write(Buffer.from('x'))
  await far.heard
  near.stream.reset()
  near.stream.reset()
  await far.died
  far.stream.write(Buffer.from('nobody listens'))
  far.stream.end()
  far.stream.consumed(1)
  far.stream.reset()
  near.stream.write(Buffer.from('nobody listens'))
  near.stream.end()
  await turns(20)
  t.same(far.log, ['data', 'reset'], 'the other side hears the reset once, and nothing after it')
  t.same(near.log, [], 'who resets is not told')
}

async function resetAfterEnd(t: Test, { near, far }: World): Promise<void> {
  near.stream.end()
  await far.ended
  far.stream.reset()
  await near.died
  t.notOk(near.log.includes('end'), 'a reset is not taken for an end')
}

async function backpressure(t: Test, { near, far }: World): Promise<void> {
  const total = 24_000_000
  far.hold()
  const sent = Buffer.alloc(total)
  for (let at = 0; at < total; at += 4) sent.writeUInt32BE(at, at)
  near.send(sent, 65_536)
  await far.heard
  await turns(300)
  t.ok(far.bytes <= 8_000_000, `a reader that does not read is given little: ${far.bytes} bytes`)
  t.ok(near.isBlocked, 'the writer is asked to stop')
  far.release()
  await far.ended
  t.equal(far.digest(), digestOf(sent), 'once it reads on, every byte arrives')
  far.stream.end()
  await near.ended
}

type World = Awaited<ReturnType<typeof open>>

async function open(makePair: MakePair) {
  const near = new End()
  const far = new End()
  const pair = await makePair(near, far)
  near.stream = pair.near
  far.stream = pair.far
  return { near, far, [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose]() }
}

/** One end: hears, consumes at once (unless told to hold), and writes as fast as it may. */
class End implements Ears {
  stream!: ByteStream
  readonly log: string[] = []
  bytes = 0
  isBlocked = false
  readonly #hash = createHash('sha256')
  readonly #chunks: Buffer[] = []
  #held = 0
  #isHolding = false
  #left: Buffer | undefined
  #step = 0
  readonly #heard = Promise.withResolvers<void>()
  readonly #ended = Promise.withResolvers<void>()
  readonly #reset = Promise.withResolvers<void>()
  readonly heard = this.#heard.promise
  readonly ended = this.#ended.promise
  readonly died = this.#reset.promise

  get wasReset(): boolean {
    return this.log.includes('reset')
  }

  send(all: Buffer, step: number): void {
    this.#left = all
    this.#step = step
    this.#push()
  }

  hold(): void {
    this.#isHolding = true
  }

  release(): void {
    this.#isHolding = false
    const held = this.#held
    this.#held = 0
    this.stream.consumed(held)
  }

  digest(): string {
    return this.#hash.copy().digest('hex')
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString()
  }

  data = (chunk: Buffer): void => {
    if (this.log.at(-1) !== 'data') this.log.push('data')
    this.bytes += chunk.length
    this.#hash.update(chunk)
    if (this.bytes < 10_000) this.#chunks.push(Buffer.from(chunk))
    this.#heard.resolve()
    if (this.#isHolding) this.#held += chunk.length
    else this.stream.consumed(chunk.length)
  }

  end = (): void => {
    this.log.push('end')
    this.#ended.resolve()
  }

  reset = (): void => {
    this.log.push('reset')
    this.#reset.resolve()
  }

  drain = (): void => {
    this.isBlocked = false
    this.#push()
  }

  #push(): void {
    while (this.#left !== undefined) {
      const chunk = this.#left.subarray(0, this.#step)
      this.#left = this.#left.length > this.#step ? this.#left.subarray(this.#step) : undefined
      const goOn = this.stream.write(chunk)
      if (this.#left === undefined) this.stream.end()
      if (goOn) continue
      this.isBlocked = true
      return
    }
  }
}

function digestOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise<void>((resolve) => setImmediate(resolve))
}
