import { createDecipheriv } from 'node:crypto'
import type { Drop } from './contract.ts'
import { type Beginning, firstEpoch, IV_BYTES, nextEpoch, type Epoch } from './keys.ts'
import { AUTH, PACKET_HEADER_BYTES, TAG_BYTES } from './packet.ts'
import { ReplayWindow } from './replay.ts'
import { writeNonce } from './sealer.ts'

const WORD = 0x1_0000_0000

/**
 * Opens the packets of one direction: those of the current epoch, the previous one, and the next, which becomes the current one
 * once a packet of it was opened. A packet that does not open costs one AEAD call at most, and changes nothing.
 */
export class Opener {
  readonly #window = new ReplayWindow()
  readonly #nonce = Buffer.alloc(IV_BYTES)
  #previous: Epoch | undefined
  #current: Epoch
  #next: Epoch | undefined
  /** Why `open` returned nothing. */
  drop: Drop = 'forged'
  /** The packet opened last has the highest number so far. */
  isNewest = false

  constructor(keys: Beginning) {
    this.#current = firstEpoch(keys)
  }

  /** The records inside, or `undefined`: see `drop`. The caller has checked the length. */
  open(packet: Buffer): Buffer | undefined {
    const epoch = this.#epochOf((packet[2]! << 8) | packet[3]!)
    if (epoch === undefined) return this.#refuse('epoch')
    const number = packet.readUInt32BE(8) * WORD + packet.readUInt32BE(12)
    if (!Number.isSafeInteger(number) || !this.#window.isNew(number)) return this.#refuse('replay')
    const header = packet.subarray(0, PACKET_HEADER_BYTES)
    const tagAt = packet.length - TAG_BYTES
    writeNonce(this.#nonce, epoch.iv, header)
    const decipher = createDecipheriv(epoch.aead as 'aes-256-gcm', epoch.key, this.#nonce, AUTH)
    decipher.setAAD(header)
    decipher.setAuthTag(packet.subarray(tagAt))
    const plain = decipher.update(packet.subarray(PACKET_HEADER_BYTES, tagAt))
    try {
      decipher.final()
    } catch {
      return this.#refuse('forged')
    }
    this.isNewest = number > this.#window.highest
    this.#window.take(number)
    if (epoch === this.#next) this.#advance()
    return plain
  }

  #epochOf(number: number): Epoch | undefined {
    if (number === this.#current.number) return this.#current
    if (number === this.#previous?.number) return this.#previous
    if (number !== this.#current.number + 1) return undefined
    this.#next ??= nextEpoch(this.#current)
    return this.#next
  }

  #advance(): void {
    this.#previous = this.#current
    this.#current = this.#next!
    this.#next = undefined
  }

  #refuse(drop: Drop): undefined {
    this.drop = drop
    return undefined
  }
}
