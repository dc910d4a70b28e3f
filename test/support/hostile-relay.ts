import type { Duplex } from 'node:stream'

/** What a relay that was taken over does with the chunks of one direction; it sees ciphertext only. */
export type Misbehaviour = 'nothing' | 'tamper' | 'truncate' | 'replay' | 'reorder' | 'inject' | 'stall' | 'flood'

export interface HostileOptions {
  does: Misbehaviour
  /** The chunk, counted from 0, with which it begins; those before pass unchanged. */
  fromChunk: number
}

/**
 * A relay that joins two legs and misbehaves on the way, as a relay does whose machine somebody else controls: it forwards,
 * changes, drops, repeats and invents bytes as it likes. Whoever uses it must see every byte as it was sent, or the end.
 */
export function joinHostile(a: Duplex, b: Duplex, options: HostileOptions): void {
  forward(a, b, options)
  forward(b, a, options)
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    one.on('error', () => undefined)
    one.once('close', () => other.destroy())
  }
}

/** Joins legs of two pairings crosswise: each dialler gets the listener that the other one meant. */
export function spliceCrosswise(one: readonly [Duplex, Duplex], other: readonly [Duplex, Duplex]): void {
  joinHostile(one[0], other[1], { does: 'nothing', fromChunk: 0 })
  joinHostile(other[0], one[1], { does: 'nothing', fromChunk: 0 })
}

function forward(from: Duplex, to: Duplex, { does, fromChunk }: HostileOptions): void {
  let chunks = 0
  let held: Buffer | undefined
  let isStalled = false
  from.on('data', (chunk: Buffer) => {
    if (isStalled || to.destroyed) return
    if (chunks++ < fromChunk) return void to.write(chunk)
    switch (does) {
      case 'nothing':
        return void to.write(chunk)
      case 'tamper': {
        const changed = Buffer.from(chunk)
        changed.writeUInt8(changed.readUInt8(changed.length - 1) ^ 1, changed.length - 1)
        return void to.write(changed)
      }
      case 'truncate':
        to.write(chunk.subarray(0, chunk.length >> 1))
        return void to.end()
      case 'replay':
        to.write(chunk)
        return void to.write(chunk)
      case 'reorder':
        if (held === undefined) held = Buffer.from(chunk)
        else {
          to.write(chunk)
          to.write(held)
          held = undefined
        }
        return
      case 'inject':
        to.write(Buffer.concat([Buffer.of(0x17, 3, 3, 0, 32), Buffer.alloc(32, 7)])) // a TLS record that nobody sealed
        return void to.write(chunk)
      case 'stall':
        isStalled = true
        return
      case 'flood':
        to.write(chunk)
        for (let i = 0; i < 1_000; i++) to.write(Buffer.alloc(16 * 1024, i))
        return
      default:
        does satisfies never
    }
  })
  from.on('end', () => to.end())
}
