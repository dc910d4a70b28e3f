import { createHash, randomBytes } from 'node:crypto'
import { test } from 'tap'
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
    t.test('bytes arrive whole and in order, both ways at once, with the writer stopping when asked', async (t) => {
      await using world = await open(makePair)
      const there = randomBytes(3_000_000)
      const back = randomBytes(2_000_000)
      world.near.send(there, 48_611)
      world.far.send(back, 9_973)
      await Promise.all([world.near.ended, world.far.ended])
      t.equal(world.far.digest(), digestOf(there), 'there')
      t.equal(world.near.digest(), digestOf(back), 'and back')
    })

    t.test('half-close: one direction ends, the other goes on', async (t) => {
      await using world = await open(makePair)
      world.near.stream.write(Buffer.from('question'))
      world.near.stream.end()
      await world.far.ended
      t.equal(world.far.text(), 'question')
      world.far.send(Buffer.alloc(400_000, 'answer '), 65_536)
      await world.near.ended
      t.equal(world.near.bytes, 400_000)
      t.notOk(world.near.wasReset || world.far.wasReset)
    })

    t.test('an end without a byte is an end', async (t) => {
      await using world = await open(makePair)
      world.near.stream.end()
      world.near.stream.end()
      await world.far.ended
      t.equal(world.far.bytes, 0)
      world.far.stream.end()
      await world.near.ended
    })

    t.test('reset ends both directions at the other side, once, and nothing follows', async (t) => {
      await using world = await open(makePair)
      world.near.stream.write(Buffer.from('x'))
      await world.far.heard
      world.near.stream.reset()
      world.near.stream.reset()
      await world.far.died
      world.far.stream.write(Buffer.from('nobody listens'))
      world.far.stream.end()
      world.far.stream.consumed(1)
      world.far.stream.reset()
      world.near.stream.write(Buffer.from('nobody listens'))
      world.near.stream.end()
      await turns(20)
      t.same(world.far.log, ['data', 'reset'])
      t.same(world.near.log, [], 'who resets is not told')
    })

    t.test('reset after the own end still reaches the other side', async (t) => {
      await using world = await open(makePair)
      world.near.stream.end()
      await world.far.ended
      world.far.stream.reset()
      await world.near.died
      t.notOk(world.near.log.includes('end'))
    })

    t.test('a reader that does not consume stops the writer, and nothing is lost', async (t) => {
      await using world = await open(makePair)
      const total = 24_000_000
      world.far.hold()
      const sent = Buffer.alloc(total)
      for (let at = 0; at < total; at += 4) sent.writeUInt32BE(at, at)
      world.near.send(sent, 65_536)
      await world.far.heard
      await turns(300)
      t.ok(world.far.bytes <= 8_000_000, `${world.far.bytes} bytes were delivered to a reader that does not read`)
      t.ok(world.near.isBlocked, 'the writer is asked to stop')
      world.far.release()
      await world.far.ended
      t.equal(world.far.digest(), digestOf(sent))
      world.far.stream.end()
      await world.near.ended
    })
  })
}

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
